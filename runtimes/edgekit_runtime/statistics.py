"""How far two sets of outputs agree. One definition for desktop and device; NaN is never hidden.

Wherever an array holds NaN or infinity the measure is NaN, so that every comparison with a bound fails.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import UsageError

__all__ = [
    "accuracy",
    "changed_decisions",
    "cosine",
    "decisions",
    "has_nan",
    "is_constant",
    "max_abs_difference",
    "sqnr_db",
    "wilson_interval",
]

_Array = NDArray[np.generic]
_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def _pair(reference: _Array, measured: _Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if a.shape != b.shape or a.size == 0:
        raise UsageError("E0920", f"cannot compare arrays of shapes {a.shape} and {b.shape}")
    return a, b


def _finite(*arrays: NDArray[np.float64]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def sqnr_db(reference: _Array, measured: _Array) -> float:
    """Signal to quantisation noise in dB over all entries: ``10 log10(sum r^2 / sum (r - m)^2)``.

    Returns:
        Infinity when the arrays are equal; minus infinity when only the reference is all zero.

    Source: Lin, Talathi, Annapureddy 2016, "Fixed Point Quantization of Deep Convolutional Networks", section 3.
    """
    r, m = _pair(reference, measured)
    if not _finite(r, m):
        return math.nan
    signal, noise = float(np.square(r).sum()), float(np.square(r - m).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def cosine(reference: _Array, measured: _Array) -> float:
    """Cosine of the angle between the flattened arrays; NaN when one is all zero, for it has no direction."""
    r, m = (array.ravel() for array in _pair(reference, measured))
    norms = float(np.linalg.norm(r)) * float(np.linalg.norm(m))
    return float(r @ m) / norms if _finite(r, m) and norms > 0.0 else math.nan


def max_abs_difference(reference: _Array, measured: _Array) -> float:
    """Largest ``|r - m|`` over all entries, in the unit of the arrays."""
    r, m = _pair(reference, measured)
    return float(np.abs(r - m).max()) if _finite(r, m) else math.nan


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share, as fractions of 1.

    Source: Wilson 1927; Brown, Cai, DasGupta 2001, equation 4.

    Raises:
        UsageError: ``trials`` is below 1, or ``successes`` outside 0 to ``trials``.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError("E0921", f"{successes} of {trials} is not a share")
    share, z2 = successes / trials, _Z95 * _Z95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # At the ends the bound is exactly 0 or 1; rounding must not move it.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


def decisions(logits: _Array) -> NDArray[np.intp]:
    """Index of the largest logit per row; -1 for a row with NaN, which decides nothing."""
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.size == 0:
        raise UsageError("E0920", f"logits have shape (N, C), not {values.shape}")
    return np.where(np.isnan(values).any(axis=1), -1, values.argmax(axis=1))


def accuracy(logits: _Array, targets: _Array) -> float:
    """Share of rows whose largest logit is the target, as a fraction of 1; a row with NaN is wrong.

    Args:
        logits: (N, C).
        targets: (N,), class indices from 0.
    """
    found, wanted = decisions(logits), np.asarray(targets)
    if wanted.shape != found.shape:
        raise UsageError("E0920", f"{len(found)} rows of logits need as many targets, not {wanted.shape}")
    return float((found == wanted).mean())


def changed_decisions(reference: _Array, measured: _Array) -> int:
    """Rows of (N, C) logits whose largest entry moved; a row with NaN on either side counts as changed."""
    a, b = (decisions(array) for array in _pair(reference, measured))
    return int(((a != b) | (a < 0) | (b < 0)).sum())


def is_constant(logits: _Array) -> bool:
    """Whether two or more rows are all the same: the sign of a model that no longer looks at its input."""
    values = np.asarray(logits)
    return len(values) > 1 and bool((values == values[:1]).all())


def has_nan(values: _Array) -> bool:
    """Whether any entry is NaN."""
    return bool(np.isnan(np.asarray(values, np.float64)).any())
