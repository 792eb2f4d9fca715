"""What was done to a ready model that has no plan, and how near its answers stayed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import UsageError
from edgekit_runtime.statistics import sqnr_db

__all__ = ["Feeds", "Quantised", "closeness", "judged"]

_JUDGED_ROWS = 32
Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """The int8 form of a model without a plan.

    Attributes:
        how: ``static``: weights and activations in int8 on calibrated grids; ``dynamic``: int8 weights, activations on
            a grid measured at each run.
        why: Reason for it.
        sqnr_db: Of each float output against the float model, by name, on up to 32 of the calibration rows, in dB.
        rows: Calibration rows.
    """

    how: Literal["static", "dynamic"]
    why: str
    sqnr_db: Mapping[str, float]
    rows: int


def judged(rows: Sequence[Feeds]) -> list[Feeds]:
    """Give the rows that both models are compared on, spread over all.

    Raises:
        UsageError: There is none (E0133).
    """
    if not rows:
        raise UsageError("E0133", "there are no calibration rows", fix="give at least 1; 256 is a good number")
    return list(rows[:: max(1, len(rows) // _JUDGED_ROWS)][:_JUDGED_ROWS])


def closeness(wanted: Sequence[Feeds], given: Sequence[Feeds]) -> dict[str, float]:
    """Give the signal-to-noise ratio of each float output in dB."""
    return {
        name: sqnr_db(_stack(wanted, name), _stack(given, name))
        for name, value in wanted[0].items()
        if np.issubdtype(value.dtype, np.floating)
    }


def _stack(rows: Sequence[Feeds], name: str) -> NDArray[np.float64]:
    return np.stack([row[name].astype(np.float64) for row in rows])
