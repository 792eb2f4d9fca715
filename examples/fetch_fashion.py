"""Fetch Fashion-MNIST (MIT licence) into examples/data/fashion-mnist, out of the Debian package that carries it.

The package comes from the system's own package sources (``apt-get download``: nothing is installed, no root is needed)
or from a file.

Usage: python examples/fetch_fashion.py [PACKAGE.deb]
"""  # noqa: INP001 - a script, not a package

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_PACKAGE = "dataset-fashion-mnist"
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
        sys.stdout.write(f"apt-get download {_PACKAGE} (31 MB)\n")
        found = _download()
        if found is None:
            return 6
        package = found
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


def _download() -> bytes | None:
    """Let apt fetch the package; None, with the way out on stderr, where it cannot."""
    if shutil.which("apt-get") is None:
        why = "there is no apt-get here"
    else:
        with tempfile.TemporaryDirectory() as folder:
            # apt as root hands downloads to a user that must be able to write here.
            done = subprocess.run(
                ["apt-get", "-o", "APT::Sandbox::User=", "download", _PACKAGE],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            files = list(Path(folder).glob("*.deb"))
            if done.returncode == 0 and files:
                return files[0].read_bytes()
        why = (done.stderr.strip().splitlines() or ["apt-get gave no reason"])[-1]
    sys.stderr.write(
        f"error: cannot fetch {_PACKAGE}: {why}\n"
        f"  fix: run `apt-get update` first, or fetch the .deb elsewhere and run: {sys.argv[0]} PACKAGE.deb\n"
    )
    return None


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
