"""What ``edgekit emulator setup`` fetches: names, sizes and digests, from one table beside this file."""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from edgekit_runtime.manifest import canonical_json

__all__ = ["PARTS", "TAGS", "Pin", "Pins", "parse_pins", "read_pins"]

# In the order in which they are made: the emulator proves each guest.
PARTS: Final = ("qemu", "aarch64", "armv7")

# pip must be told every tag: one for a new C library does not imply those for older ones.
TAGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "aarch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"),
        "armv7": ("manylinux_2_34_armv7l",),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One file.

    Attributes:
        part: Part of the emulator that it belongs to.
        place: Of a Debian package the path under the address of a mirror, of a wheel its file name.
        size: In bytes.
        sha256: Of its content, hex.
    """

    part: str
    place: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.part not in PARTS or self.size <= 0 or len(self.sha256) != 64 or set(self.sha256) - set(_HEX):
            raise ValueError(f"{self.place}: part, size or sha256 is wrong")
        if len(self._fields) < 3:
            raise ValueError(f"{self.place} says no name, version and architecture")

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.place.rpartition("/")[2]

    @property
    def is_wheel(self) -> bool:
        """Whether pip fetches it."""
        return self.file.endswith(".whl")

    @property
    def _fields(self) -> list[str]:
        return self.file.removesuffix(".whl").split("-") if self.is_wheel else self.file.removesuffix(".deb").split("_")

    @property
    def name(self) -> str:
        """Of the package, as pip or apt knows it."""
        return self._fields[0].replace("_", "-") if self.is_wheel else self._fields[0]

    @property
    def version(self) -> str:
        """Of the package."""
        return self._fields[1]

    @property
    def arch(self) -> str:
        """That the package is for: a Debian architecture, or the platform tags of a wheel."""
        return self._fields[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The whole table.

    Attributes:
        archive: Address under which the packages can still be had when a mirror has replaced them.
        rows: All files.
    """

    archive: str
    rows: tuple[Pin, ...]

    def of(self, part: str) -> tuple[Pin, ...]:
        """Give the files of a part, in the order of the table."""
        return tuple(row for row in self.rows if row.part == part)

    def digest(self, part: str) -> str:
        """Give the sha256 (hex) that changes when a file of ``part`` does."""
        rows = [[row.place, row.size, row.sha256] for row in self.of(part)]
        return hashlib.sha256(canonical_json([_LAYOUT, part, rows])).hexdigest()


_HEX = "0123456789abcdef"
_LAYOUT = 1  # to be raised when the unpacked folders are to look different


@cache
def read_pins() -> Pins:
    """Read ``pins.toml``."""
    return parse_pins(resources.files(__package__).joinpath("pins.toml").read_text(encoding="utf-8"))


def parse_pins(text: str) -> Pins:
    """Read a table.

    Raises:
        ValueError: A row is incomplete or wrong.
    """
    table = tomllib.loads(text)
    rows = [*_rows(table["packages"], "path", ".deb"), *_rows(table["wheels"], "file", ".whl")]
    return Pins(archive=table["archive"], rows=tuple(rows))


def _rows(held: Sequence[Mapping[str, Any]], key: str, ending: str) -> list[Pin]:
    rows = [Pin(part=row["part"], place=row[key], size=row["bytes"], sha256=row["sha256"]) for row in held]
    wrong = [row.place for row in rows if not row.file.endswith(ending)]
    if wrong:
        raise ValueError(f"{wrong[0]} does not end in {ending}")
    return rows
