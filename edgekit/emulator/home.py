"""Where the prepared emulator lies, and which of its parts are ready."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from edgekit.cache import default_root
from edgekit.emulator.pins import read_pins
from edgekit_runtime.errors import MissingError

__all__ = ["COUNTER_SOURCES", "Home", "require"]

COUNTER_SOURCES: Final = ("count.c", "instruction_class.h")
_STAMP = "ready.json"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of the emulator.

    Attributes:
        root: It holds one folder for each part: ``qemu`` for this machine, ``counter`` with the counting plugin, and
            ``aarch64`` and ``armv7``, each with ``sysroot`` (Python of Debian 12) and ``site`` (wheels).
    """

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """Give the one in edgekit's cache."""
        return cls(default_root() / "emulator")

    @property
    def downloads(self) -> Path:
        """Where files lie until they are unpacked."""
        return self.root / "downloads"

    @property
    def plugin(self) -> Path:
        """The compiled counting plugin."""
        return self.root / "counter" / "libcount.so"

    def part(self, name: str) -> Path:
        """Give the folder of a part, whether it is there or not."""
        return self.root / name

    def is_ready(self, part: str) -> bool:
        """Tell whether a part is whole, and made of what the table (or the plugin's source) says today."""
        try:
            held = json.loads((self.part(part) / _STAMP).read_bytes())
        except (OSError, ValueError):
            return False
        return bool(held == _stamp(part))

    def seal(self, part: str) -> None:
        """Say that a part is whole; the last step of making it."""
        aside = self.part(part) / f"{_STAMP}.tmp"
        aside.write_text(json.dumps(_stamp(part)), encoding="utf-8")
        aside.replace(self.part(part) / _STAMP)

    def command(
        self, *, arch: str, cpu: str, sysroot: Path, plugin: Sequence[str], arguments: Sequence[str]
    ) -> list[str]:
        """Give the command that runs the guest's Python.

        Args:
            arch: ``aarch64`` or ``armv7``.
            cpu: As the emulator knows it.
            sysroot: What the guest finds under ``/`` before it finds the host's own files.
            plugin: Options that load the counting plugin; may be empty.
            arguments: Of Python.
        """
        qemu, guest = self.part("qemu"), self.part(arch)
        paths = [str(guest / "site")]
        variables = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
        if arch == "armv7":  # numpy and its libraries come from Debian
            paths.append(str(sysroot / "usr/lib/python3/dist-packages"))
            folders = (str(sysroot / "usr/lib/arm-linux-gnueabihf" / name) for name in ("blas", "lapack"))
            variables["LD_LIBRARY_PATH"] = ":".join(folders)
        variables["PYTHONPATH"] = ":".join(paths)
        emulator = "qemu-aarch64" if arch == "aarch64" else "qemu-arm"
        # Nothing is installed, so the loader is told where the libraries of the emulator are.
        loader = [str(qemu / "lib64/ld-linux-x86-64.so.2"), "--library-path"]
        loader += [":".join(str(qemu / folder) for folder in _LIBRARIES), str(qemu / "usr/bin" / emulator)]
        options = [option for name, value in variables.items() for option in ("-E", f"{name}={value}")]
        python = [str(sysroot / "usr/bin/python3.11"), "-S", *arguments]
        return [*loader, "-cpu", cpu, "-L", str(sysroot), *options, *plugin, *python]


def require(home: Home, arch: str) -> None:
    """See that a guest can run.

    Raises:
        MissingError: It is not set up (E0677).
    """
    if home.is_ready("qemu") and home.is_ready(arch):
        return
    raise MissingError(
        "E0677",
        f"the emulator for {arch} is not set up",
        why=f"it is looked for in {home.root}",
        fix=f"edgekit emulator setup --arch {arch}",
    )


def _stamp(part: str) -> dict[str, str]:
    if part != "counter":
        return {"digest": read_pins().digest(part)}
    files = resources.files(__package__)
    sources = b"\0".join(files.joinpath(name).read_bytes() for name in COUNTER_SOURCES)
    return {"digest": hashlib.sha256(sources).hexdigest(), "libc": os.confstr("CS_GNU_LIBC_VERSION") or ""}
