"""A stratified, seeded split that is the same on every machine and with every numpy."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["stratified_split"]


def stratified_split(
    targets: NDArray[np.int64], *, eval_rows: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose ``eval_rows`` rows in which each class has its share; both index arrays come back in ascending order.

    A class's share is rounded by largest remainder (ties go to the lower class), at least 1 and at most all rows of the
    class but one. The order within a class is that of PCG64's raw words: numpy promises that the raw stream of a bit
    generator never changes, which it does not promise for ``Generator.permutation``.

    Args:
        targets: Class of each row, shape (N,).
        eval_rows: At least the number of classes; at most N minus the number of classes; each class has 2 rows or more.
        seed: Seed of the choice.

    Returns:
        Indices of the rows that stay in train, and of those that go to eval.

    Raises:
        ValueError: ``eval_rows`` is outside its range, or a class has a single row.

    Source:
        Largest remainder: Hamilton's method of apportionment. Stream stability: numpy NEP 19.
    """
    classes, counts = np.unique(targets, return_counts=True)
    if counts.min(initial=2) < 2 or not len(classes) <= eval_rows <= len(targets) - len(classes):
        raise ValueError(f"cannot split {eval_rows} rows off {len(targets)} rows of {len(classes)} classes")
    quota = _apportion(counts, eval_rows)
    keys = np.random.PCG64(seed).random_raw(len(targets))
    chosen = np.zeros(len(targets), dtype=bool)
    for label, take in zip(classes, quota, strict=True):
        members = np.flatnonzero(targets == label)
        order = np.argsort(keys[members], kind="stable")
        chosen[members[order[:take]]] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def _apportion(counts: NDArray[np.int64], total: int) -> list[int]:
    """Share ``total`` among classes of the given sizes, in integers, so that no machine rounds it otherwise."""
    rows = int(counts.sum())
    sizes = [int(count) for count in counts]
    quota = [min(max(size * total // rows, 1), size - 1) for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * total % rows), i))
    while sum(quota) < total:
        for i in by_remainder:
            if sum(quota) < total and quota[i] < sizes[i] - 1:
                quota[i] += 1
    while sum(quota) > total:
        for i in reversed(by_remainder):
            if sum(quota) > total and quota[i] > 1:
                quota[i] -= 1
    return quota
