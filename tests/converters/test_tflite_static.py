"""Static int8 in TFLite: which operators are int8, on which ranges, and how close the answers stay."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
from ai_edge_litert.interpreter import Interpreter

from edgekit_converters.export.contract import contract_of
from edgekit_converters.export.tflite import tflite_contract
from edgekit_converters.quantize.grid import Range, grid_of, weight_grid
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.tflite_static import image_rules, quantize_tflite, text_rules
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


def quantized(source: Path, target: Path, feeds, rules) -> Path:
    quantize_tflite(source, target, feeds, rules)
    return target


@pytest.fixture(scope="module")
def text_int8(text_tflite, tmp_path_factory) -> Path:
    rules = text_rules(ffn_output=Mode.DYNAMIC, embedding=Mode.STATIC)
    return quantized(
        text_tflite, tmp_path_factory.mktemp("int8") / "text.tflite", tiny_networks.text_feeds(24, seed=1), rules
    )


@pytest.fixture(scope="module")
def image_int8(image_tflite, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "image.tflite"
    return quantized(image_tflite, target, tiny_networks.image_feeds(24, seed=1), image_rules())


def logits(path: Path, model, feeds) -> np.ndarray:
    contract = tflite_contract(contract_of(model.config), path)
    engine = open_engine("litert", path.read_bytes(), contract.inputs, contract.outputs, 1)
    try:
        return np.concatenate([engine.run(row)["logits"] for row in feeds])
    finally:
        engine.close()


INT8, DYNAMIC, FLOAT = ("int8", "int8", "int8"), ("float32", "int8", "float32"), ("float32", "float32", "float32")


def test_text_layers_have_their_modes(text_int8) -> None:
    layers = [op for op in operators(text_int8) if op.kind == "FULLY_CONNECTED"]
    assert len(layers) == 14
    for op in layers:
        name = op.outputs[0]["name"]
        wanted = DYNAMIC if "Linear_ffn_out" in name else INT8
        if "Linear_head_dense" in name or name.startswith("serving_default_output"):
            wanted = FLOAT
        assert op.types == wanted, name
    assert [op.types for op in layers].count(INT8) == 10
    assert [op.types for op in layers].count(DYNAMIC) == 2


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
    [(Mode.FLOAT, Mode.FLOAT, FLOAT, "float32"), (Mode.STATIC, Mode.STATIC, INT8, "int8")],
)
def test_rules_follow_the_recipe(text_tflite, tmp_path, ffn_output, embedding, types, table) -> None:
    rules = text_rules(ffn_output=ffn_output, embedding=embedding)
    path = quantized(text_tflite, tmp_path / "x.tflite", tiny_networks.text_feeds(4), rules)
    layers = [op for op in operators(path) if op.kind == "FULLY_CONNECTED"]
    assert {op.types for op in layers if "Linear_ffn_out" in op.outputs[0]["name"]} == {types}
    (lookup,) = [op for op in operators(path) if op.kind == "EMBEDDING_LOOKUP"]
    assert np.dtype(lookup.inputs[1]["dtype"]).name == table


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


def input_grid(source: Path, target: Path) -> tuple[float, int]:
    """Calibrate on six rows of which one holds a large value; give the grid of the input."""
    feeds = tiny_networks.image_feeds(6, seed=2)
    feeds[2]["image"][0, 0, 0, 0] = 50.0
    quantized(source, target, feeds, image_rules())
    row = operators(target)[0].outputs[0]["quantization_parameters"]
    return float(row["scales"][0]), int(row["zero_points"][0])


def expected_grid() -> tuple[float, int]:
    low = min(float(row["image"].min()) for row in tiny_networks.image_feeds(6, seed=2))
    scale, zero_point = grid_of(Range(low, 50.0), "int8")
    return float(scale), zero_point


def test_calibration_keeps_the_true_minimum_and_maximum(image_tflite, tmp_path) -> None:
    scale, zero_point = input_grid(image_tflite, tmp_path / "x.tflite")
    wanted_scale, wanted_zero = expected_grid()
    assert scale == pytest.approx(wanted_scale, rel=1e-5)
    assert zero_point == wanted_zero


def test_the_librarys_moving_average_would_forget_the_large_value(image_tflite, tmp_path, monkeypatch) -> None:
    """Guards the test above: it must see the difference between the two updates."""
    from ai_edge_quantizer.utils import qsv_utils

    monkeypatch.setattr(qsv_utils, "min_max_update", qsv_utils.moving_average_update)
    scale, _ = input_grid(image_tflite, tmp_path / "x.tflite")
    assert scale < 0.5 * expected_grid()[0]


@pytest.mark.parametrize("place", [0, 2])
def test_calibration_refuses_nan(image_tflite, tmp_path, place) -> None:
    feeds = tiny_networks.image_feeds(3)
    feeds[place]["image"][0, 2, 2, 0] = np.nan
    with pytest.raises(ConversionError) as caught:
        quantize_tflite(image_tflite, tmp_path / "x.tflite", feeds, image_rules())
    assert caught.value.code == "E0730"
    assert not list(tmp_path.iterdir())


def test_file_that_is_no_model_is_a_conversion_error(tmp_path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(ConversionError) as caught:
        quantize_tflite(tmp_path / "x.tflite", tmp_path / "y.tflite", tiny_networks.image_feeds(1), image_rules())
    assert caught.value.code == "E0731"


@pytest.mark.parametrize("kind", ["text", "image"])
def test_same_rows_give_the_same_bytes(kind, request, tmp_path) -> None:
    make = tiny_networks.text_feeds if kind == "text" else tiny_networks.image_feeds
    rules = image_rules() if kind == "image" else text_rules(ffn_output=Mode.DYNAMIC, embedding=Mode.STATIC)
    again = quantized(request.getfixturevalue(f"{kind}_tflite"), tmp_path / "x.tflite", make(24, seed=1), rules)
    assert again.read_bytes() == request.getfixturevalue(f"{kind}_int8").read_bytes()
