"""A ready model and rows without labels become a verified bundle, or an error that says what int8 lost."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from edgekit.bench import LaneTime, measure
from edgekit.cache import Cache, Progress, default_root, run_stages
from edgekit.choice import ChooseModels, chosen_lanes, read_choice
from edgekit.kept import keep_lanes
from edgekit.machine import machine
from edgekit.output_folder import publish, refuse, require_writable
from edgekit.parity.closeness import Closeness, Limits, misses
from edgekit.pipeline import Artifacts, Kind, Stage
from edgekit.quantise_only.pack import CompareReady, PackReady, read_closeness, ready_lanes
from edgekit.quantise_only.quantise import CHOSEN_FILE, QuantiseReady
from edgekit.quantise_only.rows import Feeds, read_rows, split_rows
from edgekit.quantise_only.source import Source, open_source
from edgekit.quantise_only.stages import ExportFloat, KeepRows, PlanReady, TraceModel, read_feeds
from edgekit.stages import BUNDLE_FILE
from edgekit.targets import get_target
from edgekit_converters.quantize.decisions import Decisions, Format, Planning, read_decisions
from edgekit_converters.quantize.plan import PLAN_FILE, QuantPlan
from edgekit_runtime.bundle import verify
from edgekit_runtime.errors import UsageError

__all__ = ["LaneLine", "QuantiseReport", "QuantiseResult", "Wanted", "quantise_only"]

_FORMATS: tuple[Format, ...] = ("onnx", "tflite")
_INT8 = {"onnx": Kind.ONNX_INT8, "tflite": Kind.TFLITE_INT8}
_OPSET = 20
_TIMED_ROWS = 32
_COLUMN, _MAX_LENGTH = "text", 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for.

    Attributes:
        model: Folder or file.
        calibration: File of rows.
        evaluation: File of other rows; None = every fourth calibration row is held out.
        text: Column of the texts in a table; None = ``text``.
        name: Of the bundle.
        out: Output folder.
        max_length: Tokens a text; None = 64.
        calibration_rows: Most rows to calibrate on.
        limits: What int8 may lose.
        all_int8: Every layer static int8.
        keep_int8: The bundle holds int8 even where it is slower.
        decisions: File of an earlier build; nothing is measured.
    """

    model: Path
    calibration: Path
    name: str
    out: Path
    limits: Limits
    evaluation: Path | None = None
    text: str | None = None
    max_length: int | None = None
    calibration_rows: int = 256
    all_int8: bool = False
    keep_int8: bool = False
    decisions: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLine:
    """One line of the table.

    Attributes:
        lane: Name.
        size_mb: Model file in MB (1e6 bytes).
        close: To the float model in PyTorch.
        cpu_ms_min: Least CPU time of one inference on one thread, in ms.
        cpu_ms_median: Median.
        plan: Name of an int8 lane's plan, ``static+search`` for a searched one; empty for float.
        in_bundle: Whether the bundle holds it.
    """

    lane: str
    size_mb: float
    close: Closeness
    cpu_ms_min: float
    cpu_ms_median: float
    plan: str
    in_bundle: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseReport:
    """What was measured.

    Attributes:
        name: Of the bundle.
        target: Board.
        model: Description of the source.
        rows: Rows that lanes are compared on.
        machine: CPU that the times hold for.
        lanes: Float and int8 of each format.
    """

    name: str
    target: str
    model: str
    rows: int
    machine: str
    lanes: tuple[LaneLine, ...]

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        lanes = [{**asdict(line), "close": line.close.as_json()} for line in self.lanes]
        return {"schema": 1, **asdict(self), "lanes": lanes}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseResult:
    """A finished build.

    Attributes:
        bundle: The ``.edge`` file.
        digest: Its sha256, hex.
        report: Every figure of the table.
    """

    bundle: Path
    digest: str
    report: QuantiseReport


def quantise_only(wanted: Wanted, *, target: str, progress: Progress) -> QuantiseResult:
    """Calibrate, plan, quantise, compare, and only then put a bundle into the output folder.

    Raises:
        QualityError: int8 is not close enough (E0304), or cannot be with all layers static (E0303). There is no bundle;
            ``report.json`` and the lanes are there, for inspection.
        UsageError: An option does not fit the model (E0154).
        EdgekitError: What reading the model and the stages raise.
    """
    bundle = wanted.out / f"{wanted.name}-{target}.edge"
    require_writable(wanted.out)
    with tempfile.TemporaryDirectory() as work:
        source = _opened(wanted, Path(work))
        stages = _stages(wanted, source, target=target)
        artifacts = run_stages(stages, cache=Cache(root=default_root()), seed=0, progress=progress)
    packed = verify(artifacts[Kind.BUNDLE].path / BUNDLE_FILE)
    progress.notice("measuring CPU time per inference: one thread, all lanes in turn")
    report = _report(wanted, source, target=target, artifacts=artifacts)
    _tell_choice(report, progress)
    keep_lanes(artifacts, bundle.with_suffix(".lanes"))
    decided = bundle.with_suffix(".plan.json")
    decided.write_text(_decisions(artifacts).to_json(), encoding="utf-8")
    faults = [fault for line in report.lanes for fault in misses(line.lane, line.close, wanted.limits)]
    digest = None if faults else packed.digest
    content = {**report.as_json(), "passed": not faults, "faults": [str(fault) for fault in faults], "sha256": digest}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (wanted.out / "report.json").write_text(text + "\n", encoding="utf-8")
    if faults:
        advice = "give more and more typical calibration rows, or lower --min-cosine"
        code = "E0303" if wanted.all_int8 else "E0304"
        refuse(bundle, faults, wanted.out, code=code, advice=advice + (", or leave --all-int8 out" * wanted.all_int8))
    publish(artifacts[Kind.BUNDLE].path / BUNDLE_FILE, bundle)
    return QuantiseResult(bundle=bundle, digest=packed.digest, report=report)


def _opened(wanted: Wanted, work: Path) -> Source:
    """Open the model; options about texts are refused where it takes tensors, whose shapes its file says (E0154)."""
    source = open_source(wanted.model, max_length=wanted.max_length or _MAX_LENGTH, work=work, rows=wanted.calibration)
    if source.task == "tensors":
        for option, value in (("--max-length", wanted.max_length), ("--text", wanted.text)):
            if value is not None:
                why, fix = f"'{wanted.model.name}' takes tensors of fixed shapes", "leave it out"
                raise UsageError("E0154", f"{option} goes with a model that takes texts", why=why, fix=fix)
    return source


def _stages(wanted: Wanted, source: Source, *, target: str) -> list[Stage]:
    preprocess, inputs = source.preprocess(), source.contract.inputs
    given, other = (
        read_rows(path, inputs, preprocess=preprocess, column=wanted.text or _COLUMN) if path else None
        for path in (wanted.calibration, wanted.evaluation)
    )
    assert given is not None
    calibration, evaluation = split_rows(given, other, most=wanted.calibration_rows)
    decisions = read_decisions(wanted.decisions) if wanted.decisions else None
    activations = get_target(target).activations
    stages: list[Stage] = [
        KeepRows(calibration=calibration, evaluation=evaluation),
        TraceModel(source=source),
        PlanReady(source=source, all_int8=wanted.all_int8, given=decisions),
    ]
    for form in _FORMATS:
        stages += [
            ExportFloat(form=form, opset=_OPSET),
            QuantiseReady(form=form, activations=activations, limits=wanted.limits, given=decisions),
        ]
    return [
        *stages,
        ChooseModels(
            formats=_FORMATS,
            keep_int8=wanted.keep_int8,
            given=decisions,
            lanes=ready_lanes,
            rows=_timed_rows,
            basis=(Kind.DATA, Kind.READY),
        ),
        CompareReady(formats=_FORMATS),
        PackReady(
            name=wanted.name,
            target=target,
            formats=_FORMATS,
            description=source.description,
            model_digest=source.digest,
        ),
    ]


def _timed_rows(artifacts: Artifacts) -> Sequence[Feeds]:
    return read_feeds(artifacts, "eval").feeds[:_TIMED_ROWS]


def _report(wanted: Wanted, source: Source, *, target: str, artifacts: Artifacts) -> QuantiseReport:
    lanes = ready_lanes(artifacts)
    took: dict[str, LaneTime] = {time.lane: time for time in measure(lanes, _timed_rows(artifacts))}
    close, held = read_closeness(artifacts), {lane.name for lane in chosen_lanes(lanes, artifacts)}
    lines = tuple(
        LaneLine(
            lane=lane.name,
            size_mb=len(lane.content()) / 1e6,
            close=close[lane.name],
            cpu_ms_min=took[lane.name].cpu_ms_min,
            cpu_ms_median=took[lane.name].cpu_ms_median,
            plan=_chosen(artifacts, cast("Format", lane.name.partition("-")[0]), "name") if "int8" in lane.name else "",
            in_bundle=lane.name in held,
        )
        for lane in lanes
    )
    return QuantiseReport(
        name=wanted.name,
        target=target,
        model=source.description,
        rows=lines[0].close.rows,
        machine=machine(),
        lanes=lines,
    )


def _chosen(artifacts: Artifacts, form: Format, key: Literal["name", "candidate"]) -> str:
    text = (artifacts[_INT8[form]].path / CHOSEN_FILE).read_text(encoding="utf-8")
    return str(json.loads(text)[key])


def _decisions(artifacts: Artifacts) -> Decisions:
    plans = {
        form: Planning(
            candidate=_chosen(artifacts, form, "candidate"),
            plan=QuantPlan.from_json((artifacts[_INT8[form]].path / PLAN_FILE).read_text(encoding="utf-8")),
        )
        for form in _FORMATS
    }
    return Decisions(plans=plans, precision=read_choice(artifacts))


def _tell_choice(report: QuantiseReport, progress: Progress) -> None:
    for line in report.lanes:
        if line.lane.endswith("-fp32") and line.in_bundle:
            form = line.lane.partition("-")[0]
            progress.notice(
                f"{form}: int8 is slower than float32 on this machine, so the bundle holds float32 for it; "
                "--keep-int8 has int8 all the same"
            )
