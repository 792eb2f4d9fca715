"""The range that leaves a stated share of the values outside."""

import math

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram
from edgekit_converters.quantize.calibration.spec import ObserverSpec
from edgekit_converters.quantize.grid import Range

__all__ = ["percentile_range"]


def percentile_range(histogram: AdaptiveHistogram, spec: ObserverSpec) -> Range:
    """Cut off ``100 - percentile`` percent, half at either end; with ``symmetric`` all of it from ``|x|``.

    The ends are whole bins that hold the wanted order statistics, rounded outwards and never beyond the values seen: at
    most ``(100 - percentile) / 2`` percent of all values lie outside an end, and an end is within one bin width of the
    order statistic. With fewer than ``200 / (100 - percentile)`` values nothing is cut off.

    Source:
        ``numpy.percentile``, methods ``lower`` and ``higher`` (outwards, so that sparse tails are not interpolated).
    """
    last = histogram.total - 1
    if spec.symmetric:
        counts = histogram.magnitudes()
        counts[0] += histogram.zeros
        place = _bin_of(counts, last - math.floor((100.0 - spec.percentile) / 100.0 * last))
        end = min((place + 1) * histogram.width, histogram.largest)
        return Range(-end, end)
    cut = math.floor((100.0 - spec.percentile) / 200.0 * last)
    low = (histogram.first + _bin_of(histogram.counts, cut)) * histogram.width
    high = (histogram.first + _bin_of(histogram.counts, last - cut) + 1) * histogram.width
    return Range(max(low, histogram.low), min(high, histogram.high))


def _bin_of(counts: NDArray[np.int64], rank: int) -> int:
    """Give the bin of the value with ``rank`` smaller ones, counted from 0."""
    return int(np.searchsorted(np.cumsum(counts), rank, side="right"))
