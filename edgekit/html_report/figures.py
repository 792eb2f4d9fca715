"""Writes figures as a reader wants them, and lanes in the order in which they are read."""

import math
from collections.abc import Iterable

from edgekit.html_report.page import Cell, State, Table
from edgekit.parity.metrics import Measure

__all__ = ["NONE", "count", "decibel", "filled", "megabytes", "milliseconds", "model_of", "place_of", "share"]

NONE = "-"
_EMULATED = ("arm:", "armv7:")


def place_of(lane: str) -> str:
    """Say where a lane ran: ``desktop``, ``emulated`` or ``device``."""
    if lane.startswith(_EMULATED):
        return "emulated"
    return "device" if "/" in lane else "desktop"


def model_of(lane: str) -> str:
    """Give the model of a lane: ``tflite-int8`` of ``arm:cortex-a72/tflite-int8`` and of ``tflite-int8:builtin``."""
    return lane.rpartition("/")[2].partition(":")[0]


def decibel(value: float | None) -> str:
    """Write an SQNR; equal arrays have an infinite one."""
    if value is None:
        return NONE
    return "NaN" if math.isnan(value) else "exact" if value == math.inf else f"{value:.1f} dB"


def milliseconds(value: float | None) -> str:
    """Write a time."""
    return NONE if value is None else f"{value:.3f}"


def megabytes(size: int | None) -> str:
    """Write a size in MB (1e6 bytes)."""
    return NONE if size is None else f"{size / 1e6:.2f}"


def count(value: int | None) -> str:
    """Write a number of things."""
    return NONE if value is None else f"{value:,}"


def share(measure: Measure | None) -> str:
    """Write changed rows as a count with the interval of their share."""
    if measure is None:
        return NONE
    if not math.isfinite(measure.value) or measure.n is None or measure.interval is None:
        return str(measure)
    low, high = measure.interval
    changed = round(measure.value * measure.n / 100)
    return f"{changed:,} of {measure.n:,}: {measure.value:.2f} % ({low:.2f} to {high:.2f})"


def filled(
    header: Iterable[str],
    rows: Iterable[Iterable[Cell]],
    *,
    text: Iterable[str] = (),
    wide: Iterable[str] = (),
    states: Iterable[State | None] = (),
) -> Table:
    """Make a table without its empty columns; columns that are not ``text`` or ``wide`` hold numbers."""
    names, cells = tuple(header), [tuple(row) for row in rows]
    kept = [place for place in range(len(names)) if place == 0 or any(row[place] not in {NONE, ""} for row in cells)]
    header = tuple(names[place] for place in kept)
    breaks, words = set(wide), {*text, *wide}
    return Table(
        header=header,
        rows=tuple(tuple(row[place] for place in kept) for row in cells),
        right=frozenset(place for place, name in enumerate(header) if name not in words),
        wide=frozenset(place for place, name in enumerate(header) if name in breaks),
        states=tuple(states),
    )
