"""Whether the lanes are good enough: every gate judged in words, and the reference judged first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from edgekit.parity.compare import Comparison, LaneComparison
from edgekit.parity.gates import Gate, chosen_gates
from edgekit.parity.intervals import clopper_pearson, rows_needed
from edgekit.parity.metrics import Measure, Quantity, Unit
from edgekit_runtime.errors import QualityError, UsageError

__all__ = ["GateResult", "Outcome", "Verdict", "judge", "refusal"]

SCHEMA: Final = 1
_FEWEST_ROWS = 10  # fewer may all be wrong by chance
_FINITE, _VARYING = "finite", "varying"
_FLOAT_GATE = "min_float_sqnr"


class Outcome(StrEnum):
    """What came of a gate."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"  # the value meets the bound, but the rows are too few to be sure of it


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate of one lane.

    Attributes:
        lane: Name.
        gate: Name of the gate, or ``finite`` or ``varying``, which hold for every lane.
        outcome: What came of it.
        measure: What was measured; None for ``finite`` and ``varying``.
        limit: The bound; None likewise.
        words: The result in one sentence.
    """

    lane: str
    gate: str
    outcome: Outcome
    measure: Measure | None
    limit: Quantity | None
    words: str

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        limit = self.limit
        return {
            "lane": self.lane,
            "gate": self.gate,
            "outcome": self.outcome.value,
            "measure": None if self.measure is None else self.measure.as_json(),
            "limit": None if limit is None else {"value": limit.value, "unit": limit.unit.value},
            "words": self.words,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave."""
        limit = held["limit"]
        return cls(
            lane=str(held["lane"]),
            gate=str(held["gate"]),
            outcome=Outcome(held["outcome"]),
            measure=None if held["measure"] is None else Measure.from_json(held["measure"]),
            limit=None if limit is None else Quantity(float(limit["value"]), Unit(limit["unit"])),
            words=str(held["words"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of a comparison.

    Attributes:
        reference_faults: Why nothing can be judged by this reference; empty for a sound one.
        results: Of every gate of every lane.
        warnings: What the figures cannot show, in words.
        require_enough_rows: Whether an undecided gate counts as a failed one.
    """

    reference_faults: tuple[str, ...]
    results: tuple[GateResult, ...]
    warnings: tuple[str, ...]
    require_enough_rows: bool = False

    @property
    def failed(self) -> tuple[GateResult, ...]:
        """Gates that were missed."""
        return tuple(each for each in self.results if each.outcome is Outcome.FAILED)

    @property
    def undecided(self) -> tuple[GateResult, ...]:
        """Gates that more rows would have to settle."""
        return tuple(each for each in self.results if each.outcome is Outcome.UNDECIDED)

    @property
    def passed(self) -> bool:
        """Whether the reference is sound and no gate was missed."""
        return not (self.reference_faults or self.failed or (self.require_enough_rows and self.undecided))

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "reference_faults": list(self.reference_faults),
            "results": [each.as_json() for each in self.results],
            "warnings": list(self.warnings),
            "require_enough_rows": self.require_enough_rows,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave; ValueError, KeyError or TypeError if it is something else."""
        if held["schema"] != SCHEMA:
            raise ValueError(f"a verdict of schema {held['schema']!r}; this edgekit reads {SCHEMA}")
        return cls(
            reference_faults=tuple(map(str, held["reference_faults"])),
            results=tuple(GateResult.from_json(each) for each in held["results"]),
            warnings=tuple(map(str, held["warnings"])),
            require_enough_rows=bool(held["require_enough_rows"]),
        )


def judge(comparison: Comparison, asked: Iterable[Gate] = (), *, require_enough_rows: bool = False) -> Verdict:
    """Hold every lane to the gates that were asked for and to the defaults of the task.

    A lane with NaN or with the same answer to every row fails whatever the gates. A reference that is itself bad lets
    nothing pass. A gate whose value holds, but whose 95 % interval does not, is undecided.

    Args:
        comparison: From ``compare``.
        asked: Gates of the user.
        require_enough_rows: Undecided gates fail.

    Raises:
        UsageError: An asked gate bounds what was not measured on these rows (E0167).
    """
    gates = chosen_gates(comparison.reading.value, asked)
    _require_measured(comparison, gates)
    results = []
    for lane in comparison.others:
        results += _soundness(lane)
        results += _gated(lane, comparison, gates)
    faults, warnings = _reference(comparison)
    if comparison.lane(comparison.reference).precision == "int8":
        warnings.append(f"{comparison.reference} is int8 itself: to agree with it says nothing about float32")
    if not comparison.others:
        warnings.append(f"nothing was compared: {comparison.reference} alone has answered; name a lane with --on")
    warnings += [f"{each.lane}: {each.words}" for each in results if each.outcome is Outcome.UNDECIDED]
    return Verdict(
        reference_faults=tuple(faults),
        results=tuple(results),
        warnings=tuple(warnings),
        require_enough_rows=require_enough_rows,
    )


def _require_measured(comparison: Comparison, gates: Iterable[Gate]) -> None:
    for gate in gates:
        if gate.asked and comparison.others and not any(_bounds(gate, lane, comparison) for lane in comparison.others):
            if gate.kind.name == _FLOAT_GATE:
                what = f"{_FLOAT_GATE} bounds float32 lanes against a float32 reference, and none was compared"
                raise UsageError("E0167", what, fix="name a float32 lane with --on, or take min_sqnr")
            needs_labels = gate.kind.measure in ("drop", "relative_accuracy")
            raise UsageError(
                "E0167",
                f"{gate.kind.name} bounds the {gate.kind.meaning}, which was not measured",
                why="these rows have no labels" if needs_labels else f"answers were read as {comparison.reading.value}",
                fix="give rows with labels (--data), or leave the gate out" if needs_labels else "leave the gate out",
            )


def _soundness(lane: LaneComparison) -> list[GateResult]:
    """Judge what no gate can allow."""
    return [
        GateResult(
            lane=lane.lane,
            gate=gate,
            outcome=Outcome.PASSED if sound else Outcome.FAILED,
            measure=None,
            limit=None,
            words=good if sound else bad,
        )
        for gate, sound, good, bad in (
            (_FINITE, lane.finite, "all outputs are finite", "the outputs hold NaN or infinity"),
            (_VARYING, not lane.collapsed, "answers vary with the input", "the answer is the same for every row"),
        )
    ]


def _bounds(gate: Gate, lane: LaneComparison, comparison: Comparison) -> Measure | None:
    """Give what a gate bounds in a lane; None where there is no such thing."""
    both_float = lane.precision == comparison.lane(comparison.reference).precision == "float32"
    return None if gate.kind.name == _FLOAT_GATE and not both_float else lane.measure(gate.kind.measure)


def _gated(lane: LaneComparison, comparison: Comparison, gates: Iterable[Gate]) -> list[GateResult]:
    results = []
    for gate in gates:
        measure = _bounds(gate, lane, comparison)
        if measure is None:
            continue
        # Bounds in the output's unit may leave open which one it is; a bound in logits may not.
        limit = Quantity(gate.limit.value, measure.unit) if gate.limit.unit is Unit.OUTPUT else gate.limit
        outcome, words = _judged(measure, limit, gate)
        results.append(
            GateResult(lane=lane.lane, gate=gate.kind.name, outcome=outcome, measure=measure, limit=limit, words=words)
        )
    return results


def _judged(measure: Measure, limit: Quantity, gate: Gate) -> tuple[Outcome, str]:
    side = "at least" if measure.better == "higher" else "at most"
    found = f"{gate.kind.meaning}: {_counted(measure)}"
    if not measure.meets(limit):
        return Outcome.FAILED, f"{found}; the limit is {side} {limit}"
    if measure.surely_meets(limit):
        return Outcome.PASSED, f"{found}; within {side} {limit}"
    return Outcome.UNDECIDED, f"{found}; the bound is {side} {limit}: {_more_rows(measure, limit)}"


def _counted(measure: Measure) -> str:
    """Write a measure with its interval; a share of rows as a count, too."""
    if measure.name != "changed" or measure.n is None or measure.interval is None:
        return str(measure)
    count = round(measure.value * measure.n / 100)
    most = f"with 95 % confidence at most {measure.interval[1]:.1f} points"
    return f"{count} of {measure.n:,} rows ({measure.value:.2f} points; {most})"


def _more_rows(measure: Measure, limit: Quantity) -> str:
    """Say how many rows would settle it if the value stays what it is."""
    rows = measure.n or 0
    if measure.name == "changed":
        needed = rows_needed(limit.value / 100, share=measure.value / 100)
    else:
        assert measure.interval is not None
        low, high = measure.interval
        room = abs(measure.value - limit.value)
        width = measure.value - low if measure.better == "higher" else high - measure.value
        needed = int(-(-rows * (width / room) ** 2 // 1)) if room > 0 else None
    if needed is None:
        return "no number of rows can settle a value that lies on its bound"
    return f"{'at least' if measure.value == 0 else 'about'} {max(needed, rows + 1):,} rows are needed to be sure"


def _reference(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Give faults of the reference and warnings about it."""
    lane = comparison.lane(comparison.reference)
    faults: list[str] = []
    warnings: list[str] = []
    if not lane.finite:
        faults.append("its outputs hold NaN or infinity")
    if lane.collapsed:
        faults.append("it gives the same answer to every row")
    if comparison.exchanged is not None:
        first, second = comparison.exchanged
        faults.append(f"rows of {first} are answered as {second}, and rows of {second} as {first}: labels exchanged?")
    if lane.accuracy is None:
        return faults, warnings
    if comparison.chance is None:
        if lane.accuracy.value == 0:
            _add_never_right(comparison, faults, warnings)
        return faults, warnings
    interval, chance = lane.accuracy.interval, comparison.chance
    assert interval is not None
    if interval[0] > chance:
        return faults, warnings
    found = f"its accuracy is {lane.accuracy.value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"
    by_chance = f"chance alone gives {chance:.4f} on these {comparison.rows:,} rows"
    if clopper_pearson(comparison.rows, comparison.rows)[0] <= chance and lane.accuracy.value > chance:
        warnings.append(f"{comparison.reference}: {found}; so few rows cannot show that it is no chance ({by_chance})")
    elif interval[1] < chance:
        faults.append(f"{found}, and {by_chance}: are the labels in another order?")
    else:
        faults.append(f"{found}, and {by_chance}")
    return faults, warnings


def _add_never_right(comparison: Comparison, faults: list[str], warnings: list[str]) -> None:
    found = f"it is right on none of {comparison.rows:,} row{'s' * (comparison.rows != 1)}"
    if comparison.rows < _FEWEST_ROWS:
        warnings.append(f"{comparison.reference}: {found}; so few rows show nothing of it")
    else:
        faults.append(found)


def refusal(verdict: Verdict, *, bundle: str, reference: str) -> QualityError | None:
    """Give the error that a command ends with, or None where all passed.

    Args:
        verdict: From ``judge``.
        bundle: Name of the file.
        reference: Name of the reference lane.

    Returns:
        E0305 for a bad reference, E0302 for a missed gate, E0306 where only the rows are too few.
    """
    if verdict.passed:
        return None
    if verdict.reference_faults:
        return QualityError(
            "E0305",
            f"{bundle} cannot be judged: the reference {reference} is itself bad",
            why="; ".join(verdict.reference_faults),
            fix="look at the labels and at the preprocessing first; nothing is gained by agreeing with a bad reference",
        )
    if verdict.failed:
        return QualityError(
            "E0302",
            f"{bundle} does not answer as {reference} does",
            why="; ".join(f"{each.lane}: {each.words}" for each in verdict.failed),
            fix="--evidence run.json and `edgekit report run.json` show the worst rows and slices, "
            "`edgekit debug layers` the layer where it starts",
        )
    return QualityError(
        "E0306",
        f"{bundle}: the rows are too few for the bounds",
        why="; ".join(f"{each.lane}: {each.words}" for each in verdict.undecided),
        fix="give more rows (--data), widen the bound, or do not require enough rows",
    )
