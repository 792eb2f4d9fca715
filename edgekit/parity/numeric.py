"""How far two sets of numbers are apart, whatever they mean: SQNR, cosine, differences in units and in steps."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.intervals import bootstrap_mean
from edgekit.parity.metrics import Measure, Unit
from edgekit_runtime import statistics

__all__ = ["grid_step", "numeric_measures", "row_cosines", "spread"]

Floats = NDArray[np.float64]


def row_cosines(reference: Floats, values: Floats) -> Floats:
    """Give the cosine of each row (N, D) with its reference, (N,); NaN for a row without direction or with NaN."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(values, axis=1)
        return np.asarray((reference * values).sum(1) / norms, np.float64)


def spread(values: Floats) -> float:
    """Give how much rows differ from their mean row: root mean square, in the unit of the values."""
    return float(np.sqrt(np.square(values - values.mean(0)).mean()))


def grid_step(reference: Floats) -> float:
    """Give the step of an 8-bit grid that spans the reference's values and 0, for models whose output has no scale.

    NaN where the reference has no span.
    """
    low, high = min(0.0, float(reference.min())), max(0.0, float(reference.max()))
    return (high - low) / 255 if np.isfinite(high - low) and high > low else float("nan")


def numeric_measures(reference: Floats, values: Floats, *, unit: Unit, step: float) -> tuple[Measure, ...]:
    """Compare (N, D) answers as numbers.

    Args:
        reference: Of the reference lane.
        values: Of the lane.
        unit: Of the entries.
        step: Width of one quantisation step of the output, in ``unit``; above 0.

    Returns:
        ``sqnr``, ``cosine``, ``cosine_mean``, ``cosine_worst``, ``max_difference``, ``mean_difference``, ``max_steps``,
        ``mean_steps``; NaN wherever an entry is.
    """
    rows = len(reference)
    cosines = row_cosines(reference, values)
    finite = bool(np.isfinite(reference).all() and np.isfinite(values).all())
    gaps = np.abs(reference - values).mean(1) if finite else np.full(rows, np.nan)
    most, mean, ends = statistics.max_abs_difference(reference, values), float(gaps.mean()), bootstrap_mean(gaps)

    high, low = partial(Measure, better="higher", n=rows), partial(Measure, better="lower", n=rows)
    return (
        high(name="sqnr", value=statistics.sqnr_db(reference, values), unit=Unit.DECIBEL),
        high(name="cosine", value=statistics.cosine(reference, values), unit=Unit.COSINE),
        high(name="cosine_mean", value=float(cosines.mean()), unit=Unit.COSINE, interval=bootstrap_mean(cosines)),
        high(name="cosine_worst", value=float(cosines.min()), unit=Unit.COSINE),
        low(name="max_difference", value=most, unit=unit),
        low(name="mean_difference", value=mean, unit=unit, interval=ends),
        low(name="max_steps", value=most / step, unit=Unit.STEPS),
        low(name="mean_steps", value=mean / step, unit=Unit.STEPS, interval=(ends[0] / step, ends[1] / step)),
    )
