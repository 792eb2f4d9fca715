"""A recipe becomes a verified bundle, or an error that says which bound was missed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench import time_lanes, yardsticks
from edgekit.cache import Cache, Progress, default_root, run_stages
from edgekit.choice import ChooseModels, chosen_lanes, read_choice
from edgekit.kept import keep_lanes
from edgekit.output_folder import publish, refuse, require_writable
from edgekit.parity.agreement import Fault, judge
from edgekit.pipeline import Artifacts, Kind, Stage
from edgekit.recipe.load import recipe_digest
from edgekit.recipe.spec import Recipe, Task
from edgekit.recipe.units import Points
from edgekit.report import BuildReport, make_report
from edgekit.targets import get_target
from edgekit_converters.quantize.decisions import Decisions, Planning, read_decisions
from edgekit_converters.quantize.grid import ActivationType
from edgekit_runtime.errors import MissingError

__all__ = ["BuildResult", "build_recipe", "build_stages"]

_CLIPPED = 0.001  # share of held-out values beyond which it is told


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A finished build.

    Attributes:
        bundle: The ``.edge`` file.
        digest: Its sha256, hex.
        report: Every figure of the table.
    """

    bundle: Path
    digest: str
    report: BuildReport


def build_stages(
    recipe: Recipe, *, target: str, trust_code: bool, offline: bool, progress: Progress
) -> tuple[Stage, ...]:
    """Give the stages of a build, from rows to bundle.

    Raises:
        MissingError: A package that the build needs is not installed.
    """
    _require_build_extra()
    from edgekit.stages import CompareLanes, PackBundle, PrepareData
    from edgekit_converters.adapt.stage import AdaptTeacher
    from edgekit_converters.distill.stage import DistilStudent
    from edgekit_converters.distill.teacher_outputs import RecordTeacher
    from edgekit_converters.export.stage import ExportTeacher
    from edgekit_converters.prune.stage import PruneStudent
    from edgekit_converters.training import resolve_precision
    from edgekit_models.data.load import load_dataset
    from edgekit_models.teachers import resolve_teacher

    task, seed = recipe.model.task, recipe.seed
    dataset = load_dataset(recipe.data, task=task, folder=recipe.folder, seed=seed)
    for warning in dataset.warnings:
        progress.notice(f"data: {warning}")
    files = resolve_teacher(recipe.model.teacher, folder=recipe.folder, trust_code=trust_code, offline=offline)
    precision = resolve_precision(recipe.precision, matrices=task is Task.TEXT_CLASSIFICATION)
    student = recipe.model.student
    learned: tuple[Stage, ...] = (
        PrepareData(dataset=dataset),
        AdaptTeacher(
            files=files, model=recipe.model, image=recipe.data.image, how=recipe.adapt, precision=precision, seed=seed
        ),
        RecordTeacher(precision=precision),
        ExportTeacher(opset=recipe.export.opset),
        DistilStudent(student=student, how=recipe.distill, precision=precision, seed=seed),
        PruneStudent(student=student, how=recipe.prune, distill=recipe.distill, precision=precision, seed=seed),
    )
    pack = PackBundle(
        recipe=recipe,
        target=target,
        recipe_digest=recipe_digest(recipe),
        teacher=files.description,
        teacher_digest=files.digest,
        licence=files.licence,
    )
    return (*learned, *_int8_stages(recipe, target), CompareLanes(formats=recipe.export.formats), pack)


def _int8_stages(recipe: Recipe, target: str) -> list[Stage]:
    """Give the stages from the finished student to the models that the bundle holds."""
    from edgekit.bench import timed_rows
    from edgekit.stages import engine_lanes
    from edgekit_converters.export.stage import ExportOnnx, ExportTflite
    from edgekit_converters.quantize.stage import PlanQuantisation, QuantizeTflite

    task, seed = recipe.model.task, recipe.seed
    wanted = recipe.quantize.activations
    activations = get_target(target).activations if wanted == "auto" else "int8" if wanted == "int16" else wanted
    given = read_decisions(recipe.folder / recipe.quantize.plan) if recipe.quantize.plan else None
    stages: list[Stage] = [
        PlanQuantisation(
            task=task,
            how=recipe.quantize,
            seed=seed,
            states=default_root() / "calibration",
            formats=recipe.export.formats,
            activations=activations,
            given=given,
            max_drop=recipe.budget.max_drop.value,
        ),
    ]
    if "onnx" in recipe.export.formats:
        stages += [ExportOnnx(opset=recipe.export.opset), _int8_onnx(recipe, activations)]
    if "tflite" in recipe.export.formats:
        stages += [ExportTflite(), QuantizeTflite(how=recipe.quantize, seed=seed)]
    choose = ChooseModels(
        formats=recipe.export.formats,
        keep_int8=recipe.export.keep_int8 or not recipe.quantize.for_speed,
        given=given,
        lanes=engine_lanes,
        rows=timed_rows,
        basis=(Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED),
    )
    return [*stages, choose]


def _int8_onnx(recipe: Recipe, activations: ActivationType) -> Stage:
    from edgekit_converters.quantize.stage import QuantizeOnnx
    from edgekit_converters.quantize.whole_stage import QuantizeWholeOnnx

    if recipe.quantize.whole_network != "off":
        return QuantizeWholeOnnx(how=recipe.quantize, seed=recipe.seed)
    return QuantizeOnnx(activations=activations, opset=recipe.export.opset, seven_bit=recipe.quantize.seven_bit)


def _require_build_extra() -> None:
    try:
        import torch  # noqa: F401 - is it here?
    except ImportError as error:
        raise MissingError(
            "E0601",
            "torch is not installed",
            why="building needs the extra 'build'",
            fix="pip install 'edgekit[build]'; `edgekit doctor` shows what else is missing",
        ) from error


def build_recipe(
    recipe: Recipe, *, target: str, out: Path | None, trust_code: bool, offline: bool, progress: Progress
) -> BuildResult:
    """Build, compare, judge, and only then put a bundle into the output folder.

    Args:
        recipe: What to build.
        target: Name from ``edgekit targets``.
        out: Output folder; None = ``runs/<name>/<target>``.
        trust_code: Allow a teacher that comes from the user's function.
        offline: Touch no network.
        progress: Told of every stage.

    Raises:
        QualityError: A bound of the budget was missed (E0301). No bundle is in the output folder; ``report.json`` and
            the lanes are, for inspection.
        UsageError: The output folder cannot be written (E0129).
        EdgekitError: What the stages raise.
    """
    folder = out if out is not None else Path("runs") / recipe.name / target
    bundle = folder / f"{recipe.name}-{target}.edge"
    require_writable(folder)
    stages = build_stages(recipe, target=target, trust_code=trust_code, offline=offline, progress=progress)
    artifacts = run_stages(stages, cache=Cache(root=default_root()), seed=recipe.seed, progress=progress)

    from edgekit.recipe_gates import gate_faults
    from edgekit.stages import BUNDLE_FILE, engine_lanes, read_parity
    from edgekit_runtime.bundle import verify

    result = read_parity(artifacts)
    progress.notice("measuring CPU time per inference: one thread, all lanes in turn")
    times = {time.lane: time for time in time_lanes(yardsticks(artifacts), artifacts)}
    packed = verify(artifacts[Kind.BUNDLE].path / BUNDLE_FILE)
    report = make_report(recipe, target=target, artifacts=artifacts, result=result, times=times)
    _tell_loss(report, recipe, progress)
    held = [lane.name for lane in chosen_lanes(engine_lanes(artifacts), artifacts)]
    _tell_choice(report, held, progress)
    _tell_clipped(report, progress)
    shipped = [row for row in report.rows if row.lane in held]
    faults = judge(
        result,
        recipe.budget,
        size_mb={row.lane: row.size_mb for row in shipped},
        cpu_ms={row.lane: row.cpu_ms_min for row in shipped if row.cpu_ms_min is not None},
    )
    faults = [*faults, *gate_faults(recipe, artifacts)]
    keep_lanes(artifacts, bundle.with_suffix(".lanes"))
    _write_decisions(bundle.with_suffix(".plan.json"), recipe, artifacts)
    if faults:
        _write_report(folder, report, faults=faults, digest=None)
        refuse(bundle, faults, folder, code="E0301", advice=f"{_advice(faults)}, or raise the budget")
    publish(artifacts[Kind.BUNDLE].path / BUNDLE_FILE, bundle)
    _write_report(folder, report, faults=(), digest=packed.digest)
    return BuildResult(bundle=bundle, digest=packed.digest, report=report)


def _write_decisions(path: Path, recipe: Recipe, artifacts: Artifacts) -> None:
    from edgekit_converters.quantize.stage import read_plan

    planning = Planning(candidate="", plan=read_plan(artifacts))
    decisions = Decisions(plans=dict.fromkeys(recipe.export.formats, planning), precision=read_choice(artifacts))
    path.write_text(decisions.to_json(), encoding="utf-8")


def _tell_loss(report: BuildReport, recipe: Recipe, progress: Progress) -> None:
    """Say it when the student is worse than its teacher: the budget is about int8 against float, not about this."""
    teacher, student = report.row("teacher"), report.row("torch")
    assert teacher is not None
    assert student is not None
    lost = Points.from_fraction(teacher.accuracy - student.accuracy)
    if lost > recipe.budget.max_drop:
        progress.notice(
            f"the float32 student loses {lost} against its teacher: give it more layers or width, or distil it longer"
        )


def _tell_choice(report: BuildReport, held: Sequence[str], progress: Progress) -> None:
    """Say it when int8 costs more CPU time than float32 in the same engine: tiny networks on x86 are such a case."""
    for form in ("onnx", "tflite"):
        int8, whole = report.row(f"{form}-int8"), report.row(f"{form}-fp32")
        if int8 is None or whole is None or int8.cpu_ms_min is None or whole.cpu_ms_min is None:
            continue
        took = f"{int8.cpu_ms_min:.3f} against {whole.cpu_ms_min:.3f} ms"
        if whole.lane in held:
            progress.notice(
                f"{form}-int8 is slower than float32 on this machine ({took}), so the bundle holds float32 for it; "
                "--keep-int8 has int8 all the same"
            )
        elif int8.cpu_ms_min > whole.cpu_ms_min:
            progress.notice(
                f"{form}-int8 is slower than float32 on this machine ({took}): what int8 saves here is size, not time"
            )


def _tell_clipped(report: BuildReport, progress: Progress) -> None:
    """Say it when held-out training rows leave the calibrated ranges by more than chance."""
    if report.ranges != "minmax" and report.clipped and report.clipped[0].clipped > _CLIPPED:
        worst = report.clipped[0]
        progress.notice(
            f"{report.ranges} ranges clip on purpose: up to {worst.clipped:.2%} ({worst.name}) on "
            f"{report.held_out_rows} training rows that were not calibrated on; minmax ranges clip nothing they saw"
        )
        return
    for tensor in report.clipped:
        if tensor.clipped > _CLIPPED:
            progress.notice(
                f"{tensor.clipped:.2%} of {tensor.name} is clipped on {report.held_out_rows} training rows that were "
                "not calibrated on: calibrate on more rows (quantize.calibration_rows)"
            )


def _advice(faults: Sequence[Fault]) -> str:
    costs = [fault for fault in faults if fault.metric in ("size", "CPU time")]
    advice = []
    if costs:
        advice.append("make the student smaller (student.layers, hidden or widths; prune)")
    if len(costs) < len(faults):
        advice.append("keep more layers in float (quantize.ffn_output: float), calibrate on more rows or distil longer")
    return " and ".join(advice)


def _write_report(folder: Path, report: BuildReport, *, faults: Sequence[Fault], digest: str | None) -> None:
    content = {**report.as_json(), "passed": not faults, "faults": [str(fault) for fault in faults], "sha256": digest}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
