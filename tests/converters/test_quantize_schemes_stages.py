"""Stages build coded weights as a recipe asks, and keep them for what was asked."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tiny_networks

from edgekit.build import build_stages
from edgekit.choice import ChooseModels
from edgekit.pipeline import Kind
from edgekit.recipe.load import load_recipe
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.decisions import adopt
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_schemes import least_opset
from edgekit_converters.quantize.stage import PlanQuantisation, QuantizeOnnx, QuantizeTflite, read_plan
from edgekit_runtime.errors import UsageError

TEXT = Task.TEXT_CLASSIFICATION
INT4 = QuantizeSpec(calibration_rows=6, weights="int4", embedding="int4", techniques=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_plan_stage_takes_coded_layers_to_int8_for_a_bound_and_repeats_it(tmp_path) -> None:
    artifacts, plans = tiny_networks.student_artifacts(TEXT, tmp_path), []
    for name, bound in (("free", None), ("bound", 26.0)):
        (tmp_path / name).mkdir()
        how = replace(INT4, min_sqnr_db=bound)
        note = PlanQuantisation(task=TEXT, how=how, seed=0).run(artifacts, tmp_path / name)
        artifacts[Kind.QUANT_PLAN] = tiny_networks.artifact(Kind.QUANT_PLAN, tmp_path / name)
        plans.append(read_plan(artifacts))
    free, bounded = plans
    relaxed = [layer for layer in bounded.layers if layer.is_int8]
    assert f"{len(relaxed)} layers relaxed" in note
    assert 0 < len(relaxed) < len(free.codes())
    assert adopt(free, bounded) == bounded
    assert all((layer.coded is None) is (layer.scheme is None) for layer in adopt(free, bounded).layers)
    assert list(adopt(free, bounded).codes()) == list(bounded.codes())
    other = tuple(
        replace(layer, scheme=replace(layer.scheme, sha256="0" * 64)) if layer.is_coded else layer
        for layer in bounded.layers
    )
    with pytest.raises(UsageError) as caught:
        adopt(free, replace(bounded, layers=other))
    assert caught.value.code == "E0147"


def test_stages_build_int4_with_gptq_in_both_formats(tmp_path) -> None:
    artifacts = tiny_networks.student_artifacts(TEXT, tmp_path)
    how = replace(INT4, rounding="gptq", ffn_output="float")
    notes = {}
    for stage in (
        PlanQuantisation(task=TEXT, how=how, seed=0),
        QuantizeOnnx(activations="int8", opset=tiny_networks.OPSET),
        QuantizeTflite(how=how, seed=0),
    ):
        into = tmp_path / stage.gives.value
        into.mkdir()
        notes[stage.gives] = stage.run(artifacts, into)
        artifacts[stage.gives] = tiny_networks.artifact(stage.gives, into)
    plan = read_plan(artifacts)
    assert [technique.name for technique in plan.techniques] == ["GPTQ rounding"]
    assert "GPTQ rounding" in notes[Kind.QUANT_PLAN]
    assert {layer.mode for layer in plan.layers if layer.name.endswith("ffn_out")} == {Mode.FLOAT}
    assert len(plan.codes()) == 11  # two blocks of query, key, value, output and ffn_in, and the words
    for kind in (Kind.ONNX_INT8, Kind.TFLITE_INT8):
        assert "11 arrays and grids equal the plan's" in notes[kind]
    assert "11 int4" in notes[Kind.ONNX_INT8]
    model = onnx.load(tmp_path / "onnx-int8" / "model.onnx")
    assert max(entry.version for entry in model.opset_import if not entry.domain) == least_opset(plan) == 21


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        (QuantizeSpec(), False),
        (QuantizeSpec(activations="int16"), True),  # slower than float32 on every CPU, and asked for all the same
        (QuantizeSpec(weights="codebook"), True),
        (QuantizeSpec(activations="int8"), False),
    ],
)
def test_what_is_asked_for_its_size_or_closeness_is_kept_though_float32_is_faster(how, kept) -> None:
    recipe = replace(load_recipe(Path(__file__).parents[2] / "examples" / "digits.yaml"), quantize=how)
    stages = build_stages(recipe, target="x86-64", trust_code=False, offline=True, progress=Silent())
    (choice,) = [stage for stage in stages if isinstance(stage, ChooseModels)]
    assert choice.keep_int8 is kept


class Silent:
    def notice(self, _text: str) -> None:
        """Nobody reads it."""
