"""Fetching pinned files with the host's own clients: packages with apt's downloader, wheels with pip.

Neither installs anything. A file counts as here when its sha256 is right; it is written under another name first.
"""

import os
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Sequence
from importlib import util
from pathlib import Path

from edgekit.cache import file_digest
from edgekit.emulator.pins import TAGS, Pin, read_pins
from edgekit_runtime.errors import MissingError

__all__ = ["CONTAINER", "fetch_packages", "fetch_wheels", "lacking", "mirrors", "require_clients"]

CONTAINER = (
    'in a container: docker run --rm -it -v "$PWD":/here -w /here python:3.11-bookworm '
    "sh -c \"pip install 'edgekit[build,onnx,tflite]' && edgekit emulator setup && bash\""
)
_CLIENTS = ("apt-get", "apt-config", "dpkg-deb")
_PARTIAL = ".part"


def require_clients() -> None:
    """See that packages and wheels can be fetched and unpacked here.

    Raises:
        MissingError: A client is not here (E0670, E0671), or the processor is no x86-64 one (E0672).
    """
    if os.uname().machine != "x86_64" or sys.platform != "linux":
        raise MissingError(
            "E0672",
            f"the emulator runs on x86-64 Linux, not on {os.uname().sysname} {os.uname().machine}",
            fix="use such a machine; on ARM itself run python -m edgekit_runtime selftest",
        )
    absent = [name for name in _CLIENTS if shutil.which(name) is None]
    if absent:
        raise MissingError(
            "E0670",
            f"the emulator is made of Debian 12 packages, and {', '.join(absent)} is not here to fetch and unpack them",
            fix=CONTAINER,
        )
    if util.find_spec("pip") is None:
        raise MissingError("E0671", "pip, which fetches the engines, is not in this environment", fix=_ENSURE_PIP)


_ENSURE_PIP = f"{Path(sys.executable).name} -m ensurepip"


def mirrors(given: str | None) -> tuple[str, ...]:
    """Give the addresses to try for a package: ``given`` or what the host's apt uses for Debian, then the archive.

    Raises:
        MissingError: The host uses no mirror of Debian, and none is given (E0673).
    """
    archive = read_pins().archive
    if given is not None:
        return (given.rstrip("/"), archive)
    # Without release files, because a fresh container has sources and no lists yet.
    command = ["apt-get", "--no-release-info", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listing = _output(command)
    addresses = dict.fromkeys(line.strip().rstrip("/") for line in listing.splitlines())
    found = tuple(address for address in addresses if address.endswith("/debian"))
    if not found:
        raise MissingError(
            "E0673",
            "apt on this host has no mirror of Debian among its sources",
            fix=f"edgekit emulator setup --mirror http://deb.debian.org/debian, or {CONTAINER}",
        )
    return (*found, archive)


def lacking(pins: Iterable[Pin], folder: Path) -> tuple[Pin, ...]:
    """Give the files that are not, whole and right, in ``folder``; a finished one of a killed fetch is taken over."""
    missing = []
    for pin in pins:
        partial = folder / (pin.file + _PARTIAL)
        if _is(partial, pin):
            partial.replace(folder / pin.file)
        if not _is(folder / pin.file, pin):
            missing.append(pin)
    return tuple(missing)


def fetch_packages(pins: Sequence[Pin], folder: Path, addresses: Sequence[str]) -> None:
    """Fetch Debian packages into ``folder``, those that one address lacks from the next.

    Raises:
        MissingError: An address has something else under the name (E0674), or none has it (E0675).
    """
    wrong: list[str] = []
    missing, said = lacking(pins, folder), ""
    for address in addresses:
        if not missing:
            return
        said = _download(missing, folder, address) or said
        for pin in missing:
            failed = folder / f"{pin.file}{_PARTIAL}.FAILED"  # where apt puts what has another digest
            wrong += [f"{pin.file} of {address}"] if failed.exists() else []
            failed.unlink(missing_ok=True)
            partial = folder / (pin.file + _PARTIAL)
            if not _is(partial, pin):
                partial.unlink(missing_ok=True)
        missing = lacking(missing, folder)
    if missing and wrong:
        raise _not_pinned(wrong[0])
    if missing:
        raise MissingError(
            "E0675",
            f"{missing[0].file} could not be fetched from {' or '.join(addresses)}",
            why=_last_lines(said),
            fix="see that this machine reaches the mirror, or name another with --mirror; Debian keeps all past "
            "versions at snapshot.debian.org",
        )


def _download(pins: Sequence[Pin], folder: Path, address: str) -> str:
    """Let apt fetch what it can, with its own proxies and credentials; give what it complained about."""
    methods = _output(["apt-config", "shell", "FOUND", "Dir::Bin::methods/d"]).partition("'")[2].partition("'")[0]
    base = "copy:" + address.removeprefix("file://") if address.startswith("file:/") else address
    command = [str(Path(methods).parent / "apt-helper"), "-o", "APT::Sandbox::User=root", "download-file"]
    for pin in pins:
        command += [f"{base}/{urllib.parse.quote(pin.place)}", str(folder / (pin.file + _PARTIAL))]
        command.append(f"SHA256:{pin.sha256}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr


def fetch_wheels(pins: Sequence[Pin], folder: Path) -> None:
    """Fetch wheels for another machine into ``folder``, from the package index that pip is set up for.

    Raises:
        MissingError: pip cannot get one (E0676), or it is another file (E0674).
    """
    for pin in lacking(pins, folder):
        aside = folder / "pip"
        shutil.rmtree(aside, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--dest", str(aside)]
        for tag in TAGS[pin.part]:
            command += ["--platform", tag]
        done = subprocess.run([*command, f"{pin.name}=={pin.version}"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MissingError(
                "E0676",
                f"pip could not fetch {pin.file}",
                why=_last_lines(done.stderr),
                fix="see that pip reaches a package index that has it: pip config list",
            )
        if not _is(aside / pin.file, pin):
            got = ", ".join(path.name for path in aside.iterdir())
            raise _not_pinned(f"{pin.file} of pip's package index, which gave {got},")
        (aside / pin.file).replace(folder / pin.file)
        shutil.rmtree(aside)


def _not_pinned(what: str) -> MissingError:
    return MissingError(
        "E0674",
        f"{what} is not the file that edgekit was tested with",
        why="its sha256 differs; it was not unpacked",
        fix="run it again; if it stays so, name another mirror with --mirror, or take a newer edgekit",
    )


def _is(path: Path, pin: Pin) -> bool:
    return path.is_file() and path.stat().st_size == pin.size and file_digest(path) == pin.sha256


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-3:])
