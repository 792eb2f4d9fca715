"""The stages that quantise: which rows they calibrate on and what they write."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_networks

from edgekit.pipeline import Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.graph import layer_weights, load_graph
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.stage import (
    PlanQuantisation,
    QuantizeOnnx,
    QuantizeTflite,
    calibration_rows,
    labelled_rows,
    read_plan,
)
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.errors import QualityError, UsageError

TEXT, IMAGE = Task.TEXT_CLASSIFICATION, Task.IMAGE_CLASSIFICATION


def given(task: Task, folder) -> dict:
    artifacts = tiny_networks.data_artifact(task, folder / "data")
    teacher = tiny_networks.write_teacher(folder / "teacher", task=task)
    return {**artifacts, Kind.TEACHER: tiny_networks.artifact(Kind.TEACHER, teacher)}


def images(rows) -> set[bytes]:
    return {np.rint(row["image"][0] * 255).astype(np.uint8).tobytes() for row in rows}


def test_calibration_rows_are_training_rows_drawn_by_the_seed(tmp_path) -> None:
    artifacts = given(IMAGE, tmp_path)
    data = read_dataset(artifacts[Kind.DATA].path)
    train = {image.tobytes() for image in data.train.images}
    first = images(calibration_rows(artifacts, count=10, seed=1))
    assert len(first) == 10
    assert first < train
    assert first == images(calibration_rows(artifacts, count=10, seed=1))
    assert first != images(calibration_rows(artifacts, count=10, seed=2))
    assert images(calibration_rows(artifacts, count=999, seed=1)) == train
    with pytest.raises(UsageError) as caught:
        calibration_rows(artifacts, count=0, seed=1)
    assert caught.value.code == "E0133"


@pytest.mark.parametrize(("weights", "tried"), [("int8", True), ("int4", False)])
def test_int8_weights_and_biases_are_refined_and_coded_weights_are_not(tmp_path, weights, tried) -> None:
    artifacts = tiny_networks.student_artifacts(TEXT, tmp_path)
    (tmp_path / "plan").mkdir()
    PlanQuantisation(task=TEXT, how=QuantizeSpec(calibration_rows=6, weights=weights), seed=0).run(
        artifacts, tmp_path / "plan"
    )
    artifacts[Kind.QUANT_PLAN] = tiny_networks.artifact(Kind.QUANT_PLAN, tmp_path / "plan")
    names = {technique.name for technique in read_plan(artifacts).techniques}
    assert ("round weights for outputs (GPTQ)" in names, "correct biases" in names) == (tried, tried)


@pytest.mark.parametrize("task", [TEXT, IMAGE])
def test_stages_write_one_plan_into_both_formats_and_say_what_they_did(tmp_path, task) -> None:
    artifacts = tiny_networks.student_artifacts(task, tmp_path)
    how = QuantizeSpec(calibration_rows=6)
    notes = {}
    for stage in (
        PlanQuantisation(task=task, how=how, seed=0),
        QuantizeOnnx(activations="int8", opset=tiny_networks.OPSET),
        QuantizeTflite(how=how, seed=0),
    ):
        into = tmp_path / stage.gives.value
        into.mkdir()
        notes[stage.gives] = stage.run(artifacts, into)
        artifacts[stage.gives] = tiny_networks.artifact(stage.gives, into)
    assert read_plan(artifacts).calibration_rows == 6
    files = {form: sorted(path.name for path in (tmp_path / f"{form}-int8").iterdir()) for form in ("onnx", "tflite")}
    assert files["onnx"] == ["layers.json", "model.onnx", "reference.data", "reference.onnx", "saturation.json"]
    assert files["tflite"] == ["layers.json", "model.tflite", "reference.tflite"]
    assert "techniques" in notes[Kind.QUANT_PLAN]
    assert "int8 x int8" in notes[Kind.ONNX_INT8]
    assert ("1 embedding" in notes[Kind.ONNX_INT8]) is (task is TEXT)
    for kind in (Kind.ONNX_INT8, Kind.TFLITE_INT8):
        assert "equal the plan's" in notes[kind]
    if task is TEXT:
        assert require_true_saturation(artifacts, notes[Kind.ONNX_INT8])  # full-range weights of a transformer saturate


def test_plan_stage_relaxes_layers_for_a_bound_and_refuses_under_all_int8(tmp_path) -> None:
    artifacts = tiny_networks.student_artifacts(TEXT, tmp_path)
    (tmp_path / "plan").mkdir()
    naive = QuantizeSpec(calibration_rows=12, ffn_output="static", techniques=False)
    bound = replace(naive, min_sqnr_db=40.0)
    note = PlanQuantisation(task=TEXT, how=bound, seed=0).run(artifacts, tmp_path / "plan")
    reached = float(re.search(r"left their fastest mode for ([\d.]+) dB", note)[1])
    artifacts[Kind.QUANT_PLAN] = tiny_networks.artifact(Kind.QUANT_PLAN, tmp_path / "plan")
    modes = [layer.mode for layer in read_plan(artifacts).layers if layer.name not in ("head_dense", "classifier")]
    assert reached >= 40.0
    assert Mode.FLOAT in modes  # the naive plan has 20 dB, and no int8 mode brings 40
    with pytest.raises(QualityError) as caught:
        PlanQuantisation(task=TEXT, how=replace(bound, all_int8=True), seed=0).run(artifacts, tmp_path)
    assert caught.value.code == "E0303"


def test_plan_stage_searches_within_the_drop_of_the_budget_on_rows_that_were_not_calibrated(tmp_path) -> None:
    artifacts = tiny_networks.student_artifacts(TEXT, tmp_path)
    (tmp_path / "plan").mkdir()
    how = QuantizeSpec(calibration_rows=12, ffn_output="static", techniques=False, within_max_drop=True)
    note = PlanQuantisation(task=TEXT, how=how, seed=0, max_drop=100.0).run(artifacts, tmp_path / "plan")
    assert "0 layers left their fastest mode for" in note
    assert "points of float32's accuracy" in note
    calibrated = [row["input_ids"].tobytes() for row in calibration_rows(artifacts, count=12, seed=0)]
    judged = [row["input_ids"].tobytes() for row in labelled_rows(artifacts, count=12, seed=0)]
    assert judged
    assert not set(judged) & set(calibrated)
    with pytest.raises(QualityError) as caught:
        PlanQuantisation(task=TEXT, how=replace(how, all_int8=True), seed=0, max_drop=-100.5).run(artifacts, tmp_path)
    assert caught.value.code == "E0303"


def saturates(codes):
    """Tell whether some input from 0 to 255 takes a sum of two neighbouring products out of 16 bits."""
    padded = np.pad(codes.astype(int), ((0, 0), (0, codes.shape[1] % 2)))
    highest, lowest = (255 * side(padded, 0) for side in (np.maximum, np.minimum))  # 255 at one sign, 0 at the other
    return (highest[:, 0::2] + highest[:, 1::2] > 32767).any() or (lowest[:, 0::2] + lowest[:, 1::2] < -32768).any()


def require_true_saturation(artifacts, note: str) -> list[str]:
    """Compare ``saturation.json`` with the weights of the plan; give the layers that can saturate."""
    weights = layer_weights(load_graph(artifacts[Kind.QUANT_PLAN].path))
    codes = {
        layer.name: layer.codes(weights[layer.name])
        for layer in read_plan(artifacts).layers
        if layer.kind == "linear" and layer.mode is not Mode.FLOAT
    }
    held = json.loads((artifacts[Kind.ONNX_INT8].path / "saturation.json").read_text())
    assert [row["layer"] for row in held["layers"]] == list(codes)
    assert held["unsafe"] == [name for name, rows in codes.items() if saturates(rows)]
    assert f"{len(held['unsafe'])} of {len(codes)} int8 layers can saturate" in note
    return held["unsafe"]


@pytest.mark.parametrize("seven_bit", [True, "pairs"])
def test_narrow_weights_stand_in_both_formats_and_nothing_saturates(tmp_path, seven_bit) -> None:
    artifacts = given(TEXT, tmp_path)
    student = tiny_networks.write_teacher(tmp_path / "student", task=TEXT)
    artifacts[Kind.STUDENT_PRUNED] = tiny_networks.artifact(Kind.STUDENT_PRUNED, student)
    how = QuantizeSpec(calibration_rows=6, techniques=False, seven_bit=seven_bit)
    stages = [
        PlanQuantisation(task=TEXT, how=how, seed=0),
        QuantizeOnnx(activations="uint8", opset=tiny_networks.OPSET, seven_bit=seven_bit),
        QuantizeTflite(how=how, seed=0),
    ]
    notes = {}
    for stage in stages if seven_bit is True else stages[:2]:
        into = tmp_path / stage.gives.value
        into.mkdir()
        notes[stage.gives] = stage.run(artifacts, into)
        artifacts[stage.gives] = tiny_networks.artifact(stage.gives, into)
    assert require_true_saturation(artifacts, notes[Kind.ONNX_INT8]) == []
    weights = layer_weights(load_graph(artifacts[Kind.QUANT_PLAN].path))
    static = [layer for layer in read_plan(artifacts).layers if layer.mode is Mode.STATIC and layer.kind == "linear"]
    widest = max(np.abs(layer.codes(weights[layer.name]).astype(int)).max() for layer in static)
    assert widest == (64 if seven_bit is True else 127)
