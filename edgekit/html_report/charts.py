"""Places dots, whiskers and bars on one scale; the template draws what is placed here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.html_report.page import Chart, ChartRow, Mark, State, Tick

__all__ = ["BarRow", "IntervalRow", "bar_chart", "interval_chart", "nice_ticks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalRow:
    """A value with its interval; nothing is drawn where the value is not finite.

    Attributes:
        label: Whose.
        text: Value and interval in words.
        value: In the unit of the scale.
        interval: Likewise; None where there is none.
        colour: Name of a series.
    """

    label: str
    text: str
    value: float
    interval: tuple[float, float] | None
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRow:
    """Bars from 0, one a series.

    Attributes:
        label: Whose.
        text: The values in words.
        values: Infinity reaches to the end of the scale; nothing is drawn for NaN.
        state: Bad where something is wrong with it.
    """

    label: str
    text: str
    values: tuple[float, ...]
    state: State | None = None


def nice_ticks(low: float, high: float, *, least: int = 3) -> list[float]:
    """Give round values, a step of 1, 2 or 5 times a power of ten apart, that enclose ``low`` to ``high``.

    Args:
        low: Finite.
        high: Finite, at least ``low``.
        least: Steps at least.
    """
    if not high > low:
        room = max(0.5, 1e-6 * abs(low))  # what float64 can still tell apart
        low, high = low - room, low + room
    raw = (high - low) / least
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= raw * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def interval_chart(title: str, rows: Sequence[IntervalRow], legend: tuple[tuple[str, str], ...]) -> Chart:
    """Draw dots with whiskers on a scale that just holds them, which need not begin at 0."""
    ends = [end for row in rows for end in (row.value, *(row.interval or ())) if math.isfinite(end)]
    scale = _Scale(nice_ticks(min(ends, default=0.0), max(ends, default=1.0)))
    drawn = []
    for row in rows:
        low, high = row.interval or (row.value, row.value)
        marks = [scale.mark(low, high, dot=row.value, colour=row.colour)] if _finite(row.value, low, high) else []
        state: State | None = None if marks else "bad"
        drawn.append(ChartRow(label=row.label, value=row.text, marks=tuple(marks), state=state))
    return Chart(title=title, rows=tuple(drawn), ticks=scale.ticks(), legend=legend)


def bar_chart(title: str, rows: Sequence[BarRow], legend: tuple[tuple[str, str], ...]) -> Chart:
    """Draw bars from 0; below 0 they go to the left."""
    values = [value for row in rows for value in row.values if math.isfinite(value)]
    scale = _Scale(nice_ticks(min([0.0, *values]), max(values, default=1.0)))
    drawn = []
    for row in rows:
        marks = [
            scale.mark(min(0.0, value), max(0.0, value), dot=None, colour=colour)
            for value, (colour, _) in zip(row.values, legend, strict=True)
            if not math.isnan(value)
        ]
        drawn.append(ChartRow(label=row.label, value=row.text, marks=tuple(marks), state=row.state))
    return Chart(title=title, rows=tuple(drawn), ticks=scale.ticks(), legend=legend)


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


@dataclass(frozen=True, slots=True)
class _Scale:
    """From the first to the last of some ticks."""

    values: Sequence[float]

    def at(self, value: float) -> float:
        """Give a place in % of the width; what lies beyond an end, infinity too, is put there."""
        low, high = self.values[0], self.values[-1]
        return 100.0 * (min(max(value, low), high) - low) / (high - low)

    def mark(self, low: float, high: float, *, dot: float | None, colour: str) -> Mark:
        left, right = self.at(low), self.at(high)
        return Mark(
            low=f"{left:.2f}%",
            high=f"{right:.2f}%",
            width=f"{right - left:.2f}%",
            dot=None if dot is None else f"{self.at(dot):.2f}%",
            colour=colour,
        )

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(_ticks(self.values, self))


def _ticks(values: Sequence[float], scale: _Scale) -> Iterable[Tick]:
    for place, value in enumerate(values):
        edge = "start" if place == 0 else "end" if place == len(values) - 1 else "middle"
        yield Tick(at=f"{scale.at(value):.2f}%", label=f"{value:.10g}", edge=edge)
