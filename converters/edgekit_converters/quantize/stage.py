"""Plan the quantisation of the student once, on training rows, and write it into ONNX and into TFLite."""

import hashlib
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.machine import machine
from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.contract import ModelContract, contract_of, exportable
from edgekit_converters.export.stage import ONNX_FILE, TFLITE_FILE
from edgekit_converters.quantize.decisions import Decisions, Format, adopt
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.quantize.plan import PLAN_FILE, QuantPlan
from edgekit_converters.quantize.saturation import SevenBit
from edgekit_converters.rows import feeds
from edgekit_models.data.dataset import Inputs, Rows, read_dataset
from edgekit_models.saved import load_own_model, read_config
from edgekit_models.text_classifier import TextConfig
from edgekit_runtime.errors import UsageError
from edgekit_runtime.statistics import sqnr_db

__all__ = [
    "PlanQuantisation",
    "QuantizeOnnx",
    "QuantizeTflite",
    "calibration_rows",
    "held_out_rows",
    "labelled_rows",
    "read_plan",
]

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit_converters.quantize.fastest import Bound
    from edgekit_converters.quantize.measure import Checkpoint, Row
    from edgekit_converters.quantize.planner import Planned

_LABELLED = 1024  # rows that a search within the budget is judged on; one of them is 0.1 points
_HELD_OUT = 32  # fewest rows that coverage is told from


def calibration_rows(artifacts: Artifacts, *, count: int, seed: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Give ``count`` seeded random training rows as feeds; never an evaluation row.

    Raises:
        UsageError: ``count`` is below 1.
    """
    if count < 1:
        raise UsageError("E0133", "quantize.calibration_rows is 0", fix="give at least 1; 256 is a good number")
    return feeds(_drawn(artifacts, seed, first=0, count=count), artifacts[Kind.TEACHER].path)


def held_out_rows(artifacts: Artifacts, *, count: int, seed: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Give training rows that ``calibration_rows`` does not: a quarter as many, 32 at least, as far as there are."""
    inputs = _drawn(artifacts, seed, first=count, count=max(_HELD_OUT, count // 4))
    return feeds(inputs, artifacts[Kind.TEACHER].path)


def labelled_rows(artifacts: Artifacts, *, count: int, seed: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Give up to 1,024 training rows that ``calibration_rows`` does not give; all rows where it gives all."""
    return feeds(_labelled(artifacts, count=count, seed=seed).inputs, artifacts[Kind.TEACHER].path)


def _labelled(artifacts: Artifacts, *, count: int, seed: int) -> Rows:
    unseen = _taken(artifacts, seed, first=count, count=_LABELLED)
    return unseen if len(unseen) else _taken(artifacts, seed, first=0, count=_LABELLED)


def _drawn(artifacts: Artifacts, seed: int, *, first: int, count: int) -> Inputs:
    """Give inputs of training rows at some places of a seeded random order, in their own order."""
    return _taken(artifacts, seed, first=first, count=count).inputs


def _taken(artifacts: Artifacts, seed: int, *, first: int, count: int) -> Rows:
    train = read_dataset(artifacts[Kind.DATA].path).train
    order = np.random.default_rng([seed, zlib.crc32(b"calibration")]).permutation(len(train))
    return train.take(np.sort(order[first : first + count]))


def read_plan(artifacts: Artifacts) -> QuantPlan:
    """Give the plan that ``PlanQuantisation`` wrote, with its codes."""
    from edgekit_converters.quantize.schemes.codes_file import load_codes

    folder = artifacts[Kind.QUANT_PLAN].path
    return load_codes(QuantPlan.from_json((folder / PLAN_FILE).read_text(encoding="utf-8")), folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuantisation:
    """Decide how every layer computes, on which grid; keep the float graph that the decision belongs to."""

    task: Task
    how: QuantizeSpec
    seed: int
    states: Path | None = None  # folder that a calibration which was killed goes on from
    formats: tuple[Format, ...] = ("onnx", "tflite")  # whose engines a search measures layers in
    activations: ActivationType = "uint8"
    given: Decisions | None = None
    max_drop: float = 1.0  # points that a search within the budget may lose

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED)
    gives: ClassVar[Kind] = Kind.QUANT_PLAN

    def config(self) -> Mapping[str, object]:
        # The path of a file of decisions says nothing; what it holds does. What is measured holds for one machine.
        basis: object = self.given.digest if self.given else ""
        if self.given is None and self.how.searches:
            bound = [self.max_drop] if self.how.within_max_drop else []
            basis = [list(self.formats), self.activations, machine(), *bound]
        return {"quantize": {**asdict(self.how), "plan": ""}, "task": self.task.value, "basis": basis}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``plan.json``, ``coverage.json`` and the graph."""
        from edgekit_converters.quantize.calibration.held_out import hold_out
        from edgekit_converters.quantize.graph import save_graph, trace
        from edgekit_converters.quantize.measure import as_rows
        from edgekit_converters.quantize.planner import Planned, Planner
        from edgekit_converters.quantize.schemes.choose import CodeWeights
        from edgekit_converters.quantize.schemes.codes_file import save_codes
        from edgekit_converters.quantize.schemes.rounded import round_weights
        from edgekit_converters.quantize.search import relax
        from edgekit_converters.quantize.trained import save_trained

        folder = artifacts[Kind.STUDENT_PRUNED].path
        model = load_own_model(folder / "config.json", folder / "model.safetensors")
        example = contract_of(model.config).example()
        longest = model.config.max_length if isinstance(model.config, TextConfig) else 0
        graph = trace(exportable(model), example, longest=longest)
        drawn = {"count": self.how.calibration_rows, "seed": self.seed}
        planner = Planner(
            mode=layer_mode(self.task, self.how),
            whole_network=self.task is Task.IMAGE_CLASSIFICATION,
            techniques=self.how.techniques,
            ranges=self.how.ranges,
            resume=self._checkpoint(artifacts),
            seven_bit=self.how.seven_bit,
            per_tensor=self.how.per_tensor,
            bits=16 if self.how.activations == "int16" else 8,
            finish=CodeWeights(how=self.how),
        )
        rows = as_rows(graph, partial(calibration_rows, artifacts, **drawn), trim=longest > 2)
        planned = planner.make(graph, rows)
        plan, relaxed = planned.plan, ""
        if self.how.weights == "int4" and self.how.rounding != "nearest":
            plan = round_weights(planned.graph, plan, rows, planner.judged(rows), method=self.how.rounding)
        tested = plan.techniques
        if self.given is not None:
            plan, relaxed = adopt(plan, next(iter(self.given.plans.values())).plan), "; modes as given"
        elif self.how.min_sqnr_db is not None and plan.codes():
            # Fewer bits are asked for size, not for speed: the fewest layers take more of them.
            eased = relax(planned.graph, plan, planner.judged(rows), min_sqnr_db=self.how.min_sqnr_db)
            plan, relaxed = eased.plan, f"; {len(eased.relaxed)} layers relaxed for {eased.sqnr_db:.1f} dB"
        elif self.how.searches:
            labelled = partial(labelled_rows, artifacts, **drawn)
            judged = as_rows(graph, labelled, trim=longest > 2) if self.how.within_max_drop else planner.judged(rows)
            plan, relaxed = self._search(Planned(planned.graph, plan), judged, example, self._bound(artifacts))
        (into / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8")
        save_codes(plan, into)
        save_graph(planned.graph, example, into)
        save_trained(planned.trained, into)
        unseen = as_rows(graph, partial(held_out_rows, artifacts, **drawn), trim=longest > 2)
        held_out = hold_out(planned.graph, plan, unseen)
        held_out.write(into)
        self._forget(artifacts)
        tried = [f"{row.name} {row.sqnr_after_db - row.sqnr_before_db:+.1f} dB" for row in tested]
        kept = sum(row.kept for row in tested)
        named = "; ".join(tried) or "none fits"
        said = f"{kept} of {len(tried)} techniques kept ({named}){relaxed}; {held_out.line()}"
        return f"{len(planned.plan.layers)} layers; {said}"

    def _checkpoint(self, artifacts: Artifacts) -> "Checkpoint | None":
        from edgekit_converters.quantize.measure import Checkpoint

        folder = self._state_folder(artifacts)
        return None if folder is None else Checkpoint(folder=folder)

    def _forget(self, artifacts: Artifacts) -> None:
        folder = self._state_folder(artifacts)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _state_folder(self, artifacts: Artifacts) -> Path | None:
        """Give a folder that builds of another student or recipe do not use."""
        depends = repr((artifacts[Kind.STUDENT_PRUNED].digest, artifacts[Kind.DATA].digest, self.config(), self.seed))
        return None if self.states is None else self.states / hashlib.sha256(depends.encode()).hexdigest()[:32]

    def _bound(self, artifacts: Artifacts) -> "Bound":
        from edgekit_converters.quantize.fastest import Bound, kept_accuracy

        if self.how.min_sqnr_db is not None:
            return Bound(measure=sqnr_db, least=self.how.min_sqnr_db, unit="dB")
        targets = _labelled(artifacts, count=self.how.calibration_rows, seed=self.seed).targets
        return Bound(measure=kept_accuracy(targets), least=-self.max_drop, unit="points of float32's accuracy")

    def _search(
        self, made: "Planned", judged: "Sequence[Row]", example: "tuple[Tensor, ...]", bound: "Bound"
    ) -> tuple[QuantPlan, str]:
        """Find the fastest modes, by the CPU time of each layer here, that keep the bound; say what it took."""
        from edgekit_converters.quantize.cost import MODES, layer_costs
        from edgekit_converters.quantize.fastest import fastest

        costs = layer_costs(
            made.graph,
            made.plan,
            example,
            formats=self.formats,
            activations=self.activations,
            only=(Mode.STATIC,) if self.how.all_int8 else MODES,
        )
        found = fastest(made.graph, made.plan, judged, costs, bound)
        return found.plan, f"; {len(found.moved)} layers left their fastest mode for {found.reached:.1f} {bound.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOnnx:
    """Write the plan as int8 ONNX with our own Q/DQ placement."""

    activations: ActivationType
    opset: int
    seven_bit: SevenBit = False

    takes: ClassVar[tuple[Kind, ...]] = (Kind.STUDENT_PRUNED, Kind.QUANT_PLAN)
    gives: ClassVar[Kind] = Kind.ONNX_INT8

    def config(self) -> Mapping[str, object]:
        return {"activations": self.activations, "opset": self.opset, "seven_bit": self.seven_bit}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnx", "onnxscript", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx``, and what its sums can reach into ``saturation.json``."""
        from edgekit_converters.quantize.write import write_onnx

        made, contract = _planned(artifacts)
        return write_onnx(
            made,
            contract,
            into / ONNX_FILE,
            activations=self.activations,
            opset=self.opset,
            seven_bit=self.seven_bit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeTflite:
    """Write the plan as int8 TFLite through ai-edge-quantizer."""

    how: QuantizeSpec
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED, Kind.QUANT_PLAN)
    gives: ClassVar[Kind] = Kind.TFLITE_INT8

    def config(self) -> Mapping[str, object]:
        return {"calibration_rows": self.how.calibration_rows}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.tflite``."""
        from edgekit_converters.quantize.write import write_tflite

        made, contract = _planned(artifacts)
        rows = calibration_rows(artifacts, count=self.how.calibration_rows, seed=self.seed)
        return write_tflite(made, contract, into / TFLITE_FILE, rows)


def _planned(artifacts: Artifacts) -> "tuple[Planned, ModelContract]":
    from edgekit_converters.quantize.graph import load_graph
    from edgekit_converters.quantize.planner import Planned
    from edgekit_converters.quantize.trained import load_trained

    folder = artifacts[Kind.QUANT_PLAN].path
    made = Planned(load_graph(folder), read_plan(artifacts), load_trained(folder))
    return made, contract_of(read_config(artifacts[Kind.STUDENT_PRUNED].path / "config.json"))
