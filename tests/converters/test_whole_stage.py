"""``quantize.whole_network``: what the stage of a build writes and says."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks
from onnx import TensorProto, helper

from edgekit.pipeline import Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize import whole_onnx
from edgekit_converters.quantize.whole_onnx import float_operators
from edgekit_converters.quantize.whole_stage import WHOLE_PLAN_FILE, QuantizeWholeOnnx
from edgekit_models.saved import load_own_model
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.statistics import sqnr_db

TEXT = Task.TEXT_CLASSIFICATION


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    found = tiny_networks.data_artifact(TEXT, folder / "data")
    teacher = tiny_networks.write_teacher(folder / "teacher", task=TEXT)
    for kind in (Kind.TEACHER, Kind.STUDENT_PRUNED):
        found[kind] = tiny_networks.artifact(kind, teacher)
    return found


def stage(whole: str) -> QuantizeWholeOnnx:
    return QuantizeWholeOnnx(how=QuantizeSpec(calibration_rows=16, whole_network=whole), seed=0)


@pytest.mark.parametrize(("whole", "bits"), [("int8", {8}), ("int16-residual", {8, 16})])
def test_the_stage_writes_a_model_that_answers_as_the_student_does(artifacts, tmp_path, whole, bits):
    said = stage(whole).run(artifacts, tmp_path)
    folder = artifacts[Kind.STUDENT_PRUNED].path
    model = load_own_model(folder / "config.json", folder / "model.safetensors").eval()
    feeds = tiny_networks.text_feeds(20, seed=4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    answers = np.concatenate([session.run(None, row)[0] for row in feeds])
    assert sqnr_db(tiny_networks.torch_logits(model, feeds), answers) > 15
    plan = json.loads((tmp_path / WHOLE_PLAN_FILE).read_text())
    assert {grid["bits"] for grid in plan["tensors"].values()} == bits
    assert f"{len(plan['tensors'])} grids, 0 float operators" in said


def test_the_sums_of_every_linear_layer_are_told(artifacts, tmp_path):
    stage("int8").run(artifacts, tmp_path)
    told = json.loads((tmp_path / "saturation.json").read_text())
    # 2 layers of query, key, value, output and the feed-forward pair; the dense head and the classifier.
    assert len({layer["layer"] for layer in told["layers"]}) >= 2 * 6 + 2


def test_an_operator_that_stays_float_ends_the_build(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_onnx, "float_operators", lambda path: ["gelu"])
    with pytest.raises(ConversionError, match="E0777"):
        stage("int8").run(artifacts, tmp_path)


def test_the_plan_depends_on_the_recipe_and_the_seed():
    assert stage("int8").config() != stage("int16-residual").config()


def test_a_float_operator_is_found(tmp_path):
    """x -> Q -> DQ -> Relu -> Q -> DQ -> Tanh -> y: only the last one gives float."""
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])
    zero = helper.make_tensor("z", TensorProto.INT8, [], [0])
    point = ["s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *point], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", *point], ["xd"]),
        helper.make_node("Relu", ["xd"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", *point], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", *point], ["rd"]),
        helper.make_node("Tanh", ["rd"], ["y"], name="tanh"),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *ends, [scale, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m")
    assert float_operators(tmp_path / "m") == ["tanh"]
