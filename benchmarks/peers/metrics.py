"""How close are embeddings to the float32 ones? Cosine, and whether the nearest neighbour is the same."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Closeness", "closeness", "nearest_agreement"]

_BLOCK = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Of N embeddings to their references.

    Attributes:
        cosine_mean: Mean over the rows.
        cosine_min: Worst row.
        nearest_blocks: Share of rows whose nearest neighbour among their block of 150 rows is the same; mean over the
            blocks. Trials with 150 sentences gave this figure.
        nearest_all: The same among all rows, which is harder: neighbours lie closer together.
    """

    cosine_mean: float
    cosine_min: float
    nearest_blocks: float
    nearest_all: float


def closeness(values: NDArray[np.float32], reference: NDArray[np.float32], *, block: int = _BLOCK) -> Closeness:
    """Compare two sets of embeddings, both (N, D); N is a multiple of ``block``.

    Raises:
        ValueError: The shapes differ, or a block is not full.
    """
    if values.shape != reference.shape or len(values) % block:
        raise ValueError(f"embeddings {values.shape}, reference {reference.shape}, blocks of {block}")
    mine, theirs = _unit(values), _unit(reference)
    cosine = (mine * theirs).sum(1)
    blocks = [slice(start, start + block) for start in range(0, len(mine), block)]
    return Closeness(
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        nearest_blocks=float(np.mean([nearest_agreement(mine[part], theirs[part]) for part in blocks])),
        nearest_all=nearest_agreement(mine, theirs),
    )


def nearest_agreement(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Give the share of rows whose most similar other row is the same in both sets of unit vectors, (N, D)."""
    return float((_nearest(values) == _nearest(reference)).mean())


def _nearest(unit: NDArray[np.float64]) -> NDArray[np.int64]:
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return np.asarray(similar.argmax(1), np.int64)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float64)
