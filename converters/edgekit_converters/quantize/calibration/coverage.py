"""Do the calibrated ranges hold on data that was not calibrated on? Clipped values are counted, tensor by tensor."""

from dataclasses import dataclass

import torch

from edgekit_converters.quantize.calibration.incoming import Incoming, nothing_seen
from edgekit_converters.quantize.grid import Range

__all__ = ["CoverageObserver", "CoverageReport", "TensorCoverage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCoverage:
    """Held-out values of one tensor against its calibrated range.

    Attributes:
        name: Of the tensor.
        low: Low end of the calibrated range.
        high: High end.
        held_out_low: Smallest held-out value.
        held_out_high: Largest.
        values: Number of held-out values, above 0.
        below: How many of them are below the range and 0: a grid always holds 0.
        above: How many are above the range and 0.
    """

    name: str
    low: float
    high: float
    held_out_low: float
    held_out_high: float
    values: int
    below: int
    above: int

    @property
    def fraction_below(self) -> float:
        """Share of values clipped at the low end, 0 to 1."""
        return self.below / self.values

    @property
    def fraction_above(self) -> float:
        """Share of values clipped at the high end, 0 to 1."""
        return self.above / self.values

    @property
    def fraction_clipped(self) -> float:
        """Share of values clipped, 0 to 1."""
        return (self.below + self.above) / self.values

    @property
    def overshoot(self) -> float:
        """How far the farthest held-out value lies outside, in widths of the range with 0; infinite if it has none."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        outside = max(low - self.held_out_low, self.held_out_high - high, 0.0)
        if outside == 0.0:
            return 0.0
        return outside / (high - low) if high > low else float("inf")

    def as_json(self) -> dict[str, object]:
        """Give the figures; fractions from 0 to 1."""
        return {
            "name": self.name,
            "calibrated": [self.low, self.high],
            "held_out": [self.held_out_low, self.held_out_high],
            "values": self.values,
            "fraction_below": self.fraction_below,
            "fraction_above": self.fraction_above,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageReport:
    """All tensors of a model.

    Attributes:
        tensors: In the order of the model.
    """

    tensors: tuple[TensorCoverage, ...]

    def worst(self, count: int = 5) -> tuple[TensorCoverage, ...]:
        """Give the tensors of which most is clipped, worst first, then by overshoot; none that clips nothing."""
        clipped = [tensor for tensor in self.tensors if tensor.below or tensor.above]
        order = sorted(clipped, key=lambda tensor: (-tensor.fraction_clipped, -tensor.overshoot, tensor.name))
        return tuple(order[:count])

    def as_json(self) -> dict[str, object]:
        """Give all tensors, and the names of the worst."""
        return {
            "worst": [tensor.name for tensor in self.worst()],
            "tensors": [tensor.as_json() for tensor in self.tensors],
        }


class CoverageObserver:
    """Counts the held-out values of one tensor that its range clips, row by row."""

    __slots__ = ("_above", "_below", "_calibrated", "_high", "_incoming", "_low", "_values", "name")

    def __init__(self, calibrated: Range, name: str) -> None:
        self.name = name
        self._calibrated = calibrated
        self._incoming = Incoming(name)
        self._low, self._high = float("inf"), float("-inf")
        self._values = self._below = self._above = 0

    def update(self, values: torch.Tensor) -> None:
        """Take in a float32 tensor of a held-out row, real tokens only.

        Raises:
            ConversionError: E0740 to E0744, as for calibration.
        """
        low, high = self._incoming.ends(values)
        bottom, top = min(self._calibrated.low, 0.0), max(self._calibrated.high, 0.0)
        if low < bottom:  # most tensors are inside, and need no second pass
            self._below += int((values < bottom).sum())
        if high > top:
            self._above += int((values > top).sum())
        self._values += values.numel()
        self._low, self._high = min(low, self._low), max(high, self._high)

    def coverage(self) -> TensorCoverage:
        """Give the figures so far.

        Raises:
            UsageError: E0135, no row was taken in.
        """
        if not self._values:
            raise nothing_seen(self.name)
        return TensorCoverage(
            name=self.name,
            low=self._calibrated.low,
            high=self._calibrated.high,
            held_out_low=self._low,
            held_out_high=self._high,
            values=self._values,
            below=self._below,
            above=self._above,
        )
