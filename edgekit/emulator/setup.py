"""Preparing the emulator in the cache: fetch, check, unpack, compile, prove. Nothing of the host is changed.

A part is stamped last, so that a killed setup goes on with the files that were whole.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgekit.emulator.cores import CORES
from edgekit.emulator.fetch import fetch_packages, fetch_wheels, lacking, mirrors, require_clients
from edgekit.emulator.home import COUNTER_SOURCES, Home
from edgekit.emulator.pins import Pin, read_pins
from edgekit.emulator.view import guest_view
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["prepare", "remove"]

_COMPILERS = ("cc", "gcc", "clang")
_PROOF = {
    "aarch64": "import numpy, onnxruntime, ai_edge_litert.interpreter",
    "armv7": "import numpy, tflite_runtime.interpreter",
}
_ALSO = ", argparse, base64, dataclasses, hashlib, importlib.metadata, json, platform, resource, unicodedata, zipfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What the steps of one setup share."""

    home: Home
    addresses: tuple[str, ...]
    tell: Callable[[str], None]


def prepare(arches: Sequence[str], *, home: Home, mirror: str | None, tell: Callable[[str], None]) -> None:
    """Make what is not ready of the emulator.

    Args:
        arches: ``aarch64``, ``armv7`` or both.
        home: Where.
        mirror: Address of a Debian mirror; None takes that of the host's apt.
        tell: Shows one line.

    Raises:
        MissingError: Something cannot be had here (E0670-E0676, E0678).
        UsageError: The folder cannot be written (E0162).
    """
    with _locked(home):
        parts = [part for part in ("qemu", *arches) if not home.is_ready(part)]
        if parts:
            require_clients()
            step = _Step(home=home, addresses=mirrors(mirror), tell=tell)
            _announce(step, parts)
            for part in parts:
                _make(step, part)
            shutil.rmtree(home.downloads, ignore_errors=True)
        if not home.is_ready("counter"):
            _compile(home, tell)
        tell(f"the emulator is ready in {home.root}")


def remove(home: Home) -> None:
    """Delete all that ``prepare`` made."""
    if home.root.is_dir():
        with _locked(home):
            shutil.rmtree(home.root)


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Let one setup run at a time; the kernel frees the lock of a killed one."""
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(home.root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            "E0162",
            f"the folder {home.root} cannot be used: {error.strerror or error}",
            fix="set EDGEKIT_CACHE to a folder that you can write to",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _announce(step: _Step, parts: Sequence[str]) -> None:
    step.home.downloads.mkdir(exist_ok=True)
    pins = [pin for part in parts for pin in read_pins().of(part)]
    missing = lacking(pins, step.home.downloads)
    here = "" if len(missing) == len(pins) else f"; {len(pins) - len(missing)} are here from an earlier setup"
    size = sum(pin.size for pin in missing) / 1e6
    step.tell(
        f"{', '.join(parts)}: fetches {len(missing)} files, {size:.0f} MB, packages from {step.addresses[0]} and "
        f"wheels with pip{here}; unpacked into {step.home.root}"
    )


def _make(step: _Step, part: str) -> None:
    """Fetch, unpack and prove one part."""
    pins, folder = read_pins().of(part), step.home.part(part)
    packages, wheels = ([pin for pin in pins if pin.is_wheel is wanted] for wanted in (False, True))
    step.tell(f"{part}: {len(packages)} Debian packages, {_megabytes(packages)} MB")
    fetch_packages(packages, step.home.downloads, step.addresses)
    if wheels:
        names = ", ".join(f"{pin.name} {pin.version}" for pin in wheels)
        step.tell(f"{part}: {len(wheels)} wheels, {_megabytes(wheels)} MB: {names}")
        fetch_wheels(wheels, step.home.downloads)
    step.tell(f"{part}: unpack")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for pin in packages:
        _unpack(step.home.downloads / pin.file, folder if part == "qemu" else folder / "sysroot")
    for pin in wheels:
        with zipfile.ZipFile(step.home.downloads / pin.file) as wheel:
            wheel.extractall(folder / "site")
    if part == "qemu":
        _trim(folder)
    else:
        step.tell(f"{part}: first run of the guest")
        _prove(step.home, part)
    step.home.seal(part)


def _megabytes(pins: Sequence[Pin]) -> str:
    return f"{sum(pin.size for pin in pins) / 1e6:.1f}"


def _unpack(package: Path, folder: Path) -> None:
    done = subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(
            "E0162",
            f"{package.name} could not be unpacked into {folder}",
            why=done.stderr.strip(),
            fix="see that the disk has 500 MB free, then run it again",
        )


def _trim(folder: Path) -> None:
    """Drop the emulators of other processors, which are most of the package."""
    for path in (folder / "usr/bin").iterdir():
        if path.name not in {"qemu-aarch64", "qemu-arm"}:
            path.unlink()
    shutil.rmtree(folder / "usr/share")


def _prove(home: Home, arch: str) -> None:
    """Import the engines once; Python keeps what it compiled, which the lanes then need not do.

    Raises:
        MissingError: The guest does not start (E0678).
    """
    core = next(core for core in CORES.values() if core.arch == arch)
    with guest_view(home, core) as view:
        arguments = ["-c", _PROOF[arch] + _ALSO]
        command = home.command(arch=arch, cpu=core.name, sysroot=view / "sysroot", plugin=(), arguments=arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd=view)
    if done.returncode != 0:
        raise MissingError(
            "E0678",
            f"the emulated Python for {arch} does not run (exit {done.returncode})",
            why=" | ".join(done.stderr.strip().splitlines()[-3:]),
            fix="this is a fault of edgekit or of this kernel; report it with the lines above",
        )


def _compile(home: Home, tell: Callable[[str], None]) -> None:
    """Compile the plugin that counts instructions; without a compiler the lanes answer but do not count."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        tell(f"no C compiler is here, so {_UNCOUNTED}")
        return
    tell("counter: compile")
    home.plugin.parent.mkdir(exist_ok=True)
    for name in COUNTER_SOURCES:
        (home.plugin.parent / name).write_bytes(resources.files(__package__).joinpath(name).read_bytes())
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", home.plugin.name, COUNTER_SOURCES[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.plugin.parent)
    if done.returncode == 0:
        home.seal("counter")
    else:
        tell(f"{Path(compiler).name} does not compile the counting plugin, so {_UNCOUNTED}\n{done.stderr.strip()}")


_UNCOUNTED = "instructions will not be counted; apt install gcc libc6-dev, then run this again"
