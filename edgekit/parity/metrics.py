"""What a measured value is: a number with a unit, a direction, rows and an interval. No unit is ever guessed."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Self

from edgekit_runtime.errors import UsageError

__all__ = ["Direction", "Measure", "Quantity", "Unit", "json_number", "number_json"]

Direction = Literal["higher", "lower"]


class Unit(StrEnum):
    """What a number counts. Shares come in three units that are never taken for one another."""

    FRACTION = "fraction"  # share of 1
    PERCENT = "%"  # share of 100
    POINTS = "points"  # share of 100, or the difference of two such shares
    DECIBEL = "dB"
    COSINE = "cosine"
    LOGITS = "logits"
    OUTPUT = "units"  # the model's own output unit
    STEPS = "steps"  # of a quantisation grid
    ROWS = "rows"
    TOKENS = "tokens"
    MILLISECONDS = "ms"


_WRITTEN: Final[Mapping[str, Unit]] = {
    **{unit.value.lower(): unit for unit in Unit},
    **dict.fromkeys(("point", "pt", "pts", "pp"), Unit.POINTS),
    **dict.fromkeys(("fractions", "of 1"), Unit.FRACTION),
    **dict.fromkeys(("percent",), Unit.PERCENT),
    **dict.fromkeys(("logit",), Unit.LOGITS),
    **dict.fromkeys(("unit",), Unit.OUTPUT),
    **dict.fromkeys(("step",), Unit.STEPS),
    **dict.fromkeys(("row",), Unit.ROWS),
    **dict.fromkeys(("token",), Unit.TOKENS),
}
# How many of the unit make one whole; only these convert into each other, and only where it is asked for by name.
_WHOLE: Final[Mapping[Unit, float]] = {Unit.FRACTION: 1.0, Unit.PERCENT: 100.0, Unit.POINTS: 100.0}
_DIGITS: Final[Mapping[Unit, str]] = {
    Unit.FRACTION: ".4f",
    Unit.PERCENT: ".2f",
    Unit.POINTS: ".2f",
    Unit.DECIBEL: ".1f",
    Unit.COSINE: ".6f",
    Unit.MILLISECONDS: ".3f",
}
_PATTERN = re.compile(r"\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, e.g. a bound.

    Attributes:
        value: In ``unit``; never NaN.
        unit: Of the value.
    """

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if math.isnan(self.value):
            raise ValueError("a quantity is a number, not NaN")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2 points``, ``0.5pt``, ``25 dB``, ``99 %`` or ``0.99 fraction``.

        Raises:
            ValueError: There is no number or no known unit: 0.5 may be half a point or half of everything.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a number with a unit; write for example '2 points' or '25 dB'")
        if not match[2]:
            raise ValueError(
                f"{text!r} has no unit, so 0.5 could be half a point or a half; write '2 points' or '25 dB'"
            )
        unit = _WRITTEN.get(match[2].lower())
        if unit is None:
            raise ValueError(f"{match[2]!r} is no unit; known: {', '.join(Unit)}")
        return cls(float(match[1]), unit)

    def to(self, unit: Unit) -> "Quantity":
        """Give the same share in another unit of shares.

        Raises:
            UsageError: One of both units is none of shares (E0165).
        """
        if unit == self.unit:
            return self
        if not {unit, self.unit} <= _WHOLE.keys():
            raise UsageError("E0165", f"{self} cannot be turned into {unit.value}")
        return Quantity(self.value / _WHOLE[self.unit] * _WHOLE[unit], unit)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measured value.

    Attributes:
        name: What was measured, e.g. ``changed``.
        value: In ``unit``; NaN where it cannot be told, which meets no bound.
        unit: Of value and interval.
        better: Which way is better.
        interval: 95 % interval in the same unit; None where there is none.
        n: Rows it was measured on; None where rows do not apply.
    """

    name: str
    value: float
    unit: Unit
    better: Direction
    interval: tuple[float, float] | None = None
    n: int | None = None

    def meets(self, limit: Quantity) -> bool:
        """Say whether the value is as good as ``limit`` or better; NaN never is.

        Raises:
            UsageError: The limit has another unit (E0165).
        """
        return self._within(self.value, limit)

    def surely_meets(self, limit: Quantity) -> bool:
        """Say whether the worse end of the interval, too, meets ``limit``; without an interval, the value."""
        if self.interval is None:
            return self.meets(limit)
        return all(self._within(end, limit) for end in (*self.interval, self.value))

    def _within(self, value: float, limit: Quantity) -> bool:
        if limit.unit != self.unit:
            raise UsageError(
                "E0165",
                f"{self.name} is measured in {self.unit.value} and cannot be compared with {limit}",
                why="a fraction that is compared with a percentage passes everything or nothing",
                fix=f"give the bound in {self.unit.value}",
            )
        return value >= limit.value if self.better == "higher" else value <= limit.value

    def __str__(self) -> str:
        digits = _DIGITS.get(self.unit, ".4g")
        text = f"{self.value:{digits}} {self.unit.value}"
        if self.interval is not None:
            low, high = self.interval
            text += f" ({low:{digits}} to {high:{digits}})"
        return text

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form; numbers that are not finite become text."""
        return {
            "name": self.name,
            "value": number_json(self.value),
            "unit": self.unit.value,
            "better": self.better,
            "interval_95": None if self.interval is None else [number_json(end) for end in self.interval],
            "n": self.n,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave; ValueError, KeyError or TypeError if it is something else."""
        ends: Sequence[object] | None = held["interval_95"]
        if held["better"] not in ("higher", "lower"):
            raise ValueError(f"no direction: {held['better']!r}")
        return cls(
            name=str(held["name"]),
            value=json_number(held["value"]),
            unit=Unit(held["unit"]),
            better=held["better"],
            interval=None if ends is None else (json_number(ends[0]), json_number(ends[1])),
            n=None if held["n"] is None else int(held["n"]),
        )


def number_json(value: float) -> float | str:
    """Give a number as JSON holds it: NaN and infinity as text."""
    return value if math.isfinite(value) else str(value)


def json_number(value: object) -> float:
    """Read what ``number_json`` gave."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        raise ValueError(f"no number: {value!r}")
    return float(value)
