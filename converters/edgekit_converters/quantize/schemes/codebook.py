"""Weights as places in a small table of values that k-means chose."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.checks import checked_weight
from edgekit_runtime.errors import UsageError

__all__ = ["Codebook", "codebook", "lloyd"]

_ITERATIONS = 300
_BINS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """Weights as ``table[group, code]``.

    Attributes:
        codes: uint8, shape (out, in).
        table: float32, shape (groups, entries), ascending; group ``g`` holds rows ``g * out / groups`` and on.
    """

    codes: NDArray[np.uint8]
    table: NDArray[np.float32]

    def dequantise(self) -> NDArray[np.float32]:
        """Give the weights in float32, shape (out, in)."""
        groups = self.table.shape[0]
        codes = self.codes.reshape(groups, -1).astype(np.intp)
        return np.take_along_axis(self.table, codes, axis=1).reshape(self.codes.shape)


def codebook(
    weight: NDArray[np.float32], *, entries: Literal[16, 256] = 16, rows_per_table: int | None = None
) -> Codebook:
    """Choose a table by k-means and give each weight its nearest entry.

    No other entry would do better for any weight: its error is at most half the gap between the entries beside it.

    Args:
        weight: Shape (out, in).
        entries: 16 (4 bits) or 256 (8 bits).
        rows_per_table: Output channels that share a table, a divisor of ``out``; None = all.

    Raises:
        UsageError: ``entries`` or ``rows_per_table`` is out of range (E0159), or ``weight`` no float32 matrix (E0158).
        ConversionError: It holds NaN or infinity (E0756).

    Source:
        Han, Mao and Dally 2016, section 3 (weights shared by k-means); Lloyd 1982.
    """
    weight = checked_weight(weight)
    rows = weight.shape[0] if rows_per_table is None else rows_per_table
    if entries not in (16, 256) or rows < 1 or weight.shape[0] % rows:
        raise UsageError(
            "E0159",
            f"a codebook of {entries} entries for each {rows} of {weight.shape[0]} rows",
            fix="use 16 or 256 entries and a divisor of the number of rows",
        )
    groups = weight.reshape(weight.shape[0] // rows, -1)
    tables = [_padded(lloyd(group, entries), entries) for group in groups]
    codes = [_nearest(group, table) for group, table in zip(groups, tables, strict=True)]
    return Codebook(codes=np.stack(codes).reshape(weight.shape), table=np.stack(tables))


def lloyd(values: NDArray[np.float32], entries: int) -> NDArray[np.float32]:
    """Give the entries that k-means finds in one dimension, ascending; fewer if there are fewer distinct values.

    Lloyd's steps run on sorted values with running sums, so a step costs no more for a million values than for a
    hundred. Two starts, both without chance: the quantiles, and centres as dense as the cube root of the values'
    density, which is the optimum for many centres. As Lloyd's steps cannot carry a centre over its neighbours, two
    clusters are then merged and another is split for as long as that helps. The better end is kept.

    Args:
        values: Any shape, finite.
        entries: How many at most.

    Source:
        Lloyd 1982; Panter and Dite 1951, eq. 18 (cube root).
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    distinct = np.unique(ordered)
    if distinct.size <= entries:
        return distinct.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    starts = (
        np.quantile(ordered, (np.arange(entries) + 0.5) / entries),
        _cube_root_start(ordered, entries),
    )
    squares = float(np.square(ordered).sum())
    ends = [_improve(ordered, sums, squares, _settle(ordered, sums, start)) for start in starts]
    return min(ends, key=lambda end: _loss(ordered, sums, squares, end)).astype(np.float32)


def _cube_root_start(ordered: NDArray[np.float64], entries: int) -> NDArray[np.float64]:
    counts, edges = np.histogram(ordered, _BINS)
    height = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    start: NDArray[np.float64] = np.interp((np.arange(entries) + 0.5) / entries * height[-1], height, edges)
    return start


def _settle(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    for _ in range(_ITERATIONS):
        counts, totals = _clusters(ordered, sums, centres)
        # An empty cluster stays where it is.
        moved = np.where(counts > 0, totals / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres


def _improve(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], squares: float, centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Merge the two neighbours that lose least and split the cluster that gains most, while the loss falls."""
    least = _loss(ordered, sums, squares, centres)
    for _ in range(4 * len(centres)):
        counts, totals = _clusters(ordered, sums, centres)
        edges = np.concatenate([[0], np.cumsum(counts)])
        # Each cluster is cut at its centre; what that gains is what joining the halves would lose.
        cuts = np.clip(np.searchsorted(ordered, centres, side="right"), edges[:-1], edges[1:])
        low, high = cuts - edges[:-1], edges[1:] - cuts
        low_sum, high_sum = sums[cuts] - sums[edges[:-1]], sums[edges[1:]] - sums[cuts]
        split = int(np.argmax(_join_loss(low, low_sum, high, high_sum)))
        joined = _join_loss(counts[:-1], totals[:-1], counts[1:], totals[1:])
        joined[max(split - 1, 0) : split + 1] = np.inf
        merge = int(np.argmin(joined))
        if not low[split] or not high[split] or not np.isfinite(joined[merge]):
            break
        middle = (totals[merge] + totals[merge + 1]) / max(counts[merge] + counts[merge + 1], 1)
        rest = np.delete(centres, [split, merge, merge + 1])
        made = [low_sum[split] / low[split], high_sum[split] / high[split], middle]
        moved = _settle(ordered, sums, np.sort(np.concatenate([rest, made])))
        loss = _loss(ordered, sums, squares, moved)
        if loss >= least * (1 - 1e-9):
            break
        centres, least = moved, loss
    return centres


def _join_loss(
    count: NDArray[np.int64], total: NDArray[np.float64], other: NDArray[np.int64], other_total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the loss grows by when two clusters share their mean: ``n m / (n + m) (a - b)^2``."""
    gap = total / np.maximum(count, 1) - other_total / np.maximum(other, 1)
    grown: NDArray[np.float64] = count * other / np.maximum(count + other, 1) * np.square(gap)
    return grown


def _clusters(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give size and sum of the values nearest to each centre."""
    middles = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[0], np.searchsorted(ordered, middles), [ordered.size]])
    return np.diff(edges), np.diff(sums[edges])


def _loss(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], squares: float, centres: NDArray[np.float64]
) -> float:
    """Sum of squared distances: sum x^2 - 2 c sum x + n c^2 over the clusters."""
    counts, totals = _clusters(ordered, sums, centres)
    return squares + float((centres * (counts * centres - 2 * totals)).sum())


def _padded(table: NDArray[np.float32], entries: int) -> NDArray[np.float32]:
    return np.concatenate([table, np.full(entries - table.size, table[-1], np.float32)])


def _nearest(values: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    return np.searchsorted(middles, values.astype(np.float64)).astype(np.uint8)
