"""Fetch Fashion-MNIST (MIT licence) into examples/data/fashion-mnist, out of the Debian package that carries it.

Usage: python examples/fetch_fashion.py [PACKAGE.deb]
"""  # noqa: INP001 - a script, not a package

import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

_NAME = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
_URL = f"https://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/{_NAME}"
_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
_FILES = tuple(f"{split}-{part}-ubyte.gz" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1"))


def main() -> int:
    """Fetch, check and unpack; does nothing when the files are there."""
    folder = Path(__file__).parent / "data" / "fashion-mnist"
    if all((folder / name).is_file() for name in _FILES):
        sys.stdout.write(f"{folder} is complete\n")
        return 0
    if len(sys.argv) > 1:
        package = Path(sys.argv[1]).read_bytes()
    else:
        sys.stdout.write(f"fetching {_URL} (31 MB)\n")
        with urllib.request.urlopen(_URL, timeout=120) as answer:
            package = answer.read()
    digest = hashlib.sha256(package).hexdigest()
    if digest != _SHA256:
        sys.stderr.write(f"error: the package has sha256 {digest}, wanted is {_SHA256}; nothing was unpacked\n")
        return 5
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(_ar_member(package, "data.tar.xz")), mode="r:xz") as archive:
        for name in _FILES:
            stream = archive.extractfile(f"./usr/share/datasets/fashion-mnist/{name}")
            if stream is None:
                raise RuntimeError(f"the package lacks {name}")
            (folder / name).write_bytes(stream.read())
    sys.stdout.write(f"wrote {len(_FILES)} files to {folder}\n")
    return 0


def _ar_member(package: bytes, wanted: str) -> bytes:
    """Give one member of an ``ar`` archive, which is what a .deb is: 60-byte headers, members padded to even sizes."""
    at = len(b"!<arch>\n")
    while at + 60 <= len(package):
        name = package[at : at + 16].decode("ascii").strip().rstrip("/")
        size = int(package[at + 48 : at + 58])
        if name == wanted:
            return package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise RuntimeError(f"the package has no member {wanted}")


if __name__ == "__main__":
    sys.exit(main())
