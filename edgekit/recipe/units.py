"""Numbers with a unit, so that a fraction is never compared with a percentage."""

import re
from dataclasses import dataclass
from functools import total_ordering

__all__ = ["Points"]

_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:points?|pts?|pp)\s*")


@total_ordering
@dataclass(frozen=True, slots=True)
class Points:
    """Percentage points: the difference of two shares, times 100.

    Attributes:
        value: In points; 0.5 means 0.005 as a fraction. Never NaN.
    """

    value: float

    def __post_init__(self) -> None:
        if not isinstance(self.value, int | float) or self.value != self.value:
            raise ValueError(f"points must be a number, not {self.value!r}")

    @classmethod
    def parse(cls, text: str) -> "Points":
        """Read ``0.5 points``, ``0.5pt`` or ``0.5 pp``; a bare number is refused because its unit is unknown."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a number of points; write for example '0.5 points'")
        return cls(float(match[1]))

    @classmethod
    def from_fraction(cls, fraction: float) -> "Points":
        """Turn 0.005 into 0.5 points."""
        return cls(100.0 * fraction)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Points):
            return NotImplemented
        return self.value < other.value

    def __str__(self) -> str:
        return f"{self.value:.2f} points"
