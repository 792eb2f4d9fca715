"""Static int8 in TFLite: which operators are int8, on which ranges, and how close the answers stay."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
from ai_edge_litert.interpreter import Interpreter

from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.contract import contract_of
from edgekit_converters.export.tflite import export_module_tflite, tflite_contract
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_biases, layer_weights
from edgekit_converters.quantize.grid import weight_grid
from edgekit_converters.quantize.measure import as_rows, measure
from edgekit_converters.quantize.modes import layer_mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_tflite
from edgekit_converters.quantize.techniques.scale_out import scale_outputs
from edgekit_converters.quantize.techniques.smooth import smooth_norms
from edgekit_converters.quantize.techniques.split import split_outliers
from edgekit_converters.quantize.tflite_graph import TfliteGraph
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_runtime.engines import open_engine
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.statistics import sqnr_db


@dataclass(frozen=True)
class Operator:
    kind: str
    inputs: list[dict]
    outputs: list[dict]

    @property
    def types(self) -> tuple[str, str, str]:
        """Of input, weight and output."""
        return tuple(np.dtype(t["dtype"]).name for t in (*self.inputs[:2], self.outputs[0]))


def operators(path: Path) -> list[Operator]:
    interpreter = Interpreter(model_content=path.read_bytes())
    tensors = {row["index"]: row for row in interpreter.get_tensor_details()}
    return [
        Operator(
            kind=row["op_name"],
            inputs=[tensors[i] for i in row["inputs"] if i in tensors],
            outputs=[tensors[i] for i in row["outputs"] if i in tensors],
        )
        for row in interpreter._get_ops_details()
        if row["op_name"] != "DELEGATE"
    ]


def find(path: Path, kind: str, part: str) -> Operator:
    (found,) = [op for op in operators(path) if op.kind == kind and part in op.outputs[0]["name"]]
    return found


class Int8:
    """A quantised file beside its plan."""

    def __init__(self, model, folder: Path, feeds, **spec) -> None:
        self.path, self.source = folder / "int8.tflite", folder / "float.tflite"
        self.graph, planned = tiny_networks.planned(model, feeds, QuantizeSpec(**{"techniques": False, **spec}))
        self.plan, self.weights = planned.plan, layer_weights(self.graph)
        export_module_tflite(separate_affine(self.graph), contract_of(model.config), self.source)
        quantize_tflite(self.source, self.path, self.plan, self.weights, feeds)
        self.equal = prove(self.plan, self.weights, layer_biases(self.graph), self.stamped())

    def stamped(self):
        return read_tflite(self.path, self.plan, self.weights)

    def layers(self) -> dict[str, Operator]:
        """Operators by layer name, found by the float weights of the source, in the same order."""
        names = TfliteGraph(self.source).match(self.weights)
        order = sorted(names, key=lambda name: names[name][0].output)
        kinds = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP")
        found = [op for op in operators(self.path) if op.kind in kinds]
        assert len(found) == len(order)
        return dict(zip(order, found, strict=True))


@pytest.fixture(scope="module")
def text(text_model, tmp_path_factory) -> Int8:
    return Int8(text_model, tmp_path_factory.mktemp("int8"), tiny_networks.text_feeds(24, seed=1))


@pytest.fixture(scope="module")
def image(image_model, tmp_path_factory) -> Int8:
    return Int8(image_model, tmp_path_factory.mktemp("int8"), tiny_networks.image_feeds(24, seed=1))


@pytest.fixture(scope="module")
def text_int8(text) -> Path:
    return text.path


@pytest.fixture(scope="module")
def image_int8(image) -> Path:
    return image.path


def logits(path: Path, model, feeds) -> np.ndarray:
    contract = tflite_contract(contract_of(model.config), path)
    engine = open_engine("litert", path.read_bytes(), contract.inputs, contract.outputs, 1)
    try:
        return np.concatenate([engine.run(row)["logits"] for row in feeds])
    finally:
        engine.close()


INT8, DYNAMIC, FLOAT = ("int8", "int8", "int8"), ("float32", "int8", "float32"), ("float32", "float32", "float32")


def test_text_layers_have_their_modes(text) -> None:
    layers = text.layers()
    assert len(layers) == 15
    for name, op in layers.items():
        wanted = DYNAMIC if name.endswith("ffn_out") else INT8
        if name in ("head_dense", "classifier"):
            wanted = FLOAT
        if name != "words":
            assert op.types == wanted, name
    assert [op.types for op in layers.values()].count(INT8) == 10


def test_file_holds_the_plan_to_the_bit(text, image) -> None:
    """Text: weights and scales of 13 layers; input, output and bias of 10. Images: all of 5 layers."""
    assert text.equal == 13 * 2 + 10 * 3
    assert image.equal == 5 * 5


@pytest.mark.parametrize("part", ["codes", "scales", "bias", "input", "output"])
def test_file_that_strays_from_the_plan_by_one_code_is_refused(text, part) -> None:
    found = text.stamped()
    held = getattr(found["layers.0.ffn_in"], part)
    other = (np.nextafter(held[0], np.float32(9)), held[1]) if isinstance(held, tuple) else held.copy()
    if not isinstance(held, tuple):
        other.flat[0] += 1 if part != "scales" else np.spacing(other.flat[0])
    found["layers.0.ffn_in"] = replace(found["layers.0.ffn_in"], **{part: other})
    with pytest.raises(ConversionError, match=r"layers\.0\.ffn_in") as caught:
        prove(text.plan, text.weights, layer_biases(text.graph), found)
    assert caught.value.code == "E0771"


def test_layer_that_stayed_float_is_refused(text) -> None:
    found = {name: held for name, held in text.stamped().items() if name != "layers.1.attention.key"}
    with pytest.raises(ConversionError, match="absent or float") as caught:
        prove(text.plan, text.weights, layer_biases(text.graph), found)
    assert caught.value.code == "E0771"


def test_embedding_is_int8_and_gives_float(text_int8, text_model) -> None:
    (lookup,) = [op for op in operators(text_int8) if op.kind == "EMBEDDING_LOOKUP"]
    table = lookup.inputs[1]
    assert (np.dtype(table["dtype"]).name, np.dtype(lookup.outputs[0]["dtype"]).name) == ("int8", "float32")
    scale = table["quantization_parameters"]["scales"]
    _, expected = weight_grid(text_model.words.weight.detach().numpy(), axis=0)
    np.testing.assert_allclose(scale, expected, rtol=1e-5)


def test_softmax_norms_and_products_of_attention_stay_float(text_int8) -> None:
    seen = 0
    for op in operators(text_int8):
        if op.kind in ("SOFTMAX", "BATCH_MATMUL", "MEAN", "RSQRT", "SQUARED_DIFFERENCE", "GELU", "TANH", "DIV"):
            assert {np.dtype(t["dtype"]).name for t in op.outputs} == {"float32"}, op.kind
            seen += 1
    assert seen > 10


@pytest.mark.parametrize(
    ("ffn_output", "embedding", "types", "table"),
    [("float", "float", FLOAT, "float32"), ("static", "int8", INT8, "int8")],
)
def test_modes_follow_the_recipe(text_model, tmp_path, ffn_output, embedding, types, table) -> None:
    made = Int8(text_model, tmp_path, tiny_networks.text_feeds(4), ffn_output=ffn_output, embedding=embedding)
    layers = made.layers()
    assert {op.types for name, op in layers.items() if name.endswith("ffn_out")} == {types}
    assert np.dtype(layers["words"].inputs[1]["dtype"]).name == table


def test_techniques_reach_the_file_as_planned(text_model, tmp_path) -> None:
    """Smoothed, split and rescaled: the converter folds none of it away."""
    graph = tiny_networks.traced(text_model)
    feeds = tiny_networks.text_feeds(16, seed=1)
    rows = as_rows(graph, feeds, trim=True)
    assert smooth_norms(graph, measure(graph, rows)) == 4
    assert split_outliers(graph, measure(graph, rows), channels=2) == 2
    assert scale_outputs(graph, measure(graph, rows), uneven=1.0) > 4
    mode = layer_mode(Task.TEXT_CLASSIFICATION, QuantizeSpec(ffn_output="static"))
    plan = Planner(mode=mode, whole_network=False, techniques=False).make(graph, rows).plan
    weights = layer_weights(graph)
    export_module_tflite(separate_affine(graph), contract_of(text_model.config), tmp_path / "f.tflite")
    quantize_tflite(tmp_path / "f.tflite", tmp_path / "q.tflite", plan, weights, ())
    equal = prove(plan, weights, layer_biases(graph), read_tflite(tmp_path / "q.tflite", plan, weights))
    assert equal == 5 * 16 + 2  # eight attention layers, two blocks of four feed-forward parts, and the embedding


def test_whole_image_network_is_int8_between_float_ends(image_int8, image_model) -> None:
    found = operators(image_int8)
    assert (found[0].kind, found[-1].kind) == ("QUANTIZE", "DEQUANTIZE")
    for op in found[1:-1]:
        assert {np.dtype(t["dtype"]).name for t in op.outputs} == {"int8"}, op.kind
    assert sum(op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") for op in found) == 4
    contract = tflite_contract(contract_of(image_model.config), image_int8)
    assert {spec.dtype for spec in (*contract.inputs, *contract.outputs)} == {"float32"}
    interpreter = Interpreter(model_content=image_int8.read_bytes())
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert {np.dtype(row["dtype"]).name for row in ends} == {"float32"}


def test_text_ends_are_those_of_the_contract(text_int8) -> None:
    interpreter = Interpreter(model_content=text_int8.read_bytes())
    assert {np.dtype(row["dtype"]).name for row in interpreter.get_input_details()} == {"int32"}
    assert {np.dtype(row["dtype"]).name for row in interpreter.get_output_details()} == {"float32"}


@pytest.mark.parametrize(("kind", "bound_db"), [("text", 20.0), ("image", 20.0)])
def test_int8_answers_stay_close_to_float(kind, bound_db, request) -> None:
    model, path = request.getfixturevalue(f"{kind}_model"), request.getfixturevalue(f"{kind}_int8")
    make = tiny_networks.text_feeds if kind == "text" else tiny_networks.image_feeds
    feeds = make(40, seed=9)
    assert sqnr_db(tiny_networks.torch_logits(model, feeds), logits(path, model, feeds)) > bound_db


def test_file_that_is_no_model_is_a_conversion_error(text, tmp_path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(ConversionError) as caught:
        quantize_tflite(tmp_path / "x.tflite", tmp_path / "y.tflite", text.plan, text.weights, ())
    assert caught.value.code == "E0731"


def test_layer_that_the_converter_changed_is_named(text, tmp_path) -> None:
    weights = {**text.weights, "layers.1.ffn_in": text.weights["layers.1.ffn_in"] * 2}
    with pytest.raises(ConversionError, match=r"layers\.1\.ffn_in") as caught:
        quantize_tflite(text.source, tmp_path / "y.tflite", text.plan, weights, ())
    assert caught.value.code == "E0769"


def test_the_converter_folds_affine_norms_unless_they_are_separate(text_model, tmp_path) -> None:
    """Guards ``separate_affine``: without it the linear layers behind a norm hold other weights than the plan's."""
    graph = tiny_networks.traced(text_model)
    export_module_tflite(graph, contract_of(text_model.config), tmp_path / "x.tflite")
    with pytest.raises(ConversionError) as caught:
        TfliteGraph(tmp_path / "x.tflite").match(layer_weights(graph))
    assert caught.value.code == "E0769"


@pytest.mark.parametrize("kind", ["text", "image"])
def test_same_rows_give_the_same_bytes(kind, request, tmp_path) -> None:
    make = tiny_networks.text_feeds if kind == "text" else tiny_networks.image_feeds
    again = Int8(request.getfixturevalue(f"{kind}_model"), tmp_path, make(24, seed=1))
    assert again.path.read_bytes() == request.getfixturevalue(f"{kind}_int8").read_bytes()


def test_dead_channel_keeps_its_bias(tmp_path) -> None:
    """A channel without weights has no scale of its own; its bias must still fit into int32."""
    model = tiny_networks.image_classifier(widths=(8,))
    for block in model.blocks:
        block.norm.weight.data[2] = 0.0
        block.norm.running_mean.zero_()
        block.norm.bias.data[2] = 0.75
    made = Int8(model, tmp_path, tiny_networks.image_feeds(24, seed=1))
    assert made.equal == 3 * 5
    feeds = tiny_networks.image_feeds(20, seed=9)
    assert sqnr_db(tiny_networks.torch_logits(model, feeds), logits(made.path, model, feeds)) > 20.0


def test_row_of_zeros_has_the_same_scale_in_plan_and_file(text_model, tmp_path) -> None:
    model = copy.deepcopy(text_model)
    model.words.weight.data[0] = 0.0  # the padding token of a real checkpoint
    assert Int8(model, tmp_path, tiny_networks.text_feeds(4)).equal == 13 * 2 + 10 * 3


def test_constants_behind_the_flatbuffer_are_read_too(text, tmp_path) -> None:
    """ai-edge-quantizer writes the buffers of a large model there; a small file is given that form here."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = text.path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    tail, start = b"", 2 * len(content)  # any place behind the flatbuffer, which shrinks
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            data = bytes(buffer.data)
            buffer.data, buffer.offset, buffer.size = None, start + len(tail), len(data)
            tail += data
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    moved = tmp_path / "moved.tflite"
    moved.write_bytes(bytes(builder.Output()).ljust(start, b"\0") + tail)
    found = read_tflite(moved, text.plan, text.weights)
    assert prove(text.plan, text.weights, layer_biases(text.graph), found) == text.equal
