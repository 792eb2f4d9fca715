"""Keys and signatures of bundles, on the machine that releases them; devices only read both."""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edgekit_runtime.bundle import Bundle, open_bundle
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.files import open_regular, write_whole
from edgekit_runtime.manifest import canonical_json
from edgekit_runtime.signature import (
    MAX_FILE,
    PAYLOAD_TYPE,
    Release,
    key_id,
    pae,
    read_envelope,
)

__all__ = ["Signed", "make_keys", "sign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What ``sign`` did.

    Attributes:
        file: The signature file.
        key: Id of the key that signed.
        release: What was signed.
        signatures: How many the file has now.
    """

    file: str
    key: str
    release: Release
    signatures: int


def make_keys(path: Path) -> str:
    """Write a new private key (PKCS8, mode 0600) and its public key, ``PATH.pub``; neither file may exist.

    Returns:
        Id of the key.

    Raises:
        UsageError: One of the files exists (E0109), or the folder cannot be written (E0902).
    """
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(f"{path.name}.pub")
    # The public one first: a private key whose public one is lost to an accident would be the worse half.
    _write_new(beside, public, 0o644)
    try:
        _write_new(path, secret, 0o600)
    except BaseException:
        beside.unlink()
        raise
    return key_id(key.public_key())


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        # Exclusive: not even a link is followed. The mode is set before there is anything to read.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        fix = "name another file; keys are never overwritten"
        raise UsageError("E0109", f"{str(path)!r} exists already", fix=fix) from None
    except OSError as error:
        raise UsageError("E0902", f"cannot write {path}", why=error.strerror or str(error)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UsageError("E0902", f"cannot write {path}", why=error.strerror or str(error)) from error


def sign(bundle: str, key: str, *, release_counter: int = 0, replace: bool = False) -> Signed:
    """Verify a bundle and write its signature to ``BUNDLE.sig``.

    Signatures of others over the same statement are kept; one by the same key is renewed.

    Args:
        bundle: Path of the bundle.
        key: Path of the private key.
        release_counter: Must not fall from one release of this bundle to the next.
        replace: Drop a signature file that says something else, such as that of an earlier build.

    Raises:
        MissingError: No bundle (E0650) or no key (E0691).
        BundleError: The bundle is not intact, or the file beside it is no signature file (E0521).
        UsageError: The key is not a private one or others can read it (E0108), or the signature file says something
            else (E0109).
    """
    private = _read_private_key(key)
    with open_bundle(bundle) as (file, size):
        data = file.read(size + 1)
    manifest = Bundle.from_bytes(data, source=bundle).manifest
    release = Release(
        name=manifest.name,
        version=manifest.version,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        release_counter=release_counter,
    )
    payload, own = release.to_bytes(), key_id(private.public_key())
    others = () if replace else _kept(f"{bundle}.sig", payload)
    signatures = [(name, value) for name, value in others if name != own]
    signatures.append((own, private.sign(pae(PAYLOAD_TYPE, payload))))
    rows = [{"keyid": name, "sig": base64.b64encode(value).decode()} for name, value in signatures]
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": rows}
    read_envelope(canonical_json(envelope), "the new signature")  # what is written can be read
    write_whole(f"{bundle}.sig", canonical_json(envelope) + b"\n")
    return Signed(file=f"{bundle}.sig", key=own, release=release, signatures=len(signatures))


def _kept(path: str, payload: bytes) -> tuple[tuple[str, bytes], ...]:
    """Give the signatures that a file has already, if they are over the same statement."""
    try:
        with open_regular(path) as (file, _):
            envelope = read_envelope(file.read(MAX_FILE + 1), path)
    except FileNotFoundError:
        return ()
    if (envelope.payload_type, envelope.payload) != (PAYLOAD_TYPE, payload):
        why = "it is of other bytes or has another release counter"
        raise UsageError("E0109", f"{path} signs something else", why=why, fix="replace it with --replace")
    return envelope.signatures


def _read_private_key(path: str) -> Ed25519PrivateKey:
    try:
        with open_regular(path) as (file, status):
            if status.st_mode & 0o077:
                fix = f"chmod 600 {path}; if others use this machine, make a new key"
                raise UsageError("E0108", f"others can read the private key {path!r}", fix=fix)
            data = file.read(MAX_FILE)
    except FileNotFoundError:
        raise MissingError("E0691", f"there is no key {path!r}", fix="make one with `edgekit keygen`") from None
    why = "it is no PEM of such a key"
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        key, why = None, "it is locked with a password, which edgekit does not ask for"
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if b"PUBLIC KEY" in data:
        why = "it is a public key"
    # Without the cause: what a parser says about a key may quote it.
    raise UsageError("E0108", f"{path!r} holds no private Ed25519 key", why=why, fix="make one with `edgekit keygen`")
