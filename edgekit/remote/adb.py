"""Phones and Android boards behind the system's own ``adb``; they need a Python with numpy and an engine."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

from edgekit.remote.lane import RemoteLane, remote_lanes
from edgekit.remote.place import parse_adb
from edgekit.remote.session import last_lines
from edgekit_runtime.errors import DeviceError, MissingError

__all__ = ["AdbLink", "open_lanes"]

# What adb itself complains of begins so; a complaint about a file on the device says "remote".
_OWN_WORDS: Final = ("adb: ", "error: ")


@dataclass(frozen=True, slots=True)
class AdbLink:
    """A way to an Android device.

    Attributes:
        serial: As ``adb devices`` lists it; empty for the only device.
        parent: Where the shell user may write.
    """

    serial: str
    parent: str = "/data/local/tmp"

    @property
    def place(self) -> str:
        """See ``Link``."""
        return self.serial or "the device of adb"

    @property
    def python_fix(self) -> str:
        """See ``Link``."""
        return (
            "Android has no Python: put one with numpy and an engine where adb's shell may run it, under "
            "/data/local/tmp, and name it: adb:...?python=/data/local/tmp/python/bin/python3"
        )

    def shell(self, words: Sequence[str]) -> list[str]:
        """See ``Link``; no terminal, so that Android 7 or newer keeps the exit code and both streams apart."""
        return [*self._adb(), "shell", "-T", shlex.join(words)]

    def push(self, files: Sequence[Path], folder: str) -> list[str]:
        """See ``Link``."""
        return [*self._adb(), "push", *map(str, files), f"{folder}/"]

    def pull(self, remote: str, folder: Path) -> list[str]:
        """See ``Link``."""
        return [*self._adb(), "pull", remote, f"{folder}/"]

    def fault(self, done: CompletedProcess[str]) -> DeviceError | None:
        """See ``Link``."""
        own = [line for line in done.stderr.splitlines() if line.startswith(_OWN_WORDS) and "remote" not in line]
        if not own:
            return None
        return DeviceError(
            "E0850",
            f"adb does not reach {self.serial or 'a device'}",
            why=last_lines(done.stderr),
            fix="see what `adb devices` lists: one line that ends in `device`, or name one of several: adb:SERIAL",
        )

    def _adb(self) -> list[str]:
        return ["adb", *(["-s", self.serial] if self.serial else [])]


def open_lanes(place: str, models: Sequence[str]) -> list[RemoteLane]:
    """Give one lane for each model on an Android device.

    Args:
        place: ``adb:[SERIAL][?python=PATH][&engine=NAME]``.
        models: Keys of ``edgekit.lanes.models.MODELS``.

    Raises:
        UsageError: The place is none (E0186, E0187).
        MissingError: adb is not here (E0686).
    """
    serial, interpreter = parse_adb(place)
    if shutil.which("adb") is None:
        raise MissingError("E0686", "adb is not here", fix="install Android's platform tools: apt-get install adb")
    return remote_lanes(place, models, AdbLink(serial), interpreter)
