"""One comparison from lanes to verdict: ask every lane the same rows, compare, judge, and keep the evidence."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from edgekit.kept_model import is_kept_model
from edgekit.lanes.base import Checks, ParityLane, PlansCommands, Question
from edgekit.lanes.local import engine_of
from edgekit.lanes.models import held_models
from edgekit.lanes.opened import default_lanes, is_slow, open_lanes
from edgekit.lanes.saved import SavedLane
from edgekit.layers import LANES as LAYER_LANES
from edgekit.layers import LayerReport, layer_report
from edgekit.parity.compare import Asked, Comparison, compare
from edgekit.parity.gates import Gate, read_gates
from edgekit.parity.readings import Reading
from edgekit.parity.verdict import GateResult, Outcome, Verdict, judge
from edgekit.parity_rows import GOLDENS, AskedRows, DataOption, load_asked, spread
from edgekit.versions import installed_versions
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.errors import DeviceError, EdgekitError, UsageError
from edgekit_runtime.evidence import FORMAT, SCHEMA, LaneEvidence
from edgekit_runtime.manifest import DType
from edgekit_runtime.rows import golden_rows

__all__ = ["SLOW_ROWS", "ParityAsk", "ParityRun", "planned_commands", "run_parity", "with_layers", "write_evidence"]

SLOW_ROWS: Final = 200  # of a comparison with an emulated lane, unless the user says otherwise
LAYER_ROWS: Final = 32
_FLOAT_TOLERANCE = 1e-5  # of a fingerprint, relative: processors round float preprocessing apart

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityAsk:
    """What the user wants to know.

    Attributes:
        lanes: As typed after ``--on``; empty takes all of this machine.
        reference: Lane to compare with.
        data: Rows; None takes those that the build kept.
        most_rows: At most so many, evenly spread; None takes all, or ``SLOW_ROWS`` with an emulated lane; 0 all.
        gates: Bounds beside those of the bundle's recipe, which they stand in for.
        require_enough_rows: Fail where the rows are too few to be sure of a bound.
        reading: How answers are read; None = as the task says. Labels are classes: other readings leave them out.
        names: Of tokens or symbols, one for each logit of a place; empty = the labels of the bundle.
    """

    lanes: tuple[str, ...] = ()
    reference: str = "torch"
    data: DataOption | None = None
    most_rows: int | None = None
    gates: tuple[Gate, ...] = ()
    require_enough_rows: bool = False
    reading: Reading | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRun:
    """What came of it.

    Attributes:
        question: What every lane was asked.
        asked: The rows with their origin.
        evidence: Of every lane, the reference first.
        comparison: All lanes against the reference.
        verdict: Of all gates, self-tests and preprocessing.
        layers: Layer reports by int8 model of the bundle, of this machine's kernels.
        notes: Why layers were not compared.
        lost: By lane, why a device did not answer; the others are judged without it.
    """

    question: Question
    asked: AskedRows
    evidence: tuple[LaneEvidence, ...]
    comparison: Comparison
    verdict: Verdict
    layers: Mapping[str, LayerReport] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lost: Mapping[str, DeviceError] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Give the evidence document of the run."""
        bundle = self.question.bundle
        manifest = bundle.manifest
        held = cast("Any", bundle.json("plan.json")) if "plan.json" in bundle.names else None
        plan = held["layers"] if isinstance(held, dict) and "layers" in held else []
        sizes = {member.name: member.size for member in manifest.members}
        models = {model: manifest.models[engine_of(model)].member for model in held_models(bundle)}
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "bundle": {
                "name": manifest.name,
                "version": manifest.version,
                "task": manifest.task,
                "target": manifest.target,
                "sha256": bundle.digest,
            },
            "rows": {
                "count": len(self.question.rows),
                "sha256": self.question.rows.digest(),
                "source": self.asked.source,
            },
            "labels": bundle.json("labels.json") if "labels.json" in bundle.names else [],
            "seed": 0,  # of every bootstrap interval
            "versions": dict(installed_versions()),
            "sizes": {model: sizes[member] for model, member in models.items()},
            "lanes": [lane.as_json() for lane in self.evidence],
            "comparison": self.comparison.as_json(),
            "verdict": self.verdict.as_json(),
            "warnings": list(self.asked.warnings),
            "layers": {model: report.as_json() for model, report in self.layers.items()},
            "notes": list(self.notes),
            "lost": {lane: {"code": error.code, "what": error.what} for lane, error in self.lost.items()},
            "plan": [{name: row.get(name) for name in ("name", "kind", "mode", "why")} for row in plan],
        }


def planned_commands(path: Path, ask: ParityAsk) -> Mapping[str, Sequence[Sequence[str]]]:
    """Give the commands that lanes on devices would run, by lane; nothing is run.

    Args:
        path: The ``.edge`` file.
        ask: What to compare.

    Raises:
        BundleError: The bundle is damaged.
        MissingError: A lane or the rows are not here.
        UsageError: An unknown lane, or rows that do not fit.
    """
    bundle = verify(path)
    lanes, asked = _opened(bundle, path, ask)
    question = Question(path=path, bundle=bundle, rows=asked.rows)
    return {name: lane.plan(question) for name, lane in lanes.items() if isinstance(lane, PlansCommands)}


def run_parity(path: Path, ask: ParityAsk, *, tell: Tell) -> ParityRun:
    """Ask every lane and judge the answers.

    Args:
        path: The ``.edge`` file.
        ask: What to compare.
        tell: Hears one line a lane.

    Raises:
        BundleError: The bundle is damaged.
        MissingError: A lane or the rows are not here.
        UsageError: An unknown lane, rows or gates that do not fit.
        DeviceError: A device could not be reached, and no other lane is left to compare.
    """
    bundle = verify(path)
    lanes, asked = _opened(bundle, path, ask)
    question = Question(path=path, bundle=bundle, rows=asked.rows)
    for lane in lanes.values():
        if isinstance(lane, Checks):
            lane.check(question)
    evidence, lost = _answers(question, lanes, lambda first: _require_measurable(bundle, asked, first, ask), tell)
    reference = evidence[0].lane
    comparison = compare(
        {lane.lane: lane.outputs for lane in evidence}, _asked(bundle, asked, evidence, ask), reference=reference
    )
    provenance = bundle.json("provenance.json") if "provenance.json" in bundle.names else None
    gates = (*read_gates(provenance), *ask.gates)
    verdict = judge(comparison, gates, require_enough_rows=ask.require_enough_rows)
    more = [result for lane in evidence for result in _beside_outputs(bundle, evidence[0], lane)]
    more += _files(bundle, path, [lane.lane for lane in evidence])
    return ParityRun(
        question=question,
        asked=asked,
        evidence=tuple(evidence),
        comparison=comparison,
        verdict=replace(verdict, results=(*more, *verdict.results)),
        lost=lost,
    )


def _answers(
    question: Question, lanes: Mapping[str, ParityLane], look: Callable[[LaneEvidence], None], tell: Tell
) -> tuple[list[LaneEvidence], dict[str, DeviceError]]:
    """Ask all lanes; one that dies does not take the answers of the others with it.

    Args:
        question: What to ask.
        lanes: The reference first.
        look: Sees the reference's answers before slow lanes are asked.
        tell: Hears one line a lane.

    Raises:
        DeviceError: The reference did not answer, or nobody else.
    """
    evidence: list[LaneEvidence] = []
    lost: dict[str, DeviceError] = {}
    for name, lane in lanes.items():
        tell(f"{name}: {len(question.rows)} rows")
        try:
            evidence.append(lane.answer(question))
        except DeviceError as error:
            if not evidence:
                raise
            lost[name] = error
            tell(f"{name}: no answer: {error.what}")
            continue
        if len(evidence) == 1:
            look(evidence[0])
    if len(evidence) == 1:
        raise next(iter(lost.values()))
    return evidence, lost


def _require_measurable(bundle: Bundle, asked: AskedRows, reference: LaneEvidence, ask: ParityAsk) -> None:
    """Refuse a gate that these rows cannot show before slow lanes answer; they may take an hour.

    Raises:
        UsageError: There is one (E0167).
    """
    if not ask.gates:
        return
    twin = replace(reference, lane=f"{reference.lane} again")
    answers = {lane.lane: lane.outputs for lane in (reference, twin)}
    judge(compare(answers, _asked(bundle, asked, [reference, twin], ask), reference=reference.lane), ask.gates)


def _opened(bundle: Bundle, path: Path, ask: ParityAsk) -> tuple[dict[str, ParityLane], AskedRows]:
    specs = dict.fromkeys((ask.reference, *(ask.lanes or default_lanes(bundle))))
    lanes: dict[str, ParityLane] = {}
    for spec in specs:
        for lane in open_lanes(spec, bundle):
            if lane.name in lanes and isinstance(lane, SavedLane):
                what = f"two lanes are called {lane.name}, and one would hide the other"
                raise UsageError("E0197", what, fix="rename one of the files: a lane is called after its file")
            lanes[lane.name] = lane
    if len(lanes) == 1:
        what = f"nothing is compared: {ask.reference} is the reference itself"
        raise UsageError("E0196", what, fix="name another lane with --on, or another --reference")
    return lanes, _rows(bundle, path, ask, tuple(lanes.values()))


def _rows(bundle: Bundle, path: Path, ask: ParityAsk, lanes: Sequence[ParityLane]) -> AskedRows:
    saved = {lane.rows_sha256 for lane in lanes if isinstance(lane, SavedLane)}
    data = ask.data
    if data is None and ask.most_rows is None and saved == {golden_rows(bundle).digest()}:
        data = DataOption(path=Path(GOLDENS))  # a device that was given no rows has answered the goldens
    slow = any(is_slow(lane.name) for lane in lanes) and not saved
    most = ask.most_rows if ask.most_rows is not None else SLOW_ROWS if slow else None
    return spread(load_asked(bundle, path, data), most or None)


def _asked(bundle: Bundle, asked: AskedRows, evidence: Sequence[LaneEvidence], ask: ParityAsk) -> Asked:
    names = ask.names or (bundle.json("labels.json") if "labels.json" in bundle.names else ())
    return Asked(
        task=bundle.manifest.task,
        rows=asked.rows,
        targets=asked.targets if ask.reading in (None, Reading.DECISIONS) else None,
        reading=ask.reading,
        names=tuple(cast("list[str]", names)),
        precisions={lane.lane: lane.precision for lane in evidence},
    )


def _beside_outputs(bundle: Bundle, reference: LaneEvidence, lane: LaneEvidence) -> list[GateResult]:
    """Judge what goes wrong before a model answers, and what the bundle's own self-test says."""
    results = []
    if lane.selftest is not None:
        words = "; ".join(lane.selftest) or "the goldens of the bundle come out as at the build"
        results.append(_result(lane.lane, "selftest", words, passed=not lane.selftest))
    if lane is not reference and lane.tensors.keys() == reference.tensors.keys():
        words = _other_tensors(bundle, reference, lane)
        good = "the model gets the same tensors as the reference"
        results.append(_result(lane.lane, "preprocessing", words or good, passed=not words))
    return results


def _files(bundle: Bundle, path: Path, lanes: Sequence[str]) -> list[GateResult]:
    """Judge the files of int8 models, wherever their lanes ran."""
    results = []
    for lane in lanes:
        model = _model_of(lane)
        same = None if model is None else is_kept_model(bundle, path, model)
        if same is not None:
            words = "the model is " + ("the file" if same else "another file than the one") + " that the build kept"
            results.append(_result(lane, "file", words, passed=same))
    return results


def _other_tensors(bundle: Bundle, reference: LaneEvidence, lane: LaneEvidence) -> str:
    dtypes: dict[str, DType] = {
        spec.name: spec.dtype for entry in bundle.manifest.models.values() for spec in entry.inputs
    }
    for name, prints in lane.tensors.items():
        wanted = reference.tensors[name]
        bound = _FLOAT_TOLERANCE * np.maximum(np.abs(wanted), 1.0) if dtypes.get(name) == "float32" else 0.0
        differ = ~(np.abs(prints - wanted) <= bound)  # written so that NaN differs
        if differ.any():
            return f"{name} differs in {int(differ.sum())} of {len(prints)} rows, first in row {int(differ.argmax())}"
    return ""


def _result(lane: str, gate: str, words: str, *, passed: bool) -> GateResult:
    outcome = Outcome.PASSED if passed else Outcome.FAILED
    return GateResult(lane=lane, gate=gate, outcome=outcome, measure=None, limit=None, words=f"{gate}: {words}")


def with_layers(run: ParityRun, *, every: bool, max_ram_mb: int, tell: Tell) -> ParityRun:
    """Compare the layers of int8 models: those of lanes that failed, or of every lane.

    Wherever a lane ran, its model is compared in the kernels of this machine, on the rows that are furthest off.

    Args:
        run: From ``run_parity``.
        every: Of lanes that passed, too.
        max_ram_mb: Memory that this process may take, in MB (1e6 bytes).
        tell: Hears one line a model.

    Raises:
        EdgekitError: What ``layer_report`` raises if ``every``; else it becomes a note, for the verdict stands without.
    """
    failed = {result.lane for result in run.verdict.failed}
    reports: dict[str, LayerReport] = {}
    notes: list[str] = []
    for lane in run.comparison.others:
        model = _model_of(lane.lane)
        if model is None or model in reports or not (every or lane.lane in failed):
            continue
        worst = [row.row for row in lane.worst_rows]
        places = list(dict.fromkeys([*worst, *range(len(run.question.rows))]))[:LAYER_ROWS]
        tell(f"layers of {model}: {len(places)} rows")
        feeds = [run.question.feeds[place] for place in places]
        try:
            reports[model] = layer_report(
                run.question.path, model, feeds, max_ram_mb=max_ram_mb, bundle=run.question.bundle
            )
        except EdgekitError as error:
            if every:
                raise
            notes.append(f"the layers of {model} were not compared: {error.what}")
    return replace(run, layers=reports, notes=tuple(notes))


def _model_of(lane: str) -> str | None:
    """Give the int8 model behind a lane: ``tflite-int8`` of ``arm:cortex-a72/tflite-int8``."""
    name = lane.rpartition("/")[2].partition(":")[0]
    return name if name in LAYER_LANES else None


def write_evidence(run: ParityRun, path: Path) -> None:
    """Write the evidence document of a run; numbers that are not finite are text in it."""
    path.write_text(json.dumps(run.as_json(), allow_nan=False) + "\n", encoding="utf-8")
