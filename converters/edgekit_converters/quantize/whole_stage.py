"""Writes the student as ONNX for NPUs: every operator reads and gives integers (``quantize.whole_network``)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import QuantizeSpec
from edgekit_converters.export.contract import contract_of, exportable
from edgekit_converters.export.stage import ONNX_FILE
from edgekit_converters.quantize.stage import calibration_rows
from edgekit_models.saved import load_own_model
from edgekit_models.text_classifier import TextConfig
from edgekit_runtime.errors import ConversionError

if TYPE_CHECKING:
    from edgekit_converters.quantize.saturation import SaturationProof
    from edgekit_converters.quantize.whole import WholePlanned

__all__ = ["WHOLE_PLAN_FILE", "QuantizeWholeOnnx"]

WHOLE_PLAN_FILE = "whole_plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeWholeOnnx:
    """Plan a grid for every tensor of a text student, and write the network with Q/DQ pairs around every operator."""

    how: QuantizeSpec
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED)
    gives: ClassVar[Kind] = Kind.ONNX_INT8

    def config(self) -> Mapping[str, object]:
        return {"quantize": {**asdict(self.how), "plan": ""}, "seed": self.seed}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnx", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx``, ``whole_plan.json`` and ``saturation.json``."""
        from edgekit_converters.quantize.graph import trace
        from edgekit_converters.quantize.measure import as_rows
        from edgekit_converters.quantize.saturation_report import record_saturation
        from edgekit_converters.quantize.whole import WholePlanner
        from edgekit_converters.quantize.whole_onnx import float_operators, write_whole_onnx

        folder = artifacts[Kind.STUDENT_PRUNED].path
        model = load_own_model(folder / "config.json", folder / "model.safetensors")
        assert isinstance(model.config, TextConfig)  # the recipe's checks refuse the key for images
        contract = contract_of(model.config)
        example = contract.example()
        graph = trace(exportable(model), example, longest=model.config.max_length)
        drawn = partial(calibration_rows, artifacts, count=self.how.calibration_rows, seed=self.seed)
        mask = example[1].clone()
        mask[:, mask.shape[1] // 2 :] = 0
        planner = WholePlanner(
            residual="int16" if self.how.whole_network == "int16-residual" else "int8", techniques=self.how.techniques
        )
        planned = planner.make(graph, as_rows(graph, drawn, trim=True), (example[0], mask))
        write_whole_onnx(planned.graph, planned.plan, contract, into / ONNX_FILE)
        loose = float_operators(into / ONNX_FILE)
        if loose:
            raise ConversionError(
                "E0777",
                f"{len(loose)} operators would still compute in float: {', '.join(loose[:3])}",
                fix="report the model, or set quantize.whole_network: off",
            )
        (into / WHOLE_PLAN_FILE).write_text(planned.plan.to_json(), encoding="utf-8")
        said = record_saturation(_proofs(planned), into, must_be_safe=False)
        tried = [f"{row.name} {row.sqnr_after_db - row.sqnr_before_db:+.1f} dB" for row in planned.plan.techniques]
        size = (into / ONNX_FILE).stat().st_size
        named = "; ".join(tried) or "no technique tried"
        return f"{size / 1e6:.2f} MB, {len(planned.plan.tensors)} grids, 0 float operators; {named}; {said}"


def _proofs(planned: "WholePlanned") -> "list[SaturationProof]":
    """Bound the sums of every linear layer; all input codes count."""
    from edgekit_converters.quantize.graph import layer_name, layers
    from edgekit_converters.quantize.saturation import prove
    from edgekit_converters.quantize.whole_simulate import linear_codes

    found = []
    for _, kind, node in layers(planned.graph):
        if kind == "linear":
            codes = linear_codes(planned.graph, planned.plan, node)
            found.append(prove(layer_name(node), codes.weight, kind="linear", bias=codes.bias))
    return found
