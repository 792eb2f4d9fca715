"""Tells labels that were written in another order from a model that errs: two classes that exchange their names."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.intervals import clopper_pearson

__all__ = ["exchanged_classes", "named_pair"]


def exchanged_classes(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[int, int] | None:
    """Find two classes whose rows mostly get each other's answer.

    A model that errs takes one class for another, but hardly both for each other in most rows; a file of labels with
    two lines exchanged does exactly this, and leaves every lane as far from the right answers as the reference.

    Args:
        found: Answers, (N,).
        wanted: Right answers, (N,).

    Returns:
        The pair with the most such rows, if with 95 % confidence more than half of both classes' rows are among them.
    """
    best: tuple[int, tuple[int, int]] | None = None
    for first, second in combinations((int(label) for label in np.unique(wanted)), 2):
        ours, theirs = wanted == first, wanted == second
        crossed = int((found[ours] == second).sum()), int((found[theirs] == first).sum())
        rows = int(ours.sum()), int(theirs.sum())
        if any(2 * count <= of for count, of in zip(crossed, rows, strict=True)):
            continue
        if clopper_pearson(sum(crossed), sum(rows))[0] > 0.5 and (best is None or sum(crossed) > best[0]):
            best = sum(crossed), (first, second)
    return None if best is None else best[1]


def named_pair(pair: tuple[int, int] | None, names: Sequence[str]) -> tuple[str, str] | None:
    """Write the classes of a pair out."""
    if pair is None:
        return None
    first, second = (names[label] if label < len(names) else str(label) for label in pair)
    return first, second
