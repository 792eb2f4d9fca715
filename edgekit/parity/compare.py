"""Every lane against the reference, on the same rows: numbers, answers, accuracy, slices and the worst rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.exchanged import exchanged_classes, named_pair
from edgekit.parity.intervals import PairedTest, mcnemar, paired_bootstrap
from edgekit.parity.metrics import Measure, Unit, json_number, number_json
from edgekit.parity.numeric import grid_step, numeric_measures, row_cosines, spread
from edgekit.parity.readings import READERS, Flip, Reader, Reading, Targets, reading_of, row_differences
from edgekit.parity.rows import RowDifference, raw_row, target_texts, worst_places
from edgekit.parity.slices import Part, Slice, accuracy_measure, measure_slice, partitions, worst_slice
from edgekit_runtime import statistics
from edgekit_runtime.errors import UsageError
from edgekit_runtime.rows import RawRows

__all__ = ["SCHEMA", "Asked", "Comparison", "LaneComparison", "compare"]

SCHEMA: Final = 1
Floats = NDArray[np.float64]
_FEWEST_ROWS = 10  # fewer rows may share an answer by chance
_COLLAPSED = 0.01  # of the reference's spread between rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the lanes were asked, and how to read what they answer.

    Attributes:
        task: Of the bundle.
        rows: Raw inputs; None where they are not known, which leaves out most slices.
        targets: Right answers, one a row: int classes (N,) of decisions, int (N, 2) of spans, int (N, T) of tokens,
            texts of text; None where they are not known.
        names: Of the classes, tokens or symbols; of the entries otherwise. May be empty for all but tokens and text.
        reading: How answers are read; None = as the task says.
        steps: By lane the scale of its output, the width of one quantisation step in units of the output. A lane
            without one is measured in steps of an 8-bit grid over the reference's answers.
        precisions: By lane ``int8`` or ``float32``; a lane without one is float32 if its name ends in ``-fp32`` or is
            ``torch``.
    """

    task: str
    rows: RawRows | None = None
    targets: Targets | None = None
    names: Sequence[str] = ()
    reading: Reading | None = None
    steps: Mapping[str, float] = field(default_factory=dict)
    precisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneComparison:
    """One lane.

    Attributes:
        lane: Its name.
        precision: ``int8`` or ``float32``.
        finite: No output is NaN or infinite.
        collapsed: Every row has nearly the same outputs, or ten and more rows that should differ the same answer.
        accuracy: Mean score (a fraction) with its interval; None without labels.
        measures: Against the reference; empty for the reference itself. Numeric ones always; ``changed`` and others by
            reading; ``drop`` (points) and ``relative_accuracy`` (%) with labels.
        test: Paired test of both accuracies; None without labels and for the reference.
        flips: Decisions that moved.
        slices: Parts of the rows.
        worst_rows: The 20 rows furthest from the reference.
    """

    lane: str
    precision: str
    finite: bool
    collapsed: bool
    accuracy: Measure | None = None
    measures: tuple[Measure, ...] = ()
    test: PairedTest | None = None
    flips: tuple[Flip, ...] = ()
    slices: tuple[Slice, ...] = ()
    worst_rows: tuple[RowDifference, ...] = ()

    def measure(self, name: str) -> Measure | None:
        """Give one of the measures."""
        return next((each for each in self.measures if each.name == name), None)

    @property
    def worst_slice(self) -> Slice | None:
        """The part of the rows that lost most."""
        return worst_slice(self.slices)

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        flips = [[flip.row, flip.reference, flip.lane, number_json(flip.margin)] for flip in self.flips]
        return {
            "lane": self.lane,
            "precision": self.precision,
            "finite": self.finite,
            "collapsed": self.collapsed,
            "accuracy": None if self.accuracy is None else self.accuracy.as_json(),
            "measures": [each.as_json() for each in self.measures],
            "test": None if self.test is None else self.test.as_json(),
            "flips": flips,
            "slices": [each.as_json() for each in self.slices],
            "worst_rows": [each.as_json() for each in self.worst_rows],
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave; ValueError, KeyError or TypeError if it is something else."""
        flips = tuple(
            Flip(row=row, reference=theirs, lane=ours, margin=json_number(margin))
            for row, theirs, ours, margin in held["flips"]
        )
        return cls(
            lane=str(held["lane"]),
            precision=str(held["precision"]),
            finite=bool(held["finite"]),
            collapsed=bool(held["collapsed"]),
            accuracy=None if held["accuracy"] is None else Measure.from_json(held["accuracy"]),
            measures=tuple(Measure.from_json(each) for each in held["measures"]),
            test=None if held["test"] is None else PairedTest.from_json(held["test"]),
            flips=flips,
            slices=tuple(Slice.from_json(each) for each in held["slices"]),
            worst_rows=tuple(RowDifference.from_json(each) for each in held["worst_rows"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All lanes on the same rows.

    Attributes:
        task: Of the bundle.
        reading: How answers were read.
        rows: Their number.
        reference: Name of the reference lane.
        labelled: Whether right answers are known.
        chance: Share of right answers that the reference would have if its answers had nothing to do with the inputs;
            a fraction. None without labels, where all labels are the same, and for answers that are no decisions.
        lanes: In the order given, the reference among them.
        exchanged: Two classes whose rows mostly get each other's answer from the reference.
    """

    task: str
    reading: Reading
    rows: int
    reference: str
    labelled: bool
    chance: float | None
    lanes: tuple[LaneComparison, ...]
    exchanged: tuple[str, str] | None = None

    def lane(self, name: str) -> LaneComparison:
        """Give a lane; KeyError if there is none of that name."""
        return {each.lane: each for each in self.lanes}[name]

    @property
    def others(self) -> tuple[LaneComparison, ...]:
        """All lanes but the reference."""
        return tuple(each for each in self.lanes if each.lane != self.reference)

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form; numbers that are not finite become text."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "reading": self.reading.value,
            "rows": self.rows,
            "reference": self.reference,
            "labelled": self.labelled,
            "chance": self.chance,
            "lanes": [each.as_json() for each in self.lanes],
            "exchanged": None if self.exchanged is None else list(self.exchanged),
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave; ValueError, KeyError or TypeError if it is something else."""
        if held["schema"] != SCHEMA:
            raise ValueError(f"a comparison of schema {held['schema']!r}; this edgekit reads {SCHEMA}")
        return cls(
            task=str(held["task"]),
            reading=Reading(held["reading"]),
            rows=int(held["rows"]),
            reference=str(held["reference"]),
            labelled=bool(held["labelled"]),
            chance=None if held["chance"] is None else float(held["chance"]),
            lanes=tuple(LaneComparison.from_json(each) for each in held["lanes"]),
            exchanged=None if held["exchanged"] is None else (str(held["exchanged"][0]), str(held["exchanged"][1])),
        )


def compare(answers: Mapping[str, NDArray[Any]], asked: Asked, *, reference: str) -> Comparison:
    """Compare every lane with the reference.

    Args:
        answers: Float32 (N, entries) by lane, all on the same rows in the same order.
        asked: What was asked.
        reference: Key of ``answers``.

    Raises:
        UsageError: Shapes differ, there is no row, or a reference of that name (E0920); the targets do not fit the
            reading (E0166).
    """
    if reference not in answers:
        raise UsageError("E0920", f"no lane {reference!r} to compare with; there are: {', '.join(answers)}")
    held = {lane: np.asarray(values, np.float64) for lane, values in answers.items()}
    base = held[reference]
    for lane, values in held.items():
        if values.shape != base.shape or values.ndim != 2 or not values.size:
            raise UsageError("E0920", f"cannot compare answers of shapes {values.shape} ({lane}) and {base.shape}")
    for what, given in (("rows", asked.rows), ("targets", asked.targets)):
        if given is not None and len(given) != len(base):
            raise UsageError("E0920", f"{len(base)} answers to {len(given)} {what}")
    reading = asked.reading or reading_of(asked.task)
    reader = READERS[reading](asked.names)
    targets = asked.targets
    scores = {lane: reader.scores(values, targets) for lane, values in held.items()} if targets is not None else None
    work = _Work(asked=asked, reading=reading, reader=reader, reference=reference, answers=held, scores=scores)
    labelled_decisions = reading is Reading.DECISIONS and targets is not None
    pair = exchanged_classes(statistics.decisions(base), np.asarray(targets)) if labelled_decisions else None
    return Comparison(
        task=asked.task,
        reading=reading,
        rows=len(base),
        reference=reference,
        labelled=targets is not None,
        chance=_chance(base, targets) if reading is Reading.DECISIONS and targets is not None else None,
        lanes=work.lanes(),
        exchanged=named_pair(pair, asked.names),
    )


def _chance(base: Floats, targets: Targets) -> float | None:
    """Give the accuracy of the same answers dealt out at random, or of even guesses if that is more.

    Source: Cohen 1960, p_c: the sum over classes of its share of the answers times its share of the labels.
    """
    wanted, found = np.asarray(targets), statistics.decisions(base)
    if len(np.unique(wanted)) < 2:
        return None
    agreed = sum(float((found == label).mean() * (wanted == label).mean()) for label in np.unique(wanted))
    return float(max(agreed, 1.0 / base.shape[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the comparison of one lane needs."""

    asked: Asked
    reading: Reading
    reader: Reader
    reference: str
    answers: Mapping[str, Floats]
    scores: Mapping[str, Floats] | None

    def lanes(self) -> tuple[LaneComparison, ...]:
        parts = partitions(self.asked.rows, self._classes())
        return tuple(self._lane(lane, parts) for lane in self.answers)

    def _lane(self, lane: str, parts: Sequence[Part]) -> LaneComparison:
        base, values = self.answers[self.reference], self.answers[lane]
        scores = None if self.scores is None else (self.scores[self.reference], self.scores[lane])
        plain = LaneComparison(
            lane=lane,
            precision=self.asked.precisions.get(lane) or _precision(lane),
            finite=bool(np.isfinite(values).all()),
            collapsed=self._collapsed(lane),
            accuracy=None if scores is None else accuracy_measure(scores[1]),
        )
        if lane == self.reference:
            return plain
        found = self.reader.read(base, values)
        step = self.asked.steps.get(lane) or grid_step(base)
        numeric = numeric_measures(base, values, unit=self.reader.unit, step=step)
        test = None if scores is None else _paired(*scores)
        task = () if scores is None or test is None else _task_measures(scores[0], scores[1], test)
        cosines = row_cosines(base, values)
        slices = (measure_slice(part, changed=found.changed, scores=scores, cosines=cosines) for part in parts)
        return LaneComparison(
            lane=lane,
            precision=plain.precision,
            finite=plain.finite,
            collapsed=plain.collapsed,
            accuracy=plain.accuracy,
            measures=(*found.measures, *task, *numeric),
            test=test,
            flips=found.flips,
            slices=tuple(slices),
            worst_rows=self._worst(lane, found.changed),
        )

    def _classes(self) -> list[str] | None:
        """Give the class of each row: the right one, else the one that the reference chose."""
        if self.reading is not Reading.DECISIONS:
            return None
        targets = self.asked.targets
        found = statistics.decisions(self.answers[self.reference]) if targets is None else np.asarray(targets)
        return target_texts(found, self.asked.names, range(len(found)))

    def _collapsed(self, lane: str) -> bool:
        values, base = self.answers[lane], self.answers[self.reference]
        if len(values) < 2 or not np.isfinite(values).all():
            return False
        if statistics.is_constant(values) or spread(values) < 1e-6 * float(np.abs(values).max()):
            return True
        if np.isfinite(base).all() and spread(values) < _COLLAPSED * spread(base):
            return True
        if self.reading is not Reading.DECISIONS or len(values) < _FEWEST_ROWS:
            return False
        targets = self.asked.targets
        expected = statistics.decisions(base) if targets is None else np.asarray(targets)
        found = statistics.decisions(values)
        return bool((found == found[0]).all()) and _several(expected)

    def _worst(self, lane: str, changed: NDArray[np.bool_] | None) -> tuple[RowDifference, ...]:
        base, values = self.answers[self.reference], self.answers[lane]
        gaps = row_differences(base, values, self.reading)
        places = worst_places(gaps, changed)
        columns = zip(
            places,
            self.reader.texts(base, places),
            self.reader.texts(values, places),
            target_texts(self.asked.targets, self.asked.names, places),
            strict=True,
        )
        unit = Unit.COSINE if self.reading is Reading.VECTORS else self.reader.unit
        return tuple(
            RowDifference(
                row=place,
                raw=raw_row(self.asked.rows, place),
                reference=theirs,
                lane=ours,
                target=target,
                changed=changed is not None and bool(changed[place]),
                difference=float(gaps[place]),
                unit=unit,
            )
            for place, theirs, ours, target in columns
        )


def _several(expected: NDArray[Any]) -> bool:
    """Say whether a tenth of the rows and two at least should have another answer than most."""
    _, counts = np.unique(expected, return_counts=True)
    return bool(len(expected) - counts.max() >= max(2.0, len(expected) / 10))


def _precision(lane: str) -> str:
    return "float32" if lane == "torch" or lane.endswith("-fp32") else "int8"


def _paired(reference: Floats, lane: Floats) -> PairedTest:
    both = np.concatenate([reference, lane])
    if bool(((both == 0) | (both == 1)).all()):
        return mcnemar(reference == 1, lane == 1)
    return paired_bootstrap(reference, lane)


def _task_measures(reference: Floats, lane: Floats, test: PairedTest) -> tuple[Measure, Measure]:
    """Give ``drop`` in points and ``relative_accuracy`` in % of the reference's, which is taken as it was measured."""
    rows, theirs, ours = len(lane), float(reference.mean()), float(lane.mean())
    low, high = (100.0 * end for end in test.interval)
    drop = Measure(
        name="drop",
        value=100.0 * (theirs - ours),
        unit=Unit.POINTS,
        better="lower",
        interval=(low, high),
        n=rows,
    )
    ends = (100.0 - high / theirs, 100.0 - low / theirs) if theirs > 0 else None
    relative = Measure(
        name="relative_accuracy",
        value=100.0 * ours / theirs if theirs > 0 else float("nan"),
        unit=Unit.PERCENT,
        better="higher",
        interval=ends,
        n=rows,
    )
    return drop, relative
