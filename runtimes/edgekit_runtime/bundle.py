"""The ``.edge`` file: one deterministic zip that is refused unless every byte is where its manifest puts it.

Digests per member are not enough: of 10,017 single-byte flips over a small zip 601 went unseen, because headers carry
bytes that no reader looks at. So the reader derives each header from the manifest and the members, and the file must
equal that, byte for byte. Nothing is compressed: the size on disk is the size in memory.
"""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError, MissingError
from edgekit_runtime.files import open_regular, write_whole
from edgekit_runtime.manifest import MAX_MANIFEST_BYTES, Manifest, Member, ModelEntry, Role, Runtime, TaskName
from edgekit_runtime.manifest import strict_json as parse_json

__all__ = ["Bundle", "open_bundle", "pack", "verify", "write_bundle"]

_MANIFEST = b"manifest.json"
_MAX_BYTES: Final = 2**32 - 2  # offsets are 32 bits; zip64 would be a second way to say the same
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_DATE: Final = 0x0021  # 1980-01-01, the zero of DOS time
_MODE: Final = 0o100644 << 16
_ROLES: Final[Mapping[str, Role]] = {
    "model.onnx": "model",
    "model.tflite": "model",
    "preprocess.json": "preprocess",
    "tokenizer.json": "tokenizer",
    "labels.json": "labels",
    "golden.json": "golden",
    "golden/": "golden",
    "parity.json": "parity",
    "provenance.json": "provenance",
    "licence.txt": "licence",
}


def _local_header(name: bytes, size: int, crc: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name


def _central_header(name: bytes, size: int, crc: int, offset: int) -> bytes:
    made_by_unix = 3 << 8 | 20
    fields = (20, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0, _MODE, offset)
    return _CENTRAL.pack(b"PK\1\2", made_by_unix, *fields) + name


def _frame(members: Iterable[tuple[bytes, bytes | memoryview]]) -> tuple[list[tuple[bytes, bytes | memoryview]], bytes]:
    """Derive all bytes that are not content: a header for each member, and the directory at the end."""
    framed: list[tuple[bytes, bytes | memoryview]] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in members:
        crc = zlib.crc32(content)
        header = _local_header(name, len(content), crc)
        directory.append(_central_header(name, len(content), crc, offset))
        framed.append((header, content))
        offset += len(header) + len(content)
    count, size = len(directory), sum(map(len, directory))
    end = _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)
    return framed, b"".join(directory) + end


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle, held in memory: what was checked is what is used.

    Attributes:
        manifest: What is inside.
        digest: sha256 of the whole file, hex.
    """

    manifest: Manifest
    digest: str
    _members: Mapping[str, memoryview]

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "the file") -> "Bundle":
        """Verify ``data`` completely.

        Args:
            data: The whole file.
            source: How messages call it.

        Raises:
            BundleError: Any byte differs from what the manifest derives.
        """
        _check_start(data, source)
        raw_manifest = _read_manifest(data, source)
        manifest = Manifest.from_bytes(raw_manifest)
        view = memoryview(data)
        start = _LOCAL.size + len(_MANIFEST) + len(raw_manifest)
        wanted: list[tuple[bytes, bytes | memoryview]] = [(_MANIFEST, raw_manifest)]
        contents: dict[str, memoryview] = {}
        expected = _file_size(manifest, len(raw_manifest))
        if len(data) != expected:
            code, odd = ("E0502", "it was cut off") if len(data) < expected else ("E0503", "something was added")
            raise BundleError(
                code,
                f"{source} is {len(data):,} bytes; its manifest says {expected:,}",
                why=odd,
                fix="copy or download the bundle again",
            )
        for member in manifest.members:
            start += _LOCAL.size + len(member.name)
            content = view[start : start + member.size]
            if hashlib.sha256(content).hexdigest() != member.sha256:
                raise _damaged(
                    "E0505", f"{member.name} in {source} is not what the manifest says", "its sha256 differs"
                )
            wanted.append((member.name.encode(), content))
            contents[member.name] = content
            start += member.size
        _check_frame(view, wanted, source)
        return cls(manifest, hashlib.sha256(data).hexdigest(), contents)

    def read(self, name: str) -> bytes:
        """Give a member's content.

        Raises:
            BundleError: There is no such member.
        """
        try:
            return bytes(self._members[name])
        except KeyError:
            raise BundleError("E0511", f"the bundle has no member {name!r}") from None

    def json(self, name: str) -> object:
        """Parse a JSON member; numbers with a fraction are allowed, duplicate keys and NaN are not."""
        try:
            return parse_json(self.read(name), floats=True)
        except ValueError as error:
            raise BundleError("E0511", f"{name} is not strict JSON", why=str(error)) from None

    def npy(self, name: str) -> NDArray[np.generic]:
        """Read an array member; Python objects are never unpickled."""
        try:
            array: NDArray[np.generic] = np.load(io.BytesIO(self.read(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError("E0511", f"{name} is not a plain .npy array", why=str(error)) from None
        return array

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all members but the manifest."""
        return frozenset(self._members)


def _damaged(code: str, what: str, why: str) -> BundleError:
    return BundleError(code, what, why=why, fix="copy or download the bundle again")


def _file_size(manifest: Manifest, manifest_size: int) -> int:
    sizes = [(len(_MANIFEST), manifest_size), *((len(member.name), member.size) for member in manifest.members)]
    return _END.size + sum(_LOCAL.size + _CENTRAL.size + 2 * name + size for name, size in sizes)


def _check_start(data: bytes, source: str) -> None:
    if data.startswith(_LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, 0, 0, 0, 0, 0)[:14]):
        return
    head = data[:256].lstrip().lower()
    why, fix = "it does not start like an edgekit bundle", "check the path; a bundle is written by `edgekit build`"
    if not data:
        why, fix = "the file is empty", "copy or download the bundle again"
    elif head.startswith(b"version https://git-lfs"):
        why, fix = "it is a Git LFS pointer, not the file that it points to", "run `git lfs pull`"
    elif head.startswith((b"<!doctype", b"<html", b"<?xml")):
        why, fix = "it is a web page, perhaps an error or login page", "download the bundle itself and try again"
    elif head.startswith(b"pk\3\4"):
        why = "it is a zip file, but not one written by edgekit"
    raise BundleError("E0501", f"{source} ({len(data):,} bytes) is not an edgekit bundle", why=why, fix=fix)


def _read_manifest(data: bytes, source: str) -> bytes:
    if len(data) < _LOCAL.size + len(_MANIFEST):
        raise _damaged("E0502", f"{source} is {len(data):,} bytes, too short for a manifest", "it was cut off")
    size, name_size = _LOCAL.unpack_from(data)[8:10]
    start = _LOCAL.size + len(_MANIFEST)
    if name_size != len(_MANIFEST) or data[_LOCAL.size : start] != _MANIFEST:
        raise _damaged("E0504", f"{source} does not begin with its manifest", "a header differs from the derived one")
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            "E0510", f"the manifest of {source} is {size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read"
        )
    if len(data) < start + size:
        raise _damaged("E0502", f"{source} is {len(data):,} bytes and ends inside its manifest", "it was cut off")
    return data[start : start + size]


def _check_frame(view: memoryview, wanted: list[tuple[bytes, bytes | memoryview]], source: str) -> None:
    framed, tail = _frame(wanted)
    position = 0
    for (header, content), (name, _) in zip(framed, wanted, strict=True):
        if view[position : position + len(header)] != header:
            raise _damaged("E0504", f"the header of {name.decode()} in {source} is wrong", "it is not the derived one")
        position += len(header) + len(content)
    if view[position:] != tail:
        raise _damaged("E0504", f"the directory at the end of {source} is wrong", "it is not the derived one")


@contextmanager
def open_bundle(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file that may be a bundle, and give its size in bytes; nothing of it is read.

    Raises:
        MissingError: There is no such file.
        UsageError: ``path`` is not a regular file.
        BundleError: It is larger than a bundle can be.
    """
    try:
        with open_regular(path) as (file, status):
            if status.st_size > _MAX_BYTES:
                raise BundleError("E0510", f"{os.fspath(path)} is {status.st_size:,} bytes, more than a bundle can be")
            yield file, status.st_size
    except FileNotFoundError:
        raise MissingError("E0650", f"there is no bundle {os.fspath(path)!r}", fix="check the path") from None


def verify(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle once and check every byte of it.

    Raises:
        MissingError: There is no such file.
        UsageError: ``path`` is not a regular file.
        BundleError: The file is not an intact bundle.
    """
    with open_bundle(path) as (file, size):
        data = file.read(size + 1)
    return Bundle.from_bytes(data, source=os.fspath(path))


def _role(name: str) -> Role:
    return _ROLES.get(name) or _ROLES.get(name.partition("/")[0] + "/") or "extra"


def pack(
    *,
    name: str,
    version: str,
    task: TaskName,
    target: str,
    models: Mapping[Runtime, ModelEntry],
    members: Mapping[str, bytes],
    calibration_sha256: str = "",
) -> bytes:
    """Build the bytes of a bundle; the same arguments in any order give the same bytes.

    Raises:
        BundleError: A name, a size or a field of the manifest is not allowed.
    """
    order = list(dict.fromkeys(_ROLES.values()))
    roles = {key: _role(key) for key in members}
    rank = {role: place for place, role in enumerate(order)}
    keys = sorted(members, key=lambda key: (rank.get(roles[key], len(rank)), key))
    manifest = Manifest(
        name=name,
        version=version,
        task=task,
        target=target,
        models=models,
        calibration_sha256=calibration_sha256,
        members=tuple(
            Member(name=key, role=roles[key], sha256=hashlib.sha256(members[key]).hexdigest(), size=len(members[key]))
            for key in keys
        ),
    )
    raw = manifest.to_bytes()
    if len(raw) > MAX_MANIFEST_BYTES or _file_size(manifest, len(raw)) > _MAX_BYTES:
        raise BundleError("E0510", "the bundle would be larger than a reader accepts")
    framed, tail = _frame([(_MANIFEST, raw), *((key.encode(), members[key]) for key in keys)])
    data = b"".join(part for pair in framed for part in pair) + tail
    Bundle.from_bytes(data, source="the new bundle")  # what is written can be read
    return data


def write_bundle(
    path: str | os.PathLike[str],
    *,
    name: str,
    version: str,
    task: TaskName,
    target: str,
    models: Mapping[Runtime, ModelEntry],
    members: Mapping[str, bytes],
    calibration_sha256: str = "",
) -> str:
    """Write a bundle so that the path holds either the old file or the whole new one, whatever happens in between.

    Returns:
        sha256 of the file, hex.

    Raises:
        BundleError: A name, a size or a field of the manifest is not allowed; nothing is written.
        UsageError: The folder cannot be written.
    """
    data = pack(
        name=name,
        version=version,
        task=task,
        target=target,
        models=models,
        members=members,
        calibration_sha256=calibration_sha256,
    )
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()
