"""Reading what the counting plugin wrote: instructions of one inference, by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

__all__ = ["CLASSES", "EMPTY_WINDOWS", "Counts", "read_counts"]

# In the order of the plugin. Products of vectors are those of floats too.
CLASSES: Final = (
    "dot_product",
    "int8_matmul",
    "simd_multiply",
    "simd_other",
    "load_store",
    "branch",
    "scalar_other",
)

EMPTY_WINDOWS: Final = 4  # that the guest marks before the first inference, to know what a mark costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of the cheapest inference.

    Attributes:
        total: Instructions.
        classes: The same by class; empty for 32-bit guests.
        windows: Total of each inference in order, the first of which is not among the candidates.
    """

    total: int
    classes: Mapping[str, int]
    windows: tuple[int, ...]


def read_counts(path: Path) -> Counts:
    """Read the file of a finished run.

    The first inference is left out: its caches are cold, so the interpreter takes other ways.

    Raises:
        ValueError: There are too few marks, or they do not come in pairs.
    """
    marks = [[int(number) for number in line.split()] for line in path.read_text(encoding="ascii").splitlines()]
    if len(marks) < 2 * (EMPTY_WINDOWS + 2) or len(marks) % 2:
        raise ValueError(f"{len(marks)} marks")
    windows = [
        [after - before for before, after in zip(*pair, strict=True)]
        for pair in zip(marks[::2], marks[1::2], strict=True)
    ]
    empty = min(windows[:EMPTY_WINDOWS])
    found = [[number - less for number, less in zip(window, empty, strict=True)] for window in windows[EMPTY_WINDOWS:]]
    least = min(found[1:])
    return Counts(
        total=least[0],
        classes=MappingProxyType(dict(zip(CLASSES, least[1:], strict=True)) if least[1:] else {}),
        windows=tuple(window[0] for window in found),
    )
