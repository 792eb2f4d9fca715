"""Whose bundle it is: ``NAME.edge.sig``, a DSSE envelope of Ed25519, is checked before the bundle is parsed."""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgekit_runtime.bundle import Bundle, open_bundle, verify
from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.files import open_regular
from edgekit_runtime.manifest import canonical_json, strict_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = [
    "MAX_FILE",
    "PAYLOAD_TYPE",
    "Checked",
    "Envelope",
    "Release",
    "check",
    "key_id",
    "pae",
    "read_envelope",
    "read_public_key",
]

PAYLOAD_TYPE: Final = "application/vnd.edgekit.release+json"
MAX_FILE: Final = 1 << 16  # bytes of an envelope or a key file; one signature takes about 600
_MAX_SIGNATURES: Final = 16
_FIELDS: Final = {"name": str, "version": str, "sha256": str, "size": int, "release_counter": int}
_STANDARD: Final = str.maketrans("-_", "+/")  # DSSE: a reader must take both alphabets of base64
_AGAIN: Final = "copy the bundle and its .sig again, both from the same release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is signed: the bundle of this size (bytes) and sha256 (hex) is this release; the counter never falls."""

    name: str
    version: str
    sha256: str
    size: int
    release_counter: int

    def to_bytes(self) -> bytes:
        """Serialise canonically."""
        return canonical_json({"format": "edgekit-release", "schema": 1, **asdict(self)})


class Envelope(NamedTuple):
    """A signature file, of which nothing is verified yet; signatures by key id, which is no more than a hint."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]


class Checked(NamedTuple):
    """A bundle that may be opened; release and the id of the key that vouches for it are None if none was asked for."""

    bundle: Bundle
    release: Release | None
    key: str | None


def pae(payload_type: str, payload: bytes) -> bytes:
    """Give the bytes that are signed. Source: DSSE 1.0.0, protocol.md, PAE."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: "Ed25519PublicKey") -> str:
    """Name a key: sha256 of its DER form, as ``openssl pkey -pubin -outform DER | sha256sum`` gives it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def read_public_key(path: str | os.PathLike[str]) -> "Ed25519PublicKey":
    """Read ``KEY.pub``; no file is E0691, no ``cryptography`` E0690, another content E0108."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        fix = "pip install cryptography (on Debian or Raspberry Pi OS: apt install python3-cryptography)"
        raise MissingError("E0690", "signatures need the package 'cryptography'", why=str(error), fix=fix) from None
    try:
        with open_regular(path) as (file, _):
            data = file.read(MAX_FILE)
    except FileNotFoundError:
        raise MissingError("E0691", f"there is no key {os.fspath(path)!r}", fix="check the path") from None
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PublicKey):
        return key
    why = "it is a private key, which belongs on no device" if b"PRIVATE KEY" in data else "it is no PEM of such a key"
    fix = "name the file that ends in .pub"
    raise UsageError("E0108", f"{os.fspath(path)!r} holds no public Ed25519 key", why=why, fix=fix)


def read_envelope(data: bytes, source: str) -> Envelope:
    """Read a signature file strictly; E0521 calls it ``source``."""
    try:
        _require(len(data) <= MAX_FILE, f"it is larger than {MAX_FILE:,} bytes")
        top = _typed(strict_json(data), {"payload": str, "payloadType": str, "signatures": list})
        rows = [_typed({"keyid": "", **row}, {"keyid": str, "sig": str}) for row in top["signatures"]]
        signatures = tuple((row["keyid"], _decode(row["sig"])) for row in rows)
        _require(top["payloadType"].isascii(), "its payloadType is not ASCII")
        _require(1 <= len(rows) <= _MAX_SIGNATURES, f"it has {len(rows)} signatures, not 1 to {_MAX_SIGNATURES}")
        _require(all(len(value) == 64 for _, value in signatures), "a signature is not 64 bytes")
        return Envelope(top["payloadType"], _decode(top["payload"]), signatures)
    except (TypeError, ValueError) as error:
        raise BundleError("E0521", f"{source} is not a signature file", why=str(error), fix=_AGAIN) from None


def read_release(envelope: Envelope, source: str) -> Release:
    """Read what a verified envelope says: another kind of payload is E0522, a wrong one E0527."""
    if envelope.payload_type != PAYLOAD_TYPE:
        fix = "sign the bundle with `edgekit sign`"
        raise BundleError("E0522", f"{source} signs {envelope.payload_type[:80]!r}, not a bundle", fix=fix)
    try:
        found = _typed(strict_json(envelope.payload), {"format": str, "schema": int, **_FIELDS})
        release = Release(**{name: found[name] for name in _FIELDS})
        _require(release.to_bytes() == envelope.payload, "its format or schema is another, or it is not canonical JSON")
        _require(release.release_counter >= 0, "its release counter is below 0")
    except ValueError as error:
        fix = "install the edgekit-runtime that belongs to the edgekit that signed it"
        raise BundleError("E0527", f"the statement in {source} is not understood", why=str(error), fix=fix) from None
    return release


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _typed(value: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError(f"there should be an object with {', '.join(kinds)} and nothing else")
    for name, kind in kinds.items():
        _require(type(value[name]) is kind, f"{name} has the wrong type")
    return value


def _decode(text: str) -> bytes:
    return base64.b64decode(text.translate(_STANDARD), validate=True)


def _signer(envelope: Envelope, trusted: Sequence["Ed25519PublicKey"], source: str) -> str:
    """Give the id of the trusted key that signed; the ids in the file decide nothing but the message."""
    from cryptography.exceptions import InvalidSignature

    message = pae(envelope.payload_type, envelope.payload)
    for key in trusted:
        for _, signature in envelope.signatures:
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return key_id(key)
    named, wanted = {name for name, _ in envelope.signatures}, {key_id(key) for key in trusted}
    if named & wanted:
        why = "the signature or what it signs was changed"
        raise BundleError("E0524", f"the signature in {source} is false", why=why, fix=_AGAIN)
    ids = [", ".join(sorted(repr(name[:64]) for name in names)) for names in (named, wanted)]
    why = f"it names the keys {ids[0]}; trusted: {ids[1]}"
    raise BundleError("E0523", f"no trusted key signed {source}", why=why, fix="get the .pub of whoever signs")


def check(
    path: str | os.PathLike[str], keys: Sequence[str | os.PathLike[str]] | None, *, min_release_counter: int = 0
) -> Checked:
    """Verify a bundle: its signature, then every byte.

    Args:
        path: The bundle; its signature is ``PATH.sig``.
        keys: Files of trusted keys, one of which must have signed; None takes any bundle that is intact.
        min_release_counter: Refuse older releases.

    Raises:
        MissingError: No bundle, no key or no package ``cryptography``.
        BundleError: Unsigned (E0520), wrongly signed (E0521 to E0528), or not intact.
        UsageError: A file is not what it should be, or no key where one is needed (E0107).
    """
    if keys is None and not min_release_counter:
        return Checked(verify(path), None, None)
    if not keys:
        raise UsageError("E0107", "a signature and its release counter need a key", fix="name KEY.pub of the signer")
    trusted, source = [read_public_key(key) for key in keys], os.fspath(path)
    with open_bundle(path) as (file, size):
        envelope = _envelope_of(source)
        signer = _signer(envelope, trusted, f"{source}.sig")
        release = read_release(envelope, f"{source}.sig")
        if release.release_counter < min_release_counter:
            what = f"{source} has the release counter {release.release_counter}, not {min_release_counter} or more"
            raise BundleError("E0526", what, why="it is an older release", fix="take the latest release")
        data = file.read(size + 1) if size == release.size else b""
    signed = f"{release.name} {release.version}"
    if hashlib.sha256(data).hexdigest() != release.sha256:
        why = f"it is {size:,} bytes and {release.size:,} were signed" if size != release.size else "its sha256 differs"
        raise BundleError("E0525", f"{source} is not the {signed} that was signed", why=why, fix=_AGAIN)
    bundle = Bundle.from_bytes(data, source=source)
    found = f"{bundle.manifest.name} {bundle.manifest.version}"
    if found != signed:
        raise BundleError("E0528", f"{source} is {found}; it was signed as {signed}", fix="sign it with `edgekit sign`")
    return Checked(bundle, release, signer)


def _envelope_of(bundle: str) -> Envelope:
    try:
        with open_regular(f"{bundle}.sig") as (file, _):
            return read_envelope(file.read(MAX_FILE + 1), f"{bundle}.sig")
    except FileNotFoundError:
        fix = "copy the .sig file beside it, or sign it with `edgekit sign`"
        raise BundleError("E0520", f"{bundle} is not signed: there is no {bundle}.sig", fix=fix) from None
