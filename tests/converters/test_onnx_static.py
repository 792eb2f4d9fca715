"""Our own Q/DQ placement: what is int8, what stays float, and that onnxruntime computes it in integers."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks
from onnx import numpy_helper
from tiny_networks import OPSET

from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.contract import contract_of
from edgekit_converters.export.onnx import export_module_onnx, export_onnx
from edgekit_converters.quantize.graph import layer_biases, layer_weights
from edgekit_converters.quantize.grid import bias_codes, weight_grid
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.quantize.onnx_graph import GraphEditor, module_path
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.proof import prove, read_onnx
from edgekit_runtime.statistics import sqnr_db

TEXT, IMAGE = Task.TEXT_CLASSIFICATION, Task.IMAGE_CLASSIFICATION
ROWS = {TEXT: tiny_networks.text_feeds, IMAGE: tiny_networks.image_feeds}
LINEAR = ("query", "key", "value", "output")


class Int8:
    """A quantised file beside its source."""

    def __init__(self, model, target: Path, task: Task, activations="uint8", **spec) -> None:
        self.path, self.task = target, task
        graph, planned = tiny_networks.planned(model, ROWS[task](24, seed=1), QuantizeSpec(techniques=False, **spec))
        source = target.with_suffix(".float.onnx")
        export_module_onnx(graph, contract_of(model.config), source, opset=OPSET)
        self.plan, weights = planned.plan, layer_weights(graph)
        self.counts = quantize_onnx(source, target, self.plan, weights, activations=activations)
        self.equal = prove(self.plan, weights, layer_biases(graph), read_onnx(target, self.plan, weights))
        self.float, self.int8 = onnx.load(source), onnx.load(target)
        self.weights = {t.name: numpy_helper.to_array(t) for t in self.int8.graph.initializer}
        self.makers = {name: node for node in self.int8.graph.node for name in node.output}

    def at(self, path: str, kind: str) -> onnx.NodeProto:
        (node,) = [n for n in self.int8.graph.node if module_path(n) == path and n.op_type == kind]
        return node

    def float_weight(self, path: str, kind: str, place: int = 1) -> np.ndarray:
        (node,) = [n for n in self.float.graph.node if module_path(n) == path and n.op_type == kind]
        return numpy_helper.to_array(next(t for t in self.float.graph.initializer if t.name == node.input[place]))


@pytest.fixture(scope="module")
def text_int8(text_model, tmp_path_factory) -> Int8:
    return Int8(text_model, tmp_path_factory.mktemp("int8") / "text.onnx", TEXT)


@pytest.fixture(scope="module")
def image_int8(image_model, tmp_path_factory) -> Int8:
    return Int8(image_model, tmp_path_factory.mktemp("int8") / "image.onnx", IMAGE)


def session(path: Path, *, optimise: bool = True, save: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def logits(path: Path, feeds, *, optimise: bool = True) -> np.ndarray:
    opened = session(path, optimise=optimise)
    return np.concatenate([opened.run(["logits"], row)[0] for row in feeds])


def test_every_layer_has_its_mode(text_int8, image_int8) -> None:
    counts = [{kind: count for kind, count in one.counts.items() if count} for one in (text_int8, image_int8)]
    assert counts == [{"static": 10, "dynamic": 2, "float": 2, "embedding": 1}, {"static": 5}]
    mode = layer_mode(TEXT, QuantizeSpec(ffn_output="float", embedding="float"))
    found = [mode(name) for name in ("words", "layers.3.ffn_out", "layers.3.ffn_in", "classifier", "head_dense")]
    assert found == [Mode.FLOAT, Mode.FLOAT, Mode.STATIC, Mode.FLOAT, Mode.FLOAT]
    assert layer_mode(IMAGE, QuantizeSpec())("classifier") is Mode.STATIC


@pytest.mark.parametrize("path", ["head_dense", "classifier"])
def test_float_layers_stay_as_they_were(text_int8, path) -> None:
    node = text_int8.at(path, "Gemm")
    np.testing.assert_array_equal(text_int8.weights[node.input[1]], text_int8.float_weight(path, "Gemm"))
    assert text_int8.makers[node.input[0]].op_type in ("Div", "Tanh")


def test_attention_products_softmax_norms_and_gelu_are_not_quantised(text_int8) -> None:
    for node in text_int8.int8.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Gelu", "Tanh", "ReduceSum", "Div"):
            assert text_int8.makers[node.input[0]].op_type != "DequantizeLinear"
        if node.op_type == "MatMul" and module_path(node) in ("layers.0.attention", "layers.1.attention"):
            assert not any(text_int8.makers[name].op_type == "DequantizeLinear" for name in node.input)


@pytest.mark.parametrize(
    "path", [f"layers.{i}.attention.{part}" for i in range(2) for part in LINEAR] + ["layers.0.ffn_in"]
)
def test_static_linear_layers_hold_the_codes_of_their_channels(text_int8, path) -> None:
    node = text_int8.at(path, "MatMul")
    source, weight = (text_int8.makers[name] for name in node.input)
    assert source.op_type == weight.op_type == "DequantizeLinear"
    codes, scale = weight_grid(text_int8.float_weight(path, "MatMul"), axis=1)
    np.testing.assert_array_equal(text_int8.weights[weight.input[0]], codes)
    np.testing.assert_array_equal(text_int8.weights[weight.input[1]], scale)
    assert not text_int8.weights[weight.input[2]].any()
    assert [a.i for a in weight.attribute if a.name == "axis"] == [1]
    quantise = text_int8.makers[source.input[0]]
    grid = text_int8.plan.layer(path).input
    assert text_int8.weights[quantise.input[1]] == np.float32(grid.scale)
    assert text_int8.weights[quantise.input[2]] == grid.zero_point + 128
    assert text_int8.weights[quantise.input[2]].dtype == np.uint8


def test_bias_behind_a_static_linear_layer_is_broad(text_int8) -> None:
    """onnxruntime makes a float Gemm of MatMul and a bias of shape (N,)."""
    seen = 0
    for node in text_int8.int8.graph.node:
        if node.op_type == "Add" and text_int8.makers[node.input[0]].op_type == "MatMul":
            bias = text_int8.weights[node.input[1]]
            assert bias.shape == (1, 1, bias.size)
            layer = text_int8.plan.layer(module_path(node))
            float_bias = text_int8.float_weight(module_path(node), "Add")
            half_step = np.float64(layer.input.scale) * np.array(layer.weight_scales) / 2
            assert (np.abs(bias.ravel() - float_bias) <= half_step * 1.001).all()
            seen += 1
    assert seen == 10


def test_residual_reads_the_float_tensor(text_int8) -> None:
    """Both layers norm a sum of a float stream and a float output: no side of it is a rounded copy."""
    seen = 0
    for node in text_int8.int8.graph.node:
        if node.op_type == "LayerNormalization" and module_path(node) != "embedding_norm":
            add = text_int8.makers[node.input[0]]
            stream, added = (text_int8.makers[name] for name in add.input)
            assert (stream.op_type, added.op_type) == ("LayerNormalization", "Add")
            seen += 1
    assert seen == 4


def test_tensor_read_by_many_has_one_grid(text_int8) -> None:
    pairs = [node for node in text_int8.int8.graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in pairs}) == len(pairs) == 6  # per layer: q/k/v input, context, ffn input


def test_convolutions_are_int8_with_int32_bias_behind_their_relu(image_int8) -> None:
    for i in range(4):
        path = f"blocks.{i}.conv"
        node = image_int8.at(path, "Conv")
        source, weight, bias = (image_int8.makers[name] for name in node.input)
        assert {source.op_type, weight.op_type, bias.op_type} == {"DequantizeLinear"}
        codes, scale = weight_grid(image_int8.float_weight(path, "Conv"), axis=0)
        np.testing.assert_array_equal(image_int8.weights[weight.input[0]], codes)
        step = image_int8.weights[source.input[1]]
        expected, unit = bias_codes(image_int8.float_weight(path, "Conv", 2), activation_scale=step, weight_scale=scale)
        np.testing.assert_array_equal(image_int8.weights[bias.input[0]], expected)
        np.testing.assert_array_equal(image_int8.weights[bias.input[1]], unit)
        (relu,) = [n for n in image_int8.int8.graph.node if n.op_type == "Relu" and n.input[0] == node.output[0]]
        readers = [n.op_type for n in image_int8.int8.graph.node if relu.output[0] in n.input]
        assert readers == ["QuantizeLinear"]


def test_onnxruntime_computes_text_layers_in_integers(text_int8, tmp_path) -> None:
    session(text_int8.path, save=tmp_path / "optimised.onnx")
    model = onnx.load(tmp_path / "optimised.onnx")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["MatMulIntegerToFloat"] == 10
    assert kinds["DynamicQuantizeMatMul"] == 2
    assert kinds["MatMul"] + kinds["FusedMatMul"] == 4  # scores and context of two layers
    assert_no_float_product_of_codes(model)


def test_onnxruntime_computes_convolutions_in_integers(image_int8, tmp_path) -> None:
    session(image_int8.path, save=tmp_path / "optimised.onnx")
    model = onnx.load(tmp_path / "optimised.onnx")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["QGemm"] == 1
    assert kinds["Conv"] + kinds["FusedConv"] + kinds["Gemm"] + kinds["FusedGemm"] == 0
    assert_no_float_product_of_codes(model)


def assert_no_float_product_of_codes(model: onnx.ModelProto) -> None:
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"):
            assert "DequantizeLinear" not in [makers.get(name) for name in node.input], node.name


@pytest.mark.parametrize(("kind", "bound_db"), [("text", 25.0), ("image", 25.0)])
def test_int8_answers_stay_close_to_float(kind, bound_db, request) -> None:
    int8, source = request.getfixturevalue(f"{kind}_int8"), request.getfixturevalue(f"{kind}_onnx")
    feeds = ROWS[int8.task](40, seed=9)
    reference = logits(source, feeds)
    assert sqnr_db(reference, logits(int8.path, feeds)) > bound_db
    assert sqnr_db(reference, logits(int8.path, feeds, optimise=False)) > bound_db


@pytest.mark.parametrize("kind", ["text", "image"])
def test_uint8_and_int8_activations_answer_alike(kind, request, tmp_path) -> None:
    unsigned, model = request.getfixturevalue(f"{kind}_int8"), request.getfixturevalue(f"{kind}_model")
    signed = Int8(model, tmp_path / "signed.onnx", unsigned.task, "int8")
    zeros = {node.input[2] for node in signed.int8.graph.node if node.op_type == "QuantizeLinear"}
    assert {signed.weights[name].dtype for name in zeros} == {np.dtype(np.int8)}
    feeds = ROWS[unsigned.task](10, seed=9)
    results = [logits(each.path, feeds, optimise=False) for each in (unsigned, signed)]
    np.testing.assert_array_equal(*results)


def test_dynamic_layer_is_exact_to_numpy(text_int8, tmp_path) -> None:
    path = "layers.0.ffn_out"
    editor = GraphEditor(onnx.load(text_int8.path))
    product = next(n for n in text_int8.float.graph.node if module_path(n) == path and n.op_type == "MatMul")
    source, out = product.input[0], product.output[0]
    editor.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (source, out))
    tapped = tmp_path / "tapped.onnx"
    tapped.write_bytes(editor.model.SerializeToString())
    codes, scale = weight_grid(text_int8.float_weight(path, "MatMul"), axis=1)
    opened = session(tapped, optimise=False)
    for feeds in tiny_networks.text_feeds(5, seed=3):
        x, y = opened.run([source, out], feeds)
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
        zero = int(np.clip(np.rint(np.float32(-low) / step), 0, 255))
        quantised = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int64)
        accumulator = (quantised - zero) @ codes.astype(np.int64)
        expected = accumulator.astype(np.float32) * (step * scale)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=0)


def test_embedding_rows_are_exact_to_numpy(text_int8, tmp_path) -> None:
    editor = GraphEditor(onnx.load(text_int8.path))
    gather = next(n for n in text_int8.float.graph.node if n.op_type == "Gather")
    editor.graph.output.append(onnx.ValueInfoProto(name=gather.output[0]))
    (tmp_path / "tapped.onnx").write_bytes(editor.model.SerializeToString())
    table = text_int8.float_weight("words", "Gather", 0)
    step = np.maximum(np.abs(table).max(1, keepdims=True), np.float32(1e-9)) / np.float32(127)
    rows = np.rint(table / step) * step
    feeds = tiny_networks.text_feeds(1)[0]
    (found,) = session(tmp_path / "tapped.onnx", optimise=False).run([gather.output[0]], feeds)
    np.testing.assert_allclose(found, rows[feeds["input_ids"]], rtol=1e-6, atol=0)
    assert not any(w.dtype == np.float32 and w.shape == table.shape for w in text_int8.weights.values())


def test_static_ffn_output_and_float_embedding_can_be_asked_for(text_model, tmp_path) -> None:
    other = Int8(text_model, tmp_path / "x.onnx", TEXT, ffn_output="static", embedding="float")
    assert {kind: count for kind, count in other.counts.items() if count} == {"static": 12, "float": 2}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_same_model_and_rows_give_the_same_bytes(kind, request, tmp_path) -> None:
    int8, model = request.getfixturevalue(f"{kind}_int8"), request.getfixturevalue(f"{kind}_model")
    again = Int8(model, tmp_path / "again.onnx", int8.task)
    assert again.plan == int8.plan
    assert again.path.read_bytes() == int8.path.read_bytes()


def test_file_holds_the_plan_to_the_bit(text_int8, image_int8) -> None:
    """Text: weights and scales of 13 layers, input and bias of 10. Images: 5 layers with all, 4 with an output."""
    assert text_int8.equal == 13 * 2 + 10 * 2
    assert image_int8.equal == 5 * 4 + 4


def test_dead_channel_keeps_its_bias_and_equal_biases_do_not_collide(tmp_path) -> None:
    """The exporter lets convolutions share a constant of equal value; a channel without weights has only its bias."""
    model = tiny_networks.image_classifier(widths=(8,))
    for block in model.blocks:
        block.norm.weight.data[2] = 0.0
        block.norm.running_mean.zero_()
        block.norm.bias.data[:] = 0.25
        block.norm.bias.data[2] = 0.75
    export_onnx(model, contract_of(model.config), tmp_path / "x.onnx", opset=OPSET)
    shared = [node.input[2] for node in onnx.load(tmp_path / "x.onnx").graph.node if node.op_type == "Conv"]
    assert len(set(shared)) == 1
    int8 = Int8(model, tmp_path / "int8.onnx", IMAGE)
    feeds = tiny_networks.image_feeds(20, seed=9)
    reference = tiny_networks.torch_logits(model, feeds)
    for optimise in (True, False):
        assert sqnr_db(reference, logits(int8.path, feeds, optimise=optimise)) > 25.0
