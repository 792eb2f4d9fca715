"""Counts what two int8 files of one plan have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.proof import Stamped

__all__ = ["Steps", "compare_grids", "nearest", "same_decisions", "shared_codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How far codes of one grid are apart.

    Attributes:
        codes: How many were compared.
        unequal: How many differ.
        largest: Largest difference, in steps.
    """

    codes: int = 0
    unequal: int = 0
    largest: int = 0

    @classmethod
    def between(cls, one: NDArray[np.int8], other: NDArray[np.int8]) -> "Steps":
        """Compare two arrays of one shape.

        Raises:
            ValueError: The shapes differ.
        """
        if one.shape != other.shape:
            raise ValueError(f"codes of shapes {one.shape} and {other.shape} do not belong together")
        apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
        return cls(codes=apart.size, unequal=int((apart > 0).sum()), largest=int(apart.max(initial=0)))

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(
            codes=self.codes + other.codes,
            unequal=self.unequal + other.unequal,
            largest=max(self.largest, other.largest),
        )

    @property
    def equal_share(self) -> float:
        """Share of equal codes, a fraction."""
        return 1 - self.unequal / self.codes

    def as_json(self) -> dict[str, object]:
        """Give counts, share and largest step."""
        return {
            "codes": self.codes,
            "unequal": self.unequal,
            "equal_share": round(self.equal_share, 7),
            "largest_steps": self.largest,
        }


def compare_grids(one: Mapping[str, Stamped], other: Mapping[str, Stamped]) -> dict[str, dict[str, int]]:
    """Compare weights, scales, biases and activation grids of two files, layer by layer.

    Returns:
        By part: how many both files hold, how many of these are equal, and how many only one file holds.
    """
    parts = ("codes", "scales", "bias", "input", "output")
    found = {part: {"both": 0, "equal": 0, "one_file_only": 0} for part in parts}
    for name in dict.fromkeys((*one, *other)):
        for part in parts:
            ours, theirs = (getattr(side[name], part) if name in side else None for side in (one, other))
            if ours is None and theirs is None:
                continue
            if ours is None or theirs is None:
                found[part]["one_file_only"] += 1
                continue
            found[part]["both"] += 1
            found[part]["equal"] += bool(np.array_equal(ours, theirs))
    return found


def same_decisions(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Give the share of rows on which two decide alike, a fraction."""
    return float((one == other).mean())


def nearest(vectors: NDArray[np.float32], block: int) -> NDArray[np.int64]:
    """Give each row's nearest other row by cosine, within blocks of rows.

    Args:
        vectors: (N, D).
        block: Rows that are compared with one another.

    Returns:
        Index within the block, int64 (N,).
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for start in range(0, len(unit), block):
        part = unit[start : start + block]
        close = part @ part.T
        np.fill_diagonal(close, -np.inf)
        found.append(close.argmax(1))
    return np.concatenate(found)


def shared_codes(one: NDArray[np.float32], other: NDArray[np.float32], reference: NDArray[np.float32]) -> Steps:
    """Compare final outputs as codes of one 8-bit grid over the float32 model's outputs.

    Args:
        one: Of the first file, any shape.
        other: Of the second.
        reference: Of the float32 model, whose smallest and largest value are the ends of the grid.
    """
    low, high = min(float(reference.min()), 0.0), max(float(reference.max()), 0.0)
    step = (high - low) / 255

    def codes(values: NDArray[np.float32]) -> NDArray[np.int8]:
        return (np.rint((values - low) / step) - 128).clip(-128, 127).astype(np.int8)  # type: ignore[no-any-return]

    return Steps.between(codes(one), codes(other))
