"""A histogram of a stream: it widens as larger values come, and ends up the same in whatever order they came."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["AdaptiveHistogram"]

_CHUNK = 1 << 18  # elements counted at once; bounds what an update allocates
_FINEST = -126  # bins no narrower than the smallest normal float32: 2**126 is still a float32


class AdaptiveHistogram:
    """Counts in bins of width ``2**exponent`` whose edges are the whole multiples of the width; 0 is always an edge.

    The width is the smallest power of two with which the bins from the smallest to the largest value seen, and 0, are
    no more than ``bins``. So it depends on these two values alone. A wider histogram is made by adding up pairs of
    bins: ``floor(floor(x / w) / 2) = floor(x / (2 * w))``, and scaling by a power of two is exact, so that a count is
    the same whether a value was counted before or after the histogram grew.

    **What does not depend on order.** Everything: counts, width, zeros, smallest and largest value are bit-identical
    for any order of the values and any way of cutting them into updates, because integer sums, minimum and maximum are
    associative and commutative. Ranges computed from them are, too. What order does decide: which row is named in an
    error.

    A value's place is known to one width: less than ``2 / (bins - 1)`` of the span from smallest to largest with 0.

    Attributes:
        counts: Values in each bin, shape (at most ``bins``,).
        first: Number of the first bin: it holds ``[first * width, (first + 1) * width)``; at most 0.
        exponent: Of the width.
        zeros: How many values were exactly 0; they are counted in bin 0 as well. Every grid holds 0, so that they carry
            no error and no information about where to clip.
        low: Smallest value seen; infinity before the first.
        high: Largest; minus infinity before the first.
    """

    __slots__ = ("_bins", "counts", "exponent", "first", "high", "low", "zeros")

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self.counts: NDArray[np.int64] = np.zeros(1, np.int64)
        self.first, self.exponent, self.zeros = 0, _FINEST, 0
        self.low, self.high = math.inf, -math.inf

    @property
    def width(self) -> float:
        """Of every bin, in the unit of the values; a power of two."""
        return math.ldexp(1.0, self.exponent)

    @property
    def largest(self) -> float:
        """Largest absolute value seen."""
        return max(abs(self.low), abs(self.high))

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Count float32 values, any shape.

        Args:
            values: All finite.
            low: Their minimum, which the caller knows from its check.
            high: Their maximum.
        """
        if low < self.low or high > self.high:
            self._widen(min(low, self.low) + 0.0, max(high, self.high) + 0.0)  # -0.0 and 0.0 are one number
        flat = values.detach().reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK]
            self._count(chunk)
            if low <= 0.0 <= high:
                self.zeros += int(np.count_nonzero(chunk.numpy() == 0.0))

    def magnitudes(self) -> NDArray[np.int64]:
        """Give the counts of ``|x|`` in bins from 0 on, exact zeros left out.

        A value that lies on a negative edge is counted one bin further in; the others are where ``|x|`` belongs.
        """
        below, above = self.counts[: -self.first], self.without_zeros()[-self.first :]
        folded = np.zeros(max(len(below), len(above)), np.int64)
        folded[: len(above)] += above
        folded[: len(below)] += below[::-1]
        return folded

    def without_zeros(self) -> NDArray[np.int64]:
        """Give the counts of the values that are not exactly 0."""
        counts = self.counts.copy()
        counts[-self.first] -= self.zeros
        return counts

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Give all that ``restore`` needs, in arrays of its own."""
        return {
            "counts": self.counts.copy(),
            "layout": np.array([self.exponent, self.first, self.zeros], np.int64),
            "ends": np.array([self.low, self.high], np.float64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from ``state()``.

        Raises:
            ValueError: The arrays contradict each other.
            KeyError: One is absent.
        """
        counts = np.array(state["counts"], np.int64)
        exponent, first, zeros = (int(value) for value in state["layout"])
        low, high = (float(value) for value in state["ends"])
        wanted = (_FINEST, 0, 1) if low > high else _layout(low, high, self._bins)
        if (exponent, first, len(counts)) != wanted or counts.min() < 0 or not 0 <= zeros <= counts[-first]:
            raise ValueError(
                f"a histogram from {low} to {high} does not have bins {first} to {first + len(counts) - 1}"
            )
        self.counts, self.exponent, self.first, self.zeros = counts, exponent, first, zeros
        self.low, self.high = low, high

    def _widen(self, low: float, high: float) -> None:
        exponent, first, length = _layout(low, high, self._bins)
        if (exponent, first, length) != (self.exponent, self.first, len(self.counts)):
            old = np.arange(self.first, self.first + len(self.counts))
            wider = np.zeros(length, np.int64)
            # A shift of negative numbers rounds down, as floor does. 62 moves every bin number to 0 or -1 already.
            # Bins beyond the new ends are those of an empty histogram, or empty.
            places = (old >> min(exponent - self.exponent, 62)) - first
            np.add.at(wider, places, self.counts)
            self.counts, self.first, self.exponent = wider, first, exponent
        self.low, self.high = low, high

    def _count(self, chunk: torch.Tensor) -> None:
        # Up to width 1 the product is exact in float32. Beyond, a tiny negative number would become -0, which is in
        # another bin; float64 has room for it.
        exact = chunk if self.exponent <= 0 else chunk.double()
        places = exact.mul(math.ldexp(1.0, -self.exponent)).floor_().to(torch.int32).sub_(self.first)
        self.counts += torch.bincount(places, minlength=len(self.counts)).numpy()


def _layout(low: float, high: float, bins: int) -> tuple[int, int, int]:
    """Give exponent, first bin and number of bins for values from ``low`` to ``high`` and 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) / bins
    exponent = max(_FINEST, math.frexp(span)[1] - 2) if span else _FINEST  # too fine by at least one, or the finest
    while True:
        first, last = math.floor(math.ldexp(low, -exponent)), math.floor(math.ldexp(high, -exponent))
        if last - first < bins:
            return exponent, first, last - first + 1
        exponent += 1
