"""The table a build ends with, and the same as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgekit.bench import LaneTime
from edgekit.lanes.local import engine_of, torch_dynamic_lane
from edgekit.machine import machine
from edgekit.parity.agreement import Agreement, ParityResult
from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import Recipe
from edgekit_runtime.statistics import wilson_interval

__all__ = ["BuildReport", "Clipped", "LaneRow", "make_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """One line of the table.

    Attributes:
        lane: ``teacher``, or a lane of the student.
        engine: What ran it.
        size_mb: Model file in MB (1e6 bytes).
        parameters: Number of weights.
        macs: Multiply-adds of one inference.
        accuracy: Share of correct evaluation rows, a fraction.
        accuracy_interval_95: Interval of it.
        drop_points: Accuracy lost against the float32 student, in points; None where there is nothing to compare.
        changed: Decisions that differ from the float32 student's; None likewise.
        sqnr_db: Against the float32 student; None likewise, or where it is infinite.
        cpu_ms_min: CPU time of one inference on one thread, in ms; None where the lane was not timed.
        cpu_ms_median: Median, likewise.
    """

    lane: str
    engine: str
    size_mb: float
    parameters: int
    macs: int
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    drop_points: float | None = None
    changed: int | None = None
    sqnr_db: float | None = None
    cpu_ms_min: float | None = None
    cpu_ms_median: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """A tensor whose grid clips held-out training rows.

    Attributes:
        name: ``LAYER input`` or ``LAYER output``.
        clipped: Share of its values, a fraction.
    """

    name: str
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build measured.

    Attributes:
        name: Of the recipe.
        target: Board.
        eval_rows: Rows that accuracy is measured on.
        machine: CPU that the CPU times hold for.
        rows: One per lane.
        held_out_rows: Training rows that were not calibrated on, for ``clipped``; 0 where all were.
        clipped: Of those rows, the five tensors most of which lies outside the calibrated range; worst first.
        ranges: How ranges were chosen; all but ``minmax`` clip on purpose.
        saturating: int8 layers of the ONNX file in which a 16-bit sum can saturate on x86 without VNNI; None without
            such a file. edgekit's runtime computes them exactly; other programs need ``session.x64quantprecision=1``.
    """

    name: str
    target: str
    eval_rows: int
    machine: str
    rows: tuple[LaneRow, ...]
    held_out_rows: int = 0
    clipped: tuple[Clipped, ...] = ()
    ranges: str = "minmax"
    saturating: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {"schema": 1, **asdict(self)}

    def row(self, lane: str) -> LaneRow | None:
        """Give the line of a lane."""
        return next((row for row in self.rows if row.lane == lane), None)


def make_report(
    recipe: Recipe, *, target: str, artifacts: Artifacts, result: ParityResult, times: Mapping[str, LaneTime]
) -> BuildReport:
    """Gather sizes, counts, agreement and CPU times of all lanes."""
    rows = [_teacher_row(artifacts, times.get("teacher"))]
    parameters, macs = _costs(artifacts[Kind.STUDENT_PRUNED].path)
    sizes = _sizes(artifacts)
    for lane in result.lanes:
        agreement: Agreement | None = result.agreement(lane.lane)
        time = times.get(lane.lane)
        rows.append(
            LaneRow(
                lane=lane.lane,
                engine="PyTorch" if lane.lane.startswith("torch") else engine_of(lane.lane),
                size_mb=sizes[lane.lane] / 1e6,
                parameters=parameters,
                macs=macs,
                accuracy=lane.accuracy,
                accuracy_interval_95=lane.interval,
                drop_points=agreement.drop.value if agreement else None,
                changed=agreement.changed if agreement else None,
                sqnr_db=agreement.sqnr_db if agreement and np.isfinite(agreement.sqnr_db) else None,
                cpu_ms_min=time.cpu_ms_min if time else None,
                cpu_ms_median=time.cpu_ms_median if time else None,
            )
        )
    held_out, clipped = _coverage(artifacts)
    return BuildReport(
        name=recipe.name,
        target=target,
        eval_rows=result.rows,
        machine=machine(),
        rows=tuple(rows),
        held_out_rows=held_out,
        clipped=clipped,
        ranges=_ranges(artifacts),
        saturating=_saturating(artifacts),
    )


def _saturating(artifacts: Artifacts) -> tuple[str, ...] | None:
    from edgekit_converters.quantize.saturation_report import SATURATION_FILE

    if Kind.ONNX_INT8 not in artifacts:
        return None
    held = json.loads((artifacts[Kind.ONNX_INT8].path / SATURATION_FILE).read_text(encoding="utf-8"))
    return tuple(held["unsafe"])


def _coverage(artifacts: Artifacts) -> tuple[int, tuple[Clipped, ...]]:
    from edgekit_converters.quantize.calibration.held_out import COVERAGE_FILE

    held = json.loads((artifacts[Kind.QUANT_PLAN].path / COVERAGE_FILE).read_text(encoding="utf-8"))
    shares = {each["name"]: each["fraction_below"] + each["fraction_above"] for each in held["tensors"]}
    return held["rows"], tuple(Clipped(name=name, clipped=shares[name]) for name in held["worst"])


def _ranges(artifacts: Artifacts) -> str:
    from edgekit_converters.quantize.plan import PLAN_FILE

    plan = json.loads((artifacts[Kind.QUANT_PLAN].path / PLAN_FILE).read_text(encoding="utf-8"))
    return str(plan["ranges"])


def _sizes(artifacts: Artifacts) -> dict[str, int]:
    from edgekit.stages import engine_lanes

    sizes = {lane.name: len(lane.content()) for lane in engine_lanes(artifacts)}
    dynamic = torch_dynamic_lane(artifacts[Kind.STUDENT_PRUNED].path)
    if dynamic is not None:
        sizes[dynamic.name] = dynamic.size_bytes()
    return {"torch": (artifacts[Kind.STUDENT_PRUNED].path / "model.safetensors").stat().st_size, **sizes}


def _teacher_row(artifacts: Artifacts, time: LaneTime | None) -> LaneRow:
    from edgekit_models.data.dataset import read_dataset

    folder = artifacts[Kind.TEACHER].path
    targets = read_dataset(artifacts[Kind.DATA].path).evaluation.targets
    logits = np.load(artifacts[Kind.TEACHER_OUTPUTS].path / "eval.npy", allow_pickle=False)
    correct = int((logits.argmax(1) == targets).sum())
    parameters, macs = _costs(folder)
    weights = next(folder.glob("model.*"))
    return LaneRow(
        lane="teacher",
        engine="onnxruntime" if time else "PyTorch",
        size_mb=weights.stat().st_size / 1e6,
        parameters=parameters,
        macs=macs,
        accuracy=correct / len(targets),
        accuracy_interval_95=wilson_interval(correct, len(targets)),
        cpu_ms_min=time.cpu_ms_min if time else None,
        cpu_ms_median=time.cpu_ms_median if time else None,
    )


def _costs(folder: Path) -> tuple[int, int]:
    """Give the number of parameters and of multiply-adds per inference of a saved model."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edgekit_converters.export.contract import contract_of, exportable
    from edgekit_models.preprocess import PREPROCESS
    from edgekit_models.saved import Classifier, load_model

    model = load_model(folder)
    parameters = sum(value.numel() for value in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if isinstance(model, Classifier):
            exportable(model)(*contract_of(model.config).example())
        else:
            size = json.loads((folder / PREPROCESS).read_text(encoding="utf-8"))
            # Two rows, because an exported program may have been traced with a free first dimension above 1.
            model(torch.zeros(2, size["channels"], size["height"], size["width"]))
            return parameters, counter.get_total_flops() // 4
    return parameters, counter.get_total_flops() // 2
