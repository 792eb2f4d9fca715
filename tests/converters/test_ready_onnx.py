"""Foreign ONNX files: as PyTorch graphs where that is possible, as they are where not; the file itself is only read."""

import os
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import ready_networks
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.graph import layers
from edgekit_converters.ready import from_onnx
from edgekit_converters.ready.load import load_ready
from edgekit_converters.ready.model import ReadyModel, ReadyOnnx
from edgekit_converters.ready.onnx2tf import tflite_from_onnx
from edgekit_converters.ready.onnx_file import digest_of, fix_shapes
from edgekit_converters.ready.onnx_only import quantize_ready_onnx
from edgekit_runtime.errors import ConversionError, MissingError, UsageError


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ready")
    return {
        name: ready_networks.write_onnx(ready_networks.network(name), folder / f"{name}.onnx")
        for name in ready_networks.NETWORKS
    }


@pytest.fixture(scope="module")
def lstm(tmp_path_factory) -> Path:
    """An LSTM over 12 steps with a linear head."""
    rng = np.random.default_rng(0)
    steps, size, hidden = 12, 8, 64

    def weight(*shape):
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    held = {"w": weight(1, 4 * hidden, size), "r": weight(1, 4 * hidden, hidden), "b": weight(1, 8 * hidden)}
    held |= {"head": weight(hidden, 3), "axis": np.array([1], np.int64), "last": np.array(-1, np.int64)}
    nodes = [
        helper.make_node("Transpose", ["frames"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["all"], hidden_size=hidden),
        helper.make_node("Squeeze", ["all", "axis"], ["flat"]),
        helper.make_node("Gather", ["flat", "last"], ["end"], axis=0),
        helper.make_node("MatMul", ["end", "head"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ("rows", steps, size))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("rows", 3))]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in held.items()])
    path = tmp_path_factory.mktemp("lstm") / "lstm.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def small(path: Path, *nodes, inputs, held=None, outputs=("y",), opset=18) -> Path:
    initializers = [numpy_helper.from_array(value, name) for name, value in (held or {}).items()]
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    graph = helper.make_graph(list(nodes), "g", values, [onnx.ValueInfoProto(name=n) for n in outputs], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def relu(path: Path, kind=TensorProto.FLOAT, shape=("rows", 4)) -> Path:
    return small(path, helper.make_node("Relu", ["x"], ["y"]), inputs=[("x", kind, shape)])


@pytest.mark.parametrize("name", ready_networks.NETWORKS)
def test_the_graph_answers_as_the_users_network(files, tmp_path, name):
    model = ready_networks.network(name)
    found = load_ready(files[name], work=tmp_path)
    assert isinstance(found, ReadyModel)
    assert [spec.name for spec in found.contract.inputs] == list(model.inputs)
    example = model.example()
    if name == "bert":
        example = (example[0], (torch.arange(16)[None] < 9).long(), example[2])
    given = [value.int() if not value.is_floating_point() else value for value in example]
    with torch.no_grad():
        (answer,) = found.module(*given)
        np.testing.assert_allclose(answer, model(*example), rtol=1e-4, atol=1e-5)


def test_layers_are_named_as_in_the_users_network(files, tmp_path):
    found = load_ready(files["cnn"], work=tmp_path)
    names = [(name.split(".")[0], kind) for name, kind, _ in layers(found.module)]
    convs = ["stem", "depthwise", "squeeze", "excite", "pointwise", "grouped"]
    assert names == [(name, "conv") for name in convs] + [("head", "linear")]


def test_a_transformer_taken_apart_has_its_parts_back(files, tmp_path):
    found = load_ready(files["bert"], work=tmp_path)
    a = torch.ops.aten
    used = [node.target for node in found.module.graph.nodes if node.op == "call_function"]
    assert used.count(a.layer_norm.default) == 5
    assert used.count(a.gelu.default) == 2
    assert used.count(a.linear.default) == 13
    assert {spec.dtype for spec in found.contract.inputs} == {"int32"}
    assert "mask constants clipped" in found.description


@pytest.mark.parametrize("name", ready_networks.NETWORKS)
def test_the_users_file_is_not_written_to(files, tmp_path, name):
    before = digest_of(files[name])
    files[name].chmod(stat.S_IRUSR)
    found = load_ready(files[name], work=tmp_path)
    assert digest_of(files[name]) == before == found.digest


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    digests = iter(["before", "after"])
    monkeypatch.setattr("edgekit_converters.ready.onnx_file.digest_of", lambda *_: next(digests))
    with pytest.raises(ConversionError) as caught:
        fix_shapes(relu(tmp_path / "r.onnx"), tmp_path, None)
    assert caught.value.code == "E0790"


def test_outputs_that_are_inputs_go_and_float_outputs_come_first(tmp_path):
    nodes = [
        helper.make_node("Identity", ["ids"], ["same"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["scores"]),
        helper.make_node("Greater", ["scores", "zero"], ["high"]),
        helper.make_node("Cast", ["high"], ["best"], to=TensorProto.INT32),
    ]
    held = {"table": np.eye(5, dtype=np.float32), "w": np.eye(5, dtype=np.float32), "zero": np.array(0.5, np.float32)}
    inputs = [("ids", TensorProto.INT64, (1, 3))]
    path = small(tmp_path / "o.onnx", *nodes, inputs=inputs, held=held, outputs=["same", "best", "scores"])
    found = load_ready(path, work=tmp_path)
    assert [spec.name for spec in found.contract.outputs] == ["scores", "best"]
    scores, best = found.module(torch.tensor([[4, 0, 2]], dtype=torch.int32))
    wanted = np.eye(5, dtype=np.float32)[[[4, 0, 2]]]
    assert np.array_equal(scores, wanted)
    assert np.array_equal(best, wanted.astype(np.int32))
    assert "1 outputs that are inputs left out" in found.description


def test_a_file_without_a_float_output_is_refused(tmp_path):
    node = helper.make_node("Identity", ["ids"], ["same"])
    path = small(tmp_path / "i.onnx", node, inputs=[("ids", TensorProto.INT64, (1, 3))], outputs=["same"])
    with pytest.raises(ConversionError) as caught:
        load_ready(path, work=tmp_path)
    assert caught.value.code == "E0788"


def test_a_form_that_answers_otherwise_is_not_used(files, tmp_path, monkeypatch):
    class Wrong(from_onnx.OnnxModule):
        def forward(self, *inputs):
            return tuple(value * 1.001 for value in super().forward(*inputs))

    monkeypatch.setattr(from_onnx, "OnnxModule", Wrong)
    found = load_ready(files["products"], work=tmp_path)
    assert isinstance(found, ReadyOnnx)
    assert "does not answer as its source: outputs differ by 0.001" in found.why_no_tflite


def test_weights_beside_the_file_count_in_its_digest(tmp_path):
    weight = np.ones((64, 64), np.float32)
    path = small(
        tmp_path / "m.onnx",
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        inputs=[("x", TensorProto.FLOAT, (1, 64))],
        held={"w": weight},
    )
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0, convert_attribute=False
    )
    first = load_ready(path, work=tmp_path)
    assert isinstance(first, ReadyModel)
    (tmp_path / "m.data").write_bytes((2 * weight).tobytes())
    assert load_ready(path, work=tmp_path).digest != first.digest


def test_an_open_length_is_asked_for_by_name(tmp_path):
    path = relu(tmp_path / "r.onnx", shape=("rows", "length"))
    with pytest.raises(ConversionError, match="rows, length") as caught:
        load_ready(path, work=tmp_path)
    assert caught.value.code == "E0786"
    found = load_ready(path, work=tmp_path, shape={"x": (1, 7)})
    assert (found.contract.inputs[0].shape, found.contract.outputs[0].shape) == ((1, 7), (1, 7))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((4, 4), None), (("rows", 4), {"x": (2, 4)}), (("rows", 4), {"x": (1, 5)}), (("rows", 4), {"z": (1, 4)})],
    ids=["batch of 4", "batch asked for", "fixed size contradicted", "no such input"],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path, shape, wanted):
    with pytest.raises(ConversionError) as caught:
        load_ready(relu(tmp_path / "r.onnx", shape=shape), work=tmp_path, shape=wanted)
    assert caught.value.code == "E0786"


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.DOUBLE])
def test_an_input_type_that_devices_lack_is_refused(tmp_path, kind):
    with pytest.raises(ConversionError) as caught:
        load_ready(relu(tmp_path / "r.onnx", kind=kind), work=tmp_path)
    assert caught.value.code == "E0785"


def test_a_quantised_file_is_refused(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    held = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    path = small(tmp_path / "q.onnx", *nodes, inputs=[("x", TensorProto.FLOAT, (1, 4))], held=held)
    with pytest.raises(ConversionError) as caught:
        load_ready(path, work=tmp_path)
    assert caught.value.code == "E0784"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x09" * 50])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "d.onnx").write_bytes(content)
    with pytest.raises(ConversionError, match=r"d\.onnx") as caught:
        load_ready(tmp_path / "d.onnx", work=tmp_path)
    assert caught.value.code == "E0783"


def test_foreign_names_become_identifiers(tmp_path):
    node = helper.make_node("Sum", ["input.1", "2nd:0", "input:1"], ["out/y"])
    inputs = [(name, TensorProto.FLOAT, (1, 4)) for name in node.input]
    found = load_ready(small(tmp_path / "n.onnx", node, inputs=inputs, outputs=["out/y"]), work=tmp_path)
    assert [spec.name for spec in found.contract.inputs] == ["input_1", "input_2nd_0", "input_1_2"]
    assert [spec.name for spec in found.contract.outputs] == ["out_y"]


def rows_of(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"frames": rng.standard_normal((1, 12, 8)).astype(np.float32)} for _ in range(count)]


def test_a_recurrent_file_stays_onnx_and_says_why(lstm, tmp_path):
    found = load_ready(lstm, work=tmp_path)
    assert isinstance(found, ReadyOnnx)
    assert "LSTM" in found.why_no_tflite


def test_a_recurrent_file_gets_dynamic_int8_that_is_small_and_near(lstm, tmp_path):
    found = load_ready(lstm, work=tmp_path)
    target = tmp_path / "int8.onnx"
    done = quantize_ready_onnx(found, target, rows_of(8))
    assert done.how == "dynamic"
    assert target.stat().st_size < 0.4 * lstm.stat().st_size
    sessions = [onnxruntime.InferenceSession(path) for path in (lstm, target)]
    wanted, given = (np.stack([session.run(None, row)[0] for row in rows_of(8)]) for session in sessions)
    noise = 10 * np.log10((wanted**2).sum() / ((wanted - given) ** 2).sum())
    assert done.sqnr_db == pytest.approx({"logits": noise}, rel=1e-4)
    assert noise > 20


def unknown(path: Path) -> Path:
    """A network with an operator that has no PyTorch form here, without loops or attention."""
    rng = np.random.default_rng(0)
    held = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((8, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("LpNormalization", ["c"], ["n"], axis=1, p=2),
        helper.make_node("ReduceMean", ["n"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["y"]),
    ]
    return small(path, *nodes, inputs=[("image", TensorProto.FLOAT, ("rows", 3, 8, 8))], held=held, opset=13)


def test_a_network_of_unknown_operators_without_loops_gets_static_int8(tmp_path):
    rng = np.random.default_rng(0)
    found = load_ready(unknown(tmp_path / "u.onnx"), work=tmp_path)
    assert isinstance(found, ReadyOnnx)
    rows = [{"image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    done = quantize_ready_onnx(found, tmp_path / "q.onnx", rows)
    assert done.how == "static"
    kinds = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert kinds.count("DequantizeLinear") >= 4
    assert done.sqnr_db["y"] > 20
    with pytest.raises(UsageError):
        quantize_ready_onnx(found, tmp_path / "q.onnx", [])


def test_without_onnx2tf_the_error_gives_the_command(lstm, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_ONNX2TF", str(tmp_path / "none"))
    with pytest.raises(MissingError) as caught:
        tflite_from_onnx(load_ready(lstm, work=tmp_path), work=tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("E0662", 6)
    assert "python -m edgekit_converters.ready.onnx2tf" in caught.value.fix


def stand_in(folder: Path, script: str) -> None:
    """An onnx2tf that writes over the file it reads, as the real one does."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "onnx2tf"
    program.write_text(f'#!/bin/sh\necho ruined > "$2"\n{script}\n', encoding="utf-8")
    program.chmod(0o755)


def test_onnx2tf_writes_over_a_copy_and_not_over_the_source(lstm, image_tflite, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_ONNX2TF", str(tmp_path / "env"))
    stand_in(tmp_path / "env", f'mkdir "$4" && cp {image_tflite} "$4/m_float32.tflite"')
    source = load_ready(lstm, work=tmp_path)
    before = digest_of(lstm), digest_of(source.path)
    with pytest.raises(ConversionError) as caught:
        tflite_from_onnx(source, work=tmp_path)
    assert caught.value.code == "E0782"  # the stand-in gave another model
    assert (digest_of(lstm), digest_of(source.path)) == before


def test_an_onnx2tf_that_fails_is_quoted(lstm, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_ONNX2TF", str(tmp_path / "env"))
    stand_in(tmp_path / "env", "echo 'no such operator' >&2; exit 3")
    with pytest.raises(ConversionError) as caught:
        tflite_from_onnx(load_ready(lstm, work=tmp_path), work=tmp_path)
    assert caught.value.code == "E0795"
    assert "no such operator" in caught.value.why


@pytest.mark.slow
@pytest.mark.skipif(
    "EDGEKIT_ONNX2TF" not in os.environ, reason="no onnx2tf here; name its environment in EDGEKIT_ONNX2TF"
)
def test_the_real_onnx2tf_converts_and_leaves_the_source_alone(tmp_path):
    path = unknown(tmp_path / "u.onnx")
    source = load_ready(path, work=tmp_path)
    before = digest_of(path), digest_of(source.path)
    found = tflite_from_onnx(source, work=tmp_path)
    assert [spec.shape for spec in found.contract.inputs] == [(1, 3, 8, 8)]
    assert (digest_of(path), digest_of(source.path)) == before
