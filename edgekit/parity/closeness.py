"""How close the answers of a lane are to the float model's, without labels."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.agreement import Fault
from edgekit.parity.gates import FLOAT_SQNR_DB
from edgekit.parity.neighbours import neighbours
from edgekit.parity.numeric import row_cosines
from edgekit_runtime import statistics
from edgekit_runtime.errors import UsageError

__all__ = ["Closeness", "Limits", "closeness", "misses"]

Answers = NDArray[np.generic]
_BLOCK = 150  # rows; sets of 150 sentences gave the first figures that others are compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Of N answers to the float model's on the same rows.

    Attributes:
        rows: N.
        cosine_mean: Of each row's answer with its reference; NaN if one has no direction or is not finite.
        cosine_worst: Smallest.
        sqnr_db: Over all rows, in dB.
        nearest_blocks: Share of rows whose nearest neighbour within their block of 150 rows stays the same, a fraction;
            None for answers that are no vectors, or below 3 rows.
        nearest_all: The same among all rows, or 4,000 evenly spaced ones if there are more.
        changed: Rows whose largest entry is another one; None for answers that are no logits.
    """

    rows: int
    cosine_mean: float
    cosine_worst: float
    sqnr_db: float
    nearest_blocks: float | None = None
    nearest_all: float | None = None
    changed: int | None = None

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form; numbers that are not finite become text."""
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def closeness(values: Answers, reference: Answers, *, task: str) -> Closeness:
    """Compare two sets of answers.

    Args:
        values: (N, D).
        reference: (N, D), of the float model.
        task: Name of the runtime's task; embeddings have neighbours, classifiers decisions.

    Raises:
        UsageError: The shapes differ, or there is no row (E0920).
    """
    mine, theirs = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if mine.shape != theirs.shape or mine.ndim != 2 or not mine.size:
        raise UsageError("E0920", f"cannot compare answers of shapes {mine.shape} and {theirs.shape}")
    cosine = row_cosines(theirs, mine)  # NaN for a row of zeros or NaN, and NaN passes no bound
    vectors = task == "text-embedding" and len(mine) > 2 and bool(np.isfinite(cosine).all())
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(mine), _BLOCK)]
    blocks = [part for part in blocks if len(mine[part]) > 2]
    return Closeness(
        rows=len(mine),
        cosine_mean=float(cosine.mean()),
        cosine_worst=float(cosine.min()),
        sqnr_db=statistics.sqnr_db(theirs, mine),
        nearest_blocks=float(np.mean([_kept(mine[p], theirs[p]) for p in blocks])) if vectors else None,
        nearest_all=_kept(mine, theirs) if vectors else None,
        changed=statistics.changed_decisions(theirs, mine) if task.endswith("classification") else None,
    )


def _kept(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Give the share of rows whose most similar other row is the same in both sets."""
    found = neighbours(reference, values, depths=(1,))
    return math.nan if found is None else float(found.overlap[1].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What int8 may lose.

    Attributes:
        min_cosine: Least mean cosine of answers to the float model's.
        max_changed: Share of decisions that may change, a fraction; for classifiers.
    """

    min_cosine: float = 0.997
    max_changed: float = 0.05

    def met_by(self, close: Closeness, *, room: float = 1.0) -> bool:
        """Say whether answers are close enough; NaN never is."""
        kept = close.cosine_mean >= 1.0 - room * (1.0 - self.min_cosine)
        return kept and (close.changed is None or close.changed <= self.max_changed * close.rows)


def misses(lane: str, close: Closeness, limits: Limits) -> list[Fault]:
    """Give every bound that a lane misses: float lanes repeat the reference to 60 dB, int8 ones stay in the limits."""
    if not lane.endswith("-int8"):
        if close.sqnr_db >= FLOAT_SQNR_DB:
            return []
        measured, limit = f"{close.sqnr_db:.1f} dB", f"at least {FLOAT_SQNR_DB:.0f} dB"
        return [Fault(lane=lane, metric="SQNR of the float export", measured=measured, limit=limit)]
    faults = []
    if not close.cosine_mean >= limits.min_cosine:  # written so that NaN fails
        measured, limit = f"{close.cosine_mean:.8g}", f"at least {limits.min_cosine:g}"
        faults.append(Fault(lane=lane, metric="mean cosine", measured=measured, limit=limit))
    if close.changed is not None and not close.changed <= limits.max_changed * close.rows:
        measured, limit = f"{close.changed} of {close.rows} rows", f"{100 * limits.max_changed:g} %"
        faults.append(Fault(lane=lane, metric="share of changed decisions", measured=measured, limit=limit))
    return faults
