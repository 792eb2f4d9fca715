"""What differs between two runs or two bundles: what was asked, what answered, what came out, and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.evidence_document import RunEvidence, read_run
from edgekit.parity.metrics import Measure
from edgekit.parity.numeric import grid_step, numeric_measures
from edgekit.parity.readings import READERS, Reading, reading_of
from edgekit.parity.verdict import GateResult
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["ABSENT", "AnswerDiff", "Change", "ChangedRow", "Difference", "answer_diff", "compare_runs", "diff"]

ABSENT: Final = "-"
_ZIP: Final = b"PK"
_SHOWN: Final = ("changed", "flip_margin", "overlap_1", "cer", "wer", "sqnr", "cosine", "max_difference", "max_steps")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        what: Its name.
        a: In A, as text; ``-`` where A has none.
        b: In B, likewise.
    """

    what: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row with another answer.

    Attributes:
        row: Its place, from 0.
        a: Answer in A, in words.
        b: Answer in B, in words.
    """

    row: int
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDiff:
    """The answers of one lane in A and in B.

    Attributes:
        lane: Its name; both names where they differ.
        reason: Why the answers cannot be compared; empty if they can.
        identical: Equal to the bit, NaN too.
        measures: Of B against A; empty where they are identical or cannot be compared.
        changed: Rows with another answer.
        tensors: Rows whose tensors differ after preprocessing.
    """

    lane: str
    reason: str = ""
    identical: bool = False
    measures: tuple[Measure, ...] = ()
    changed: tuple[ChangedRow, ...] = ()
    tensors: int = 0

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {
            "lane": self.lane,
            "reason": self.reason or None,
            "identical": self.identical,
            "measures": [each.as_json() for each in self.measures],
            "changed_rows": [{"row": each.row, "a": each.a, "b": each.b} for each in self.changed],
            "rows_with_other_tensors": self.tensors,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that differs.

    Attributes:
        kind: What A and B are.
        sections: Changes by subject; a subject without changes is absent.
        answers: By lane, also of lanes whose answers are identical.
    """

    kind: Literal["evidence", "bundle"]
    sections: Mapping[str, tuple[Change, ...]]
    answers: tuple[AnswerDiff, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.sections and all(each.identical and not each.tensors for each in self.answers)

    @property
    def decisions_differ(self) -> bool:
        """Whether a row got another answer, or answers could not be compared."""
        return any(each.changed or each.reason for each in self.answers)

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        sections = {
            name: [{"what": each.what, "a": each.a, "b": each.b} for each in changes]
            for name, changes in self.sections.items()
        }
        answers = [each.as_json() for each in self.answers]
        return {"kind": self.kind, "same": self.same, "changes": sections, "answers": answers}


def diff(a: Path, b: Path) -> Difference:
    """Compare two evidence files, or two bundles.

    Raises:
        MissingError: One is not there (E0689).
        UsageError: One is an evidence file and the other a bundle (E0194), or one is damaged.
        BundleError: A bundle is damaged.
    """
    kinds = [_is_bundle(path) for path in (a, b)]
    if kinds[0] is not kinds[1]:
        raise UsageError(
            "E0194",
            f"'{a}' and '{b}' are not of one kind",
            why="one is a bundle and the other is not",
            fix="name two evidence files or two bundles",
        )
    if not kinds[0]:
        return compare_runs(read_run(a), read_run(b))
    from edgekit.diff_bundles import compare_bundles
    from edgekit_runtime.bundle import verify

    return compare_bundles(verify(a), verify(b))


def _is_bundle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == _ZIP
    except OSError as error:
        why = error.strerror or str(error)
        raise MissingError("E0689", f"'{path}' cannot be read", why=why, fix="check the path") from error


def compare_runs(a: RunEvidence, b: RunEvidence) -> Difference:
    """Compare two evidence documents.

    Lanes are paired by name; if each has one lane only, these two whatever their names.
    """
    pairs = _pairs(a, b)
    named = [(_pair_name(ours, theirs), ours, theirs) for ours, theirs in pairs]
    sections = {
        "bundle": _fields(a.bundle, b.bundle, ("name", "version", "task", "sha256")),
        "rows": _fields(a.rows, b.rows, ("count", "source", "sha256")),
        "lanes": [
            *(Change(lane, "there", ABSENT) for lane in _lone(a, pairs)),
            *(Change(lane, ABSENT, "there") for lane in _lone(b, pairs)),
        ],
        **{f"lane {name}": _lane_changes(ours, theirs) for name, ours, theirs in named},
        "cost": [change for name, ours, theirs in named for change in _cost_changes(name, ours, theirs)],
        "verdict": _verdict_changes(a, b),
        "versions": _mapping_changes(a.versions, b.versions),
        "other": _mapping_changes(_others(a), _others(b)),
    }
    answers = tuple(_answers(name, (ours, theirs), (a, b)) for name, ours, theirs in named)
    return Difference(kind="evidence", sections=_held(sections), answers=answers)


def _held(sections: Mapping[str, Iterable[Change]]) -> dict[str, tuple[Change, ...]]:
    return {name: found for name, changes in sections.items() if (found := tuple(changes))}


def _pairs(a: RunEvidence, b: RunEvidence) -> list[tuple[LaneEvidence, LaneEvidence]]:
    theirs = {lane.lane: lane for lane in b.lanes}
    same = [(lane, theirs[lane.lane]) for lane in a.lanes if lane.lane in theirs]
    return same if same or len(a.lanes) != 1 or len(b.lanes) != 1 else [(a.lanes[0], b.lanes[0])]


def _pair_name(a: LaneEvidence, b: LaneEvidence) -> str:
    return a.lane if a.lane == b.lane else f"{a.lane} / {b.lane}"


def _lone(run: RunEvidence, pairs: Iterable[tuple[LaneEvidence, ...]]) -> list[str]:
    """Give the lanes of a run that have no partner."""
    paired = {lane.lane for pair in pairs for lane in pair}
    return [lane.lane for lane in run.lanes if lane.lane not in paired]


def _fields(a: object, b: object, names: Sequence[str]) -> list[Change]:
    """Compare attributes of two objects."""
    texts = [(name, str(getattr(a, name)), str(getattr(b, name))) for name in names]
    return [Change(name.replace("_", " "), ours, theirs) for name, ours, theirs in texts if ours != theirs]


def _mapping_changes(a: Mapping[str, object], b: Mapping[str, object]) -> list[Change]:
    names = dict.fromkeys((*a, *b))
    texts = [(name, str(a.get(name, ABSENT)), str(b.get(name, ABSENT))) for name in names]
    return [Change(name, ours, theirs) for name, ours, theirs in texts if ours != theirs]


def _others(run: RunEvidence) -> dict[str, object]:
    sizes = {f"size of {name}": f"{size:,} bytes" for name, size in run.sizes.items()}
    plan = {f"mode of {layer.name}": layer.mode for layer in run.plan}
    labels = {"labels": ", ".join(run.labels)} if run.labels else {}
    return {**({} if run.seed is None else {"seed": run.seed}), **labels, **sizes, **plan}


def _lane_changes(a: LaneEvidence, b: LaneEvidence) -> list[Change]:
    """Say what else ran, and where."""
    changes = _fields(a, b, ("engine", "engine_version", "precision", "threads", "kernels"))
    changes += _fields(a.machine, b.machine, ("arch", "cpu", "system", "python", "numpy"))
    ours, theirs = (set(lane.machine.features) for lane in (a, b))
    if ours != theirs:
        only = [" ".join(sorted(side)) or ABSENT for side in (ours - theirs, theirs - ours)]
        changes.append(Change("CPU features that the other lacks", *only))
    faults = ["not run" if lane.selftest is None else "; ".join(lane.selftest) or "passed" for lane in (a, b)]
    return changes + ([Change("self-test", *faults)] if faults[0] != faults[1] else [])


_COSTS: Final = (
    ("CPU ms, least", "cpu_ms_min", ".3f"),
    ("CPU ms, median", "cpu_ms_median", ".3f"),
    ("peak memory, MiB", "peak_rss_mib", ".1f"),
    ("instructions (emulated, no latency)", "instructions_min", ",d"),
)


def _cost_changes(name: str, a: LaneEvidence, b: LaneEvidence) -> list[Change]:
    changes = []
    for what, field, form in _COSTS:
        ours, theirs = getattr(a.cost, field), getattr(b.cost, field)
        if ours != theirs:
            texts = [ABSENT if value is None else format(value, form) for value in (ours, theirs)]
            ratio = f" ({theirs / ours:.3f}x)" if ours and theirs else ""
            changes.append(Change(f"{name}: {what}", texts[0], texts[1] + ratio))
    return changes


def _verdict_changes(a: RunEvidence, b: RunEvidence) -> list[Change]:
    """Compare the verdict, then the gates of lanes that both have, and tell what was measured where they turned."""
    words = ["not judged" if run.verdict is None else "passed" if run.verdict.passed else "failed" for run in (a, b)]
    changes = [Change("all gates", *words)] if words[0] != words[1] else []
    if a.verdict is None or b.verdict is None:
        return changes
    ours, theirs = ({(gate.lane, gate.gate): gate for gate in run.verdict.results} for run in (a, b) if run.verdict)
    both = {lane.lane for lane in a.lanes} & {lane.lane for lane in b.lanes}
    for key in dict.fromkeys(key for key in (*ours, *theirs) if key[0] in both):
        before, after = ours.get(key), theirs.get(key)
        if (before and before.outcome) != (after and after.outcome):
            changes.append(Change(": ".join(key), _gate_text(before), _gate_text(after)))
    return changes


def _gate_text(gate: GateResult | None) -> str:
    if gate is None:
        return ABSENT
    found = gate.words if gate.measure is None else f"{gate.measure}, limit {gate.limit}"
    return f"{gate.outcome.value}: {found}"


def _answers(name: str, lanes: tuple[LaneEvidence, LaneEvidence], runs: tuple[RunEvidence, RunEvidence]) -> AnswerDiff:
    a, b = lanes
    if runs[0].rows.sha256 != runs[1].rows.sha256:
        return AnswerDiff(lane=name, reason="they answer other rows")
    reading = runs[0].comparison.reading if runs[0].comparison else reading_of(runs[0].bundle.task)
    found = answer_diff(name, (a.outputs, b.outputs), reading=reading, labels=(runs[0].labels, runs[1].labels))
    shared = [held for held in a.tensors if held in b.tensors and len(a.tensors[held]) == len(b.tensors[held])]
    moved = [~np.isclose(a.tensors[held], b.tensors[held], rtol=1e-9, atol=0, equal_nan=True) for held in shared]
    tensors = int(np.logical_or.reduce(moved).sum()) if moved else 0
    return AnswerDiff(
        lane=name,
        reason=found.reason,
        identical=found.identical,
        measures=found.measures,
        changed=found.changed,
        tensors=tensors,
    )


def answer_diff(
    lane: str,
    outputs: tuple[NDArray[Any], NDArray[Any]],
    *,
    reading: Reading,
    labels: tuple[Sequence[str], Sequence[str]],
) -> AnswerDiff:
    """Compare two sets of answers to the same rows.

    Args:
        lane: Name of the pair.
        outputs: Of A and of B, (N, entries) each.
        reading: How they are read; as numbers where tokens or symbols are not named.
        labels: Names of the classes in A and in B.
    """
    a, b = (np.asarray(side, np.float64) for side in outputs)
    if a.shape != b.shape:
        return AnswerDiff(lane=lane, reason=f"answers have shapes {a.shape} and {b.shape}")
    if a.tobytes() == b.tobytes() and list(labels[0]) == list(labels[1]):
        return AnswerDiff(lane=lane, identical=True)
    needs_names = reading in {Reading.TOKENS, Reading.TEXT}
    readers = [READERS[Reading.NUMBERS if needs_names and not names else reading](names) for names in labels]
    read = readers[0].read(a, b)
    measures = (*read.measures, *numeric_measures(a, b, unit=readers[0].unit, step=grid_step(a)))
    places = [] if read.changed is None else [int(place) for place in read.changed.nonzero()[0]]
    texts = zip(places, readers[0].texts(a, places), readers[1].texts(b, places), strict=True)
    return AnswerDiff(
        lane=lane,
        measures=tuple(measure for measure in measures if measure.name in _SHOWN),
        changed=tuple(ChangedRow(*each) for each in texts),
    )
