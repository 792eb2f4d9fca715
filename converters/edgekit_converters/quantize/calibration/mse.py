"""The range with the smallest mean squared quantisation error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram
from edgekit_converters.quantize.calibration.spec import ObserverSpec
from edgekit_converters.quantize.grid import Range

__all__ = ["mse_range"]

_RATIO = 1.02  # from one candidate threshold to the next; half of it off the optimum costs well below 1 %
_FINALISTS = 64  # pairs of thresholds that are evaluated exactly
_NARROWEST = 1 / 1024  # of the widest threshold; clipping more than that has no use

FloatArray = NDArray[np.float64]


def mse_range(histogram: AdaptiveHistogram, spec: ObserverSpec) -> Range:
    """Search both ends (with ``symmetric``: one) for the smallest error of ``bits`` codes on a grid that holds 0.

    Values are taken as evenly spread inside each bin; exact zeros have no error and are left out. All pairs of
    candidate thresholds are ranked with a noise of ``scale**2 / 12`` and the clipping error in closed form; the best
    are then evaluated with the true grid, zero point rounded. Of equally good ranges the widest is taken. A tensor of
    one value keeps its exact range.

    On 20,000 values of eight distributions, 4 and 8 bits, the error is at most 1.02 times that of the best thresholds
    found by exhaustive search. It is an estimate where a step is narrower than a bin: when outliers lie beyond about 8
    times the rest (4096 bins, 8 bits).

    Source:
        Banner et al. 2019, section 3 (clipping and rounding error); Jacob et al. 2018, section 2.1 (the grid).
    """
    if histogram.low == histogram.high:
        end = abs(histogram.low)
        return Range(-end, end) if spec.symmetric else Range(histogram.low, histogram.high)
    if spec.symmetric:
        density = _Density(histogram.magnitudes(), 0, histogram.width)
        highs = _candidates(histogram.largest, histogram.width)
        found = _best(density, np.zeros(1), highs, 2 ** (spec.bits - 1) - 1)
        return Range(-found.high, found.high)
    density = _Density(histogram.without_zeros(), histogram.first, histogram.width)
    lows = -_candidates(-min(histogram.low, 0.0), histogram.width)
    highs = _candidates(max(histogram.high, 0.0), histogram.width)
    found = _best(density, lows, highs, 2**spec.bits - 1)
    return Range(max(found.low, histogram.low), min(found.high, histogram.high))


@dataclass(frozen=True, slots=True)
class _Density:
    """Values evenly spread in bins.

    Attributes:
        counts: Shape (bins,).
        first: Number of the first bin.
        width: Of a bin.
    """

    counts: NDArray[np.int64]
    first: int
    width: float

    def edges(self) -> FloatArray:
        return np.arange(self.first, self.first + len(self.counts) + 1) * np.float64(self.width)

    def beyond(self, thresholds: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Give number and clipping error of the values above each threshold, which is an edge or above all values."""
        counts = self.counts.astype(np.float64)
        centres = self.first + np.arange(len(counts)) + 0.5
        after = [np.append(np.cumsum((counts * centres**power)[::-1])[::-1], 0.0) for power in range(3)]
        t = thresholds / self.width
        place = np.clip(np.ceil(t).astype(np.int64) - self.first, 0, len(counts))
        number, first, second = (sums[place] for sums in after)
        squares = second - 2 * t * first + (t**2 + 1 / 12) * number  # 1/12: the spread inside a bin
        return number, np.maximum(squares, 0.0) * self.width**2

    def mirrored(self) -> "_Density":
        return _Density(self.counts[::-1], -(self.first + len(self.counts)), self.width)


def _candidates(largest: float, width: float) -> FloatArray:
    """Give thresholds from ``largest`` down: it first, then whole bins, each about ``_RATIO`` below the one before."""
    if largest == 0.0:
        return np.zeros(1)
    steps = np.arange(1, int(np.log(1 / _NARROWEST) / np.log(_RATIO)))
    bins = np.unique(np.rint(largest / width / _RATIO**steps))[::-1]
    ends = bins[(bins >= 1) & (bins * width < largest)] * width
    return np.concatenate([[largest], ends])


def _best(density: _Density, lows: FloatArray, highs: FloatArray, steps: int) -> Range:
    above, clipped_above = density.beyond(highs)
    below, clipped_below = density.mirrored().beyond(-lows) if lows.any() else (np.zeros(1), np.zeros(1))
    inside = density.counts.sum() - below[:, None] - above
    scales = (highs - lows[:, None]) / steps
    estimate = (clipped_below[:, None] + clipped_above + inside * scales**2 / 12).ravel()
    finalists = np.sort(np.argsort(estimate, kind="stable")[:_FINALISTS])
    ranges = [Range(float(lows[i // len(highs)]), float(highs[i % len(highs)])) for i in finalists]
    errors = [_error(density, found, steps) for found in ranges]
    return min(zip(errors, ranges, strict=True), key=lambda pair: (pair[0], pair[1].low - pair[1].high))[1]


def _error(density: _Density, chosen: Range, steps: int) -> float:
    """Integrate the squared error over every bin, on the grid that codes really have."""
    scale = (chosen.high - chosen.low) / steps
    zero_point = np.rint(-chosen.low / scale)
    bottom, top = -zero_point * scale, (steps - zero_point) * scale
    edges = density.edges()
    inside = np.clip(edges, bottom, top)
    codes = np.rint(inside / scale)
    # The antiderivative of (x - code(x) * scale)**2: a period holds scale**3 / 12; beyond the ends it is a cube.
    integral = codes * scale**3 / 12 + (inside - codes * scale) ** 3 / 3 + (edges - inside) ** 3 / 3
    return float((density.counts * np.diff(integral)).sum() / density.width)
