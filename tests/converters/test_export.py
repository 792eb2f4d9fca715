"""Float exports answer as PyTorch does, carry nothing of the build machine, and are the same each time."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks
import torch
from tiny_networks import OPSET
from torch import nn

from edgekit.pipeline import Kind
from edgekit.recipe.spec import Task
from edgekit_converters.export.contract import contract_of, exportable
from edgekit_converters.export.onnx import SCOPES, export_onnx
from edgekit_converters.export.stage import ExportOnnx, ExportTeacher
from edgekit_converters.export.tflite import export_tflite, tflite_contract
from edgekit_converters.quantize.onnx_graph import module_path
from edgekit_models.saved import save_foreign_model, save_model
from edgekit_runtime.engines import open_engine
from edgekit_runtime.errors import ConversionError

FEEDS = {"text": tiny_networks.text_feeds, "image": tiny_networks.image_feeds}


def run(engine: str, path: Path, contract, feeds) -> np.ndarray:
    opened = open_engine(engine, path.read_bytes(), contract.inputs, contract.outputs, 1)
    try:
        return np.concatenate([opened.run(row)["logits"] for row in feeds])
    finally:
        opened.close()


def test_contract_names_what_goes_in_and_out(text_model, image_model) -> None:
    text, image = contract_of(text_model.config), contract_of(image_model.config)
    assert [(s.name, s.tensor, s.dtype, s.shape) for s in (*text.inputs, *text.outputs)] == [
        ("input_ids", "input_ids", "int32", (1, 12)),
        ("attention_mask", "attention_mask", "int32", (1, 12)),
        ("logits", "logits", "float32", (1, 3)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in (*image.inputs, *image.outputs)] == [
        ("image", "float32", (1, 8, 6, 1)),
        ("logits", "float32", (1, 3)),
    ]
    assert [(x.dtype, tuple(x.shape)) for x in text.example()] == [(torch.int32, (1, 12))] * 2


@torch.no_grad()
def test_exportable_form_folds_batch_norms_and_leaves_the_model_alone(image_model) -> None:
    state = {name: value.clone() for name, value in image_model.state_dict().items()}
    module = exportable(image_model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    feeds = tiny_networks.image_feeds(4)
    folded = torch.cat([module(torch.from_numpy(row["image"])) for row in feeds])
    np.testing.assert_allclose(folded, tiny_networks.torch_logits(image_model, feeds), atol=1e-5)
    torch.testing.assert_close(dict(image_model.state_dict()), state, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_float_onnx_equals_torch(kind, request) -> None:
    model, path = request.getfixturevalue(f"{kind}_model"), request.getfixturevalue(f"{kind}_onnx")
    feeds = FEEDS[kind](12)
    measured = run("onnxruntime", path, contract_of(model.config), feeds)
    expected = tiny_networks.torch_logits(model, feeds)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_onnx_holds_no_trace_of_the_machine(kind, request) -> None:
    path = request.getfixturevalue(f"{kind}_onnx")
    raw = path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no external data
    for word in (rb"\.py\b", rb"site-packages", rb"File \"", rb"/(home|root|tmp|usr|opt|var)/", rb"stack_trace"):
        assert not re.search(word, raw), word
    assert str(Path.cwd()).encode() not in raw
    model = onnx.load(path)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} == {SCOPES}
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [OPSET]


def test_onnx_nodes_know_their_module(text_onnx, image_onnx) -> None:
    paths = {
        module_path(node) for node in onnx.load(text_onnx).graph.node if node.op_type in ("MatMul", "Gemm", "Gather")
    }
    layers = {f"layers.{i}.{part}" for i in range(2) for part in ("ffn_in", "ffn_out")}
    layers |= {f"layers.{i}.attention.{part}" for i in range(2) for part in ("query", "key", "value", "output")}
    products = {"layers.0.attention", "layers.1.attention"}  # scores and context have no weights of their own
    assert paths == layers | products | {"words", "head_dense", "classifier"}
    convolutions = [module_path(node) for node in onnx.load(image_onnx).graph.node if node.op_type == "Conv"]
    assert convolutions == [f"blocks.{i}.conv" for i in range(4)]
    assert module_path(onnx.NodeProto()) == ""


def test_no_sum_is_fused_into_a_layer_norm(text_onnx, tmp_path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(text_onnx, options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "LayerNormalization" in kinds
    assert "SkipLayerNormalization" not in kinds


def test_onnx_exported_twice_is_the_same_file(image_model, image_onnx, tmp_path) -> None:
    again = tmp_path / "again.onnx"
    export_onnx(image_model, contract_of(image_model.config), again, opset=OPSET)
    assert again.read_bytes() == image_onnx.read_bytes()


def test_model_that_cannot_be_exported_is_a_conversion_error(tmp_path, capfd, image_model, monkeypatch) -> None:
    def choosy(self, image):
        return self.classifier(image.mean((2, 3)).repeat(1, 16)) if image.sum().item() > 0 else image

    contract = contract_of(image_model.config)
    with monkeypatch.context() as patch:
        patch.setattr(type(image_model), "forward", choosy)
        with pytest.raises(ConversionError) as caught:
            export_onnx(image_model, contract, tmp_path / "x.onnx", opset=OPSET)
        assert caught.value.code == "E0720"
        with pytest.raises(ConversionError) as caught:
            export_tflite(image_model, contract, tmp_path / "x.tflite")
        assert caught.value.code == "E0721"
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_the_checker_refuses_is_a_conversion_error(tmp_path, image_model, monkeypatch) -> None:
    def refuse(*_, **__):
        raise onnx.checker.ValidationError("no such operator")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ConversionError) as caught:
        export_onnx(image_model, contract_of(image_model.config), tmp_path / "x.onnx", opset=OPSET)
    assert "no such operator" in caught.value.why
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["text", "image"])
def test_float_tflite_equals_torch(kind, request) -> None:
    model, path = request.getfixturevalue(f"{kind}_model"), request.getfixturevalue(f"{kind}_tflite")
    contract = tflite_contract(contract_of(model.config), path)
    assert [spec.tensor for spec in contract.inputs] == [f"serving_default_{spec.name}" for spec in contract.inputs]
    feeds = FEEDS[kind](12)
    measured = run("litert", path, contract, feeds)
    np.testing.assert_allclose(measured, tiny_networks.torch_logits(model, feeds), rtol=0, atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert str(Path.cwd()).encode() not in path.read_bytes()


def test_tflite_file_of_another_model_is_refused(text_model, image_tflite, tmp_path) -> None:
    with pytest.raises(ConversionError) as caught:
        tflite_contract(contract_of(text_model.config), image_tflite)
    assert caught.value.code == "E0723"
    assert "input_ids" in caught.value.what
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(ConversionError) as caught:
        tflite_contract(contract_of(text_model.config), tmp_path / "x.tflite")
    assert caught.value.code == "E0722"


def test_stages_export_student_and_teacher(tmp_path, image_model, image_onnx) -> None:
    student = tmp_path / "student"
    student.mkdir()
    save_model(image_model, student)
    for stage, kind in ((ExportOnnx(opset=OPSET), Kind.STUDENT_PRUNED), (ExportTeacher(opset=OPSET), Kind.TEACHER)):
        into = tmp_path / stage.gives.value
        into.mkdir()
        note = stage.run({kind: tiny_networks.artifact(kind, student)}, into)
        assert "MB" in note
        assert (into / "model.onnx").read_bytes() == image_onnx.read_bytes()


def test_foreign_teacher_is_not_exported_and_the_reason_is_given(tmp_path) -> None:
    folder = tiny_networks.write_teacher(tmp_path / "teacher", task=Task.IMAGE_CLASSIFICATION)
    foreign = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    save_foreign_model(foreign, (torch.zeros(2, 1, 8, 6),), folder)
    into = tmp_path / "onnx"
    into.mkdir()
    note = ExportTeacher(opset=OPSET).run({Kind.TEACHER: tiny_networks.artifact(Kind.TEACHER, folder)}, into)
    assert "foreign module" in note
    assert [path.name for path in into.iterdir()] == ["note.txt"]  # a stage must leave a file
