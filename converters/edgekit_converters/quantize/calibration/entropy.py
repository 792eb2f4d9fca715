"""The clipping threshold that loses the least information (Kullback-Leibler divergence)."""

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram
from edgekit_converters.quantize.calibration.spec import ObserverSpec
from edgekit_converters.quantize.grid import Range

__all__ = ["divergences", "entropy_range"]

_TOGETHER = 256  # candidates evaluated at once; bounds the memory


def entropy_range(histogram: AdaptiveHistogram, spec: ObserverSpec) -> Range:
    """Clip at the ``t`` for which codes describe the distribution of ``|x|`` best; ``[-t, t]`` cut to the values seen.

    The search is over one threshold for both signs, as in the source. ``2**bits`` levels are counted from 0 where all
    values have one sign, half as many otherwise. Exact zeros are left out: they are on every grid, and a ReLU's would
    drown the rest. Of equally good thresholds the widest is taken. With ``symmetric`` the range is ``[-t, t]`` itself.

    Outliers beyond a gap are kept: Q cannot describe what is clipped into an empty group. (In transformers such
    outliers carry the attention sink; clipping them is what breaks the model.) Nothing is clipped where there is
    nothing to search: the histogram has no more bins than there are levels (with 4096 bins: from 13 bits on).

    Source:
        Migacz 2017, "8-bit inference with TensorRT", GTC 2017, whose groups are shorter by up to one bin and
        whose last group takes what is left over; here all groups are of one width, up to a bin.
    """
    one_sign = not spec.symmetric and (histogram.low >= 0.0 or histogram.high <= 0.0)
    levels = 2**spec.bits if one_sign else 2 ** (spec.bits - 1)
    counts = histogram.magnitudes()
    threshold = histogram.largest
    if len(counts) > levels:
        losses = divergences(counts, levels)
        best = len(losses) - 1 - int(np.argmin(losses[::-1]))
        threshold = min((levels + best) * histogram.width, histogram.largest)
    if spec.symmetric:
        return Range(-threshold, threshold)
    return Range(max(-threshold, histogram.low), min(threshold, histogram.high))


def divergences(counts: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """Give ``KL(P || Q)`` in nats for each threshold, at ``levels``, ``levels + 1``, ... ``len(counts)`` bins.

    For a threshold of ``n`` bins, P is ``counts[:n]`` with all that lies beyond added to its last bin. Q is
    ``counts[:n]`` in ``levels`` groups (bin ``b`` in group ``b * levels // n``), each group's sum spread evenly over
    the bins where P is not 0. Both are normalised. A Q of 0 where P is not gives infinity.

    Args:
        counts: Values in each bin from 0 on, shape (bins,), bins >= levels, not all 0.
        levels: Codes.

    Returns:
        Shape (bins - levels + 1,).
    """
    candidates = np.arange(levels, len(counts) + 1)
    parts = range(0, len(candidates), _TOGETHER)
    return np.concatenate([_some(counts, levels, candidates[i : i + _TOGETHER]) for i in parts])


def _some(counts: NDArray[np.int64], levels: int, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Evaluate some thresholds with running sums: O(levels) for each, not O(bins).

    With p and q not yet normalised, ``sum p log(p / q)`` over a group of sum ``s`` on ``m`` bins is
    ``sum p log p - s log(s / m)``; the last bin, which alone has p unequal to the count, is put right afterwards.
    """
    counts_before = np.concatenate([[0], np.cumsum(counts)])
    filled_before = np.concatenate([[0], np.cumsum(counts > 0)])
    entropy_before = np.concatenate([[0.0], np.cumsum(_x_log_x(counts.astype(np.float64)))])

    # Group g of n bins begins at the first b with b * levels // n = g, which is ceil(g * n / levels).
    starts = -(-np.arange(levels + 1) * candidates[:, None] // levels)
    sums = np.diff(counts_before[starts]).astype(np.float64)
    filled = np.diff(filled_before[starts])

    total, kept = counts_before[-1], counts_before[candidates].astype(np.float64)
    last = counts[candidates - 1].astype(np.float64)
    clipped = total - kept
    filled[:, -1] += (last == 0) & (clipped > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(sums / filled)  # -inf or NaN in empty groups
        spread = np.where(sums > 0, sums * log_q, 0.0).sum(axis=1)
        tail = np.where(clipped > 0, clipped * log_q[:, -1], 0.0)
        terms = entropy_before[candidates] - _x_log_x(last) + _x_log_x(last + clipped) - spread - tail
        loss = terms / total + np.log(kept / total)
    loss[(clipped > 0) & (sums[:, -1] == 0)] = np.inf
    return np.asarray(loss, np.float64)


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)), np.float64)
