"""Whether vectors keep their neighbours: what a search over embeddings gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.intervals import bootstrap_mean, mean_of_shares
from edgekit.parity.metrics import Measure, Unit

__all__ = ["DEPTHS", "Neighbours", "neighbour_measures", "neighbours"]

Floats = NDArray[np.float64]
DEPTHS: Final = (1, 5, 10)
_MOST_ROWS = 4000  # a row is compared with every other: more rows would take minutes
_BLOCK = 512  # rows of similarities held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What became of each row's neighbours, by cosine among the other rows.

    Attributes:
        rows: Places of the rows that were looked at, (M,): all, or 4,000 evenly spaced ones.
        overlap: By depth k the share of the reference's k nearest rows that are among the lane's k nearest, (M,).
        rank: Place of the reference's nearest row in the lane's order, from 1, (M,).
    """

    rows: NDArray[np.int64]
    overlap: Mapping[int, Floats]
    rank: Floats


def neighbours(reference: Floats, values: Floats, *, depths: Sequence[int] = DEPTHS) -> Neighbours | None:
    """Compare the neighbours of (N, D) vectors; None below 3 rows, or where a row has no direction."""
    places = np.arange(len(reference))
    if len(places) > _MOST_ROWS:
        places = np.linspace(0, len(places) - 1, _MOST_ROWS).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        theirs, ours = (
            side[places] / np.linalg.norm(side[places], axis=1, keepdims=True) for side in (reference, values)
        )
    if len(places) < 3 or not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return None
    depths = [depth for depth in depths if depth < len(places)]
    overlap: dict[int, list[Floats]] = {depth: [] for depth in depths}
    ranks = []
    for start in range(0, len(places), _BLOCK):
        before, after = (_similar(side, start) for side in (theirs, ours))
        for depth in depths:
            overlap[depth].append(_shared(before, after, depth))
        nearest = np.take_along_axis(after, before.argmax(1)[:, None], axis=1)
        ranks.append(1.0 + (after > nearest).sum(1))
    return Neighbours(
        rows=places,
        overlap={depth: np.concatenate(parts) for depth, parts in overlap.items()},
        rank=np.concatenate(ranks),
    )


def _similar(unit: Floats, start: int) -> Floats:
    """Give the cosines of a block of rows with all rows; a row is not its own neighbour."""
    block = unit[start : start + _BLOCK]
    similar = block @ unit.T
    similar[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
    return np.asarray(similar, np.float64)


def _shared(before: Floats, after: Floats, depth: int) -> Floats:
    if depth == 1:
        return np.asarray(before.argmax(1) == after.argmax(1), np.float64)
    taken = [np.zeros(before.shape, np.bool_) for _ in range(2)]
    for mask, similar in zip(taken, (before, after), strict=True):
        np.put_along_axis(mask, np.argpartition(-similar, depth - 1, axis=1)[:, :depth], True, axis=1)  # noqa: FBT003
    return np.asarray((taken[0] & taken[1]).sum(1) / depth, np.float64)


def neighbour_measures(found: Neighbours) -> tuple[Measure, ...]:
    """Give ``overlap_1``, ``overlap_5``, ... as fractions, and ``nearest_rank`` in rows."""
    rows = len(found.rows)
    shares = tuple(
        Measure(
            name=f"overlap_{depth}",
            value=float(values.mean()),
            unit=Unit.FRACTION,
            better="higher",
            interval=mean_of_shares(values),
            n=rows,
        )
        for depth, values in found.overlap.items()
    )
    ends = bootstrap_mean(found.rank)
    rank = Measure(
        name="nearest_rank", value=float(found.rank.mean()), unit=Unit.ROWS, better="lower", interval=ends, n=rows
    )
    return (*shares, rank)
