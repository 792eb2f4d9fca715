"""How sure a figure is: exact and bootstrap 95 % intervals, paired tests, and how many rows a bound needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.metrics import json_number, number_json
from edgekit_runtime.errors import UsageError

__all__ = [
    "PairedTest",
    "bootstrap_mean",
    "bootstrap_ratio",
    "clopper_pearson",
    "mcnemar",
    "mean_of_shares",
    "paired_bootstrap",
    "rows_needed",
]

Floats = NDArray[np.float64]
_TAIL = 0.025  # on either side of a 95 % interval
_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
_RESAMPLES = 2000
_AT_ONCE = 1 << 21  # indices drawn at once: 16 MiB
_MOST_ROWS = 1 << 30


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a share, as fractions of 1; it holds the true share in at least 95 % of samples.

    Source: Clopper, Pearson 1934; the ends are quantiles of beta distributions (Brown, Cai, DasGupta 2001, 4.2.1).

    Raises:
        UsageError: ``trials`` is below 1, or ``successes`` outside 0 to ``trials`` (E0921).
    """
    from scipy.stats import beta

    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError("E0921", f"{successes} of {trials} is not a share")
    low = 0.0 if successes == 0 else float(beta.ppf(_TAIL, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - _TAIL, successes + 1, trials - successes))
    return low, high


def rows_needed(bound: float, *, share: float = 0.0) -> int | None:
    """Give the fewest rows whose exact interval ends at or below ``bound``, if ``share`` of the rows are hits.

    With no hit the interval of n rows ends at ``1 - 0.025^(1/n)``.

    Args:
        bound: A fraction of 1, above 0.
        share: Of hits, a fraction of 1.

    Returns:
        None where no number of rows helps: the share itself is not below the bound.
    """
    if not 0 <= share < bound:
        return None
    if bound >= 1.0:
        return 1
    low, high = 0, 1
    while not _shows(share, high, bound):
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shows(share, middle, bound) else (middle, high)
    return high


def _shows(share: float, rows: int, bound: float) -> bool:
    return clopper_pearson(min(rows, math.ceil(share * rows - 1e-9)), rows)[1] <= bound


def bootstrap_mean(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean over rows; the same seed gives the same interval.

    Source: Efron, Tibshirani 1993, chapter 13. Below some 30 rows it is too narrow.

    Args:
        values: (N,), one a row. NaN in any row gives NaN.
        seed: Of the resamples.
    """
    if not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = np.quantile(_resampled(values, np.mean, seed), [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def mean_of_shares(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1].

    Where all rows say 0, or all say 1, resampling can show nothing else and would promise certainty: the interval is
    then the exact one of that many hits.
    """
    rows = len(values)
    if bool((values == 1.0).all() or (values == 0.0).all()):
        return clopper_pearson(int(values.sum()), rows)
    return bootstrap_mean(values, seed=seed)


def bootstrap_ratio(above: Floats, below: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of ``sum(above) / sum(below)`` over rows, both (N,); NaN where all below is 0."""
    both = np.stack([above, below], 1)
    if not (np.isfinite(both).all() and below.any()):
        return math.nan, math.nan
    sums = _resampled(both, np.sum, seed)
    sums = sums[sums[:, 1] > 0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def _resampled(values: Floats, statistic: Callable[..., Any], seed: int) -> Floats:
    """Give the statistic over the rows of each resample: (resamples,) of values (N,), (resamples, M) of (N, M)."""
    rng, rows = np.random.default_rng(seed), len(values)
    step = max(1, _AT_ONCE // values.size)
    parts = [
        statistic(values[rng.integers(0, rows, (min(step, _RESAMPLES - start), rows))], axis=1)
        for start in range(0, _RESAMPLES, step)
    ]
    return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Two lanes on the same rows: is the difference more than chance?

    Attributes:
        kind: McNemar's exact test for right and wrong, paired bootstrap for any other score.
        difference: Mean score of the reference minus that of the lane, in the unit of the score.
        interval: 95 % interval of it.
        p_value: Two-sided: how often chance alone would give so much.
        only_reference: Rows that only the reference has right; None for scores.
        only_lane: Rows that only the lane has right; None for scores.
    """

    kind: Literal["mcnemar", "bootstrap"]
    difference: float
    interval: tuple[float, float]
    p_value: float
    only_reference: int | None = None
    only_lane: int | None = None

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {
            "kind": self.kind,
            "difference": number_json(self.difference),
            "interval_95": [number_json(end) for end in self.interval],
            "p_value": number_json(self.p_value),
            "only_reference": self.only_reference,
            "only_lane": self.only_lane,
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Self:
        """Read what ``as_json`` gave."""
        low, high = (json_number(end) for end in held["interval_95"])
        return cls(
            kind=held["kind"],
            difference=json_number(held["difference"]),
            interval=(low, high),
            p_value=json_number(held["p_value"]),
            only_reference=held["only_reference"],
            only_lane=held["only_lane"],
        )


def mcnemar(reference: NDArray[np.bool_], lane: NDArray[np.bool_]) -> PairedTest:
    """Compare two accuracies on the same rows.

    Args:
        reference: Which rows the reference has right, (N,).
        lane: Which rows the lane has right, (N,).

    Source: McNemar 1947, exact: rows that only one has right fall either way like a coin. Interval: Bonett, Price 2012,
    equation 5, as Fagerland, Lydersen, Laake 2014 advise; it has a width even where no row differs.
    """
    from scipy.stats import binom

    lost, won, rows = int((reference & ~lane).sum()), int((lane & ~reference).sum()), len(reference)
    p_value = min(1.0, 2.0 * float(binom.cdf(min(lost, won), lost + won, 0.5))) if lost + won else 1.0
    less, more = (lost + 1) / (rows + 2), (won + 1) / (rows + 2)
    half = _Z95 * math.sqrt((less + more - (less - more) ** 2) / (rows + 2))
    return PairedTest(
        kind="mcnemar",
        difference=(lost - won) / rows,
        interval=(max(-1.0, less - more - half), min(1.0, less - more + half)),
        p_value=p_value,
        only_reference=lost,
        only_lane=won,
    )


def paired_bootstrap(reference: Floats, lane: Floats, *, seed: int = 0) -> PairedTest:
    """Compare the means of any score of each row.

    Source: Efron, Tibshirani 1993, chapters 13 and 16; the p-value counts resamples on the other side of 0, plus one.

    Args:
        reference: Score of each row, (N,).
        lane: The same for the lane.
        seed: Of the resamples.
    """
    differences = np.asarray(reference, np.float64) - np.asarray(lane, np.float64)
    if not np.isfinite(differences).all():
        return PairedTest(kind="bootstrap", difference=math.nan, interval=(math.nan, math.nan), p_value=math.nan)
    means = _resampled(differences, np.mean, seed)
    other = min(int((means <= 0).sum()), int((means >= 0).sum()))
    low, high = np.quantile(means, [_TAIL, 1 - _TAIL])
    return PairedTest(
        kind="bootstrap",
        difference=float(differences.mean()),
        interval=(float(low), float(high)),
        p_value=min(1.0, 2.0 * (other + 1) / (_RESAMPLES + 1)),
    )
