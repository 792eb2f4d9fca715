"""How well two lanes agree, with units and intervals, and whether that is enough."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.gates import FLOAT_SQNR_DB
from edgekit.recipe.spec import BudgetSpec
from edgekit.recipe.units import Points
from edgekit_runtime import statistics

__all__ = ["Agreement", "Fault", "LaneResult", "ParityResult", "compare_lanes", "judge"]

Logits = NDArray[np.float32]

_FEWEST_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneResult:
    """What one lane answered on the evaluation rows.

    Attributes:
        lane: Its name.
        rows: Number of rows.
        correct: Rows whose largest logit is at the right class; a row with NaN is wrong.
        interval: 95 % interval of the accuracy, fractions.
        finite: No logit is NaN or infinite.
        constant: Every row got the same logits, or ten and more rows of several classes got the same answer.
    """

    lane: str
    rows: int
    correct: int
    interval: tuple[float, float]
    finite: bool
    constant: bool

    @property
    def accuracy(self) -> float:
        """Share of correct rows, a fraction."""
        return self.correct / self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One lane against the reference lane, on the same rows.

    Attributes:
        lane: The lane.
        reference: What it is compared with.
        changed: Rows whose decision differs.
        changed_interval: 95 % interval of the share of changed rows, fractions.
        drop: Accuracy lost, in points; below zero when the lane is better.
        sqnr_db: Power of the reference over power of the difference, in dB; higher is better.
        cosine: Of all logits together; 1 is best.
        max_difference: Largest absolute difference of a logit, in logits.
    """

    lane: str
    reference: str
    changed: int
    changed_interval: tuple[float, float]
    drop: Points
    sqnr_db: float
    cosine: float
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A bound that was missed.

    Attributes:
        lane: Where.
        metric: What was measured.
        measured: The value with its unit.
        limit: The bound with its unit.
    """

    lane: str
    metric: str
    measured: str
    limit: str

    def __str__(self) -> str:
        return f"{self.lane}: {self.metric} is {self.measured}; the limit is {self.limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityResult:
    """All lanes on the same rows.

    Attributes:
        rows: Number of evaluation rows.
        reference: Name of the reference lane.
        lanes: Results in the order the lanes ran.
        agreements: One per lane other than the reference.
    """

    rows: int
    reference: str
    lanes: tuple[LaneResult, ...]
    agreements: tuple[Agreement, ...]

    def lane(self, name: str) -> LaneResult:
        """Give the result of a lane."""
        return next(result for result in self.lanes if result.lane == name)

    def agreement(self, name: str) -> Agreement | None:
        """Give the comparison of a lane, or None for the reference."""
        return next((row for row in self.agreements if row.lane == name), None)

    def as_json(self) -> dict[str, object]:
        """Give a JSON-ready form; numbers that are not finite become text."""
        return {
            "schema": 1,
            "rows": self.rows,
            "reference": self.reference,
            "lanes": {
                row.lane: {
                    "accuracy": row.accuracy,
                    "accuracy_interval_95": list(row.interval),
                    "correct": row.correct,
                    "finite": row.finite,
                    "constant": row.constant,
                }
                for row in self.lanes
            },
            "agreements": {
                row.lane: {
                    "changed": row.changed,
                    "changed_interval_95": list(row.changed_interval),
                    "drop_points": row.drop.value,
                    "sqnr_db": _number(row.sqnr_db),
                    "cosine": _number(row.cosine),
                    "max_difference": _number(row.max_difference),
                }
                for row in self.agreements
            },
        }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _result(lane: str, logits: Logits, targets: NDArray[np.int64]) -> LaneResult:
    sound = np.isfinite(logits).all(1)
    correct = int((sound & (np.nan_to_num(logits).argmax(1) == targets)).sum())
    return LaneResult(
        lane=lane,
        rows=len(targets),
        correct=correct,
        interval=statistics.wilson_interval(correct, len(targets)),
        finite=not statistics.has_nan(logits) and bool(np.isfinite(logits).all()),
        constant=statistics.is_constant(logits) or _one_answer(logits, targets),
    )


def _one_answer(logits: Logits, targets: NDArray[np.int64]) -> bool:
    """Tell whether a model has collapsed to one class; fewer than ten rows may share an answer by chance."""
    decisions = np.nan_to_num(logits).argmax(1)
    return len(targets) >= _FEWEST_ROWS and bool((decisions == decisions[0]).all() and (targets != targets[0]).any())


def compare_lanes(logits: Mapping[str, Logits], targets: NDArray[np.int64], *, reference: str) -> ParityResult:
    """Compare every lane with the reference.

    Args:
        logits: Float32 (N, classes) by lane, all on the same rows in the same order.
        targets: Right classes, int64 (N,).
        reference: Key of ``logits``.
    """
    lanes = tuple(_result(lane, values, targets) for lane, values in logits.items())
    base = next(row for row in lanes if row.lane == reference)
    agreements = []
    for row in lanes:
        if row.lane == reference:
            continue
        ours, theirs = logits[row.lane], logits[reference]
        changed = statistics.changed_decisions(theirs, ours)
        agreements.append(
            Agreement(
                lane=row.lane,
                reference=reference,
                changed=changed,
                changed_interval=statistics.wilson_interval(changed, len(targets)),
                drop=Points.from_fraction(base.accuracy - row.accuracy),
                sqnr_db=statistics.sqnr_db(theirs, ours),
                cosine=statistics.cosine(theirs, ours),
                max_difference=statistics.max_abs_difference(theirs, ours),
            )
        )
    return ParityResult(rows=len(targets), reference=reference, lanes=lanes, agreements=tuple(agreements))


def judge(
    result: ParityResult,
    budget: BudgetSpec,
    *,
    size_mb: Mapping[str, float] | None = None,
    cpu_ms: Mapping[str, float] | None = None,
) -> Sequence[Fault]:
    """Give every bound that is missed; an empty list is a pass.

    A lane that gives NaN or the same answer to every row fails whatever the other figures say. Float lanes must repeat
    the reference to 60 dB; int8 lanes must stay within the budget.

    Args:
        result: From ``compare_lanes``.
        budget: What the user allows.
        size_mb: Size of int8 model files in MB (1e6 bytes) by lane.
        cpu_ms: CPU time per inference in ms by lane.
    """
    faults = [fault for row in result.lanes for fault in _broken(row)]
    for pair in result.agreements:
        if pair.lane.endswith("-fp32"):
            faults += _float_faults(pair)
        elif pair.lane.endswith("-int8"):
            faults += _int8_faults(pair, result.rows, budget)
    for metric, unit, limit, measured in (
        ("size", "MB", budget.max_size_mb, size_mb or {}),
        ("CPU time", "ms", budget.max_latency_ms, cpu_ms or {}),
    ):
        faults += [
            Fault(lane=lane, metric=metric, measured=f"{value:.2f} {unit}", limit=f"{limit:g} {unit}")
            for lane, value in measured.items()
            if limit is not None and not value <= limit  # written so that NaN fails
        ]
    return faults


def _broken(row: LaneResult) -> list[Fault]:
    faults = []
    if not row.finite:
        faults.append(Fault(lane=row.lane, metric="output", measured="NaN or infinite", limit="finite"))
    if row.constant and row.rows > 1:
        faults.append(Fault(lane=row.lane, metric="output", measured="the same for every row", limit="varying"))
    return faults


def _float_faults(pair: Agreement) -> list[Fault]:
    if pair.sqnr_db >= FLOAT_SQNR_DB:
        return []
    limit = f"at least {FLOAT_SQNR_DB:.0f} dB"
    return [Fault(lane=pair.lane, metric="SQNR of the float export", measured=f"{pair.sqnr_db:.1f} dB", limit=limit)]


def _int8_faults(pair: Agreement, rows: int, budget: BudgetSpec) -> list[Fault]:
    faults = []
    if not pair.drop <= budget.max_drop:
        faults.append(
            Fault(lane=pair.lane, metric="accuracy drop", measured=str(pair.drop), limit=str(budget.max_drop))
        )
    changed = Points.from_fraction(pair.changed / rows)
    if not changed <= budget.max_changed:
        faults.append(
            Fault(
                lane=pair.lane,
                metric="share of changed decisions",
                measured=f"{pair.changed} of {rows} rows ({changed})",
                limit=str(budget.max_changed),
            )
        )
    return faults
