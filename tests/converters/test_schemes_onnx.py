"""What onnxruntime makes of coded weights: the answers of the float model that holds the decoded weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.schemes.blockwise import blockwise_integer
from edgekit_converters.quantize.schemes.codebook import codebook
from edgekit_converters.quantize.schemes.onnx_decode import decode_onnx, onnx_weights
from edgekit_converters.quantize.schemes.power import power_of_two
from edgekit_runtime.errors import ConversionError

ROWS, OUT, IN = 5, 48, 96
SCHEMES = {
    "int4 in blocks": blockwise_integer,
    "int4 in incomplete blocks": lambda w: blockwise_integer(w, block=80),
    "int4 per channel": lambda w: blockwise_integer(w, block=None),
    "int8 in blocks": lambda w: blockwise_integer(w, bits=8),
    "int8 per channel": lambda w: blockwise_integer(w, block=None, bits=8),
    "power of two": power_of_two,
    "codebook 16": codebook,
    "codebook 16 in groups": lambda w: codebook(w, rows_per_table=12),
    "codebook 256": lambda w: codebook(w, entries=256),
}
WHOLE_TABLE = {name: make for name, make in SCHEMES.items() if "incomplete" not in name and "groups" not in name}


def weight(*, rows=OUT, columns=IN) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def graph(nodes, weights, *, ids=False, opset=21) -> onnx.ModelProto:
    kind, shape, out = (
        (TensorProto.INT32, [1, ROWS], [1, ROWS, IN]) if ids else (TensorProto.FLOAT, [ROWS, IN], [ROWS, OUT])
    )
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def linear(w, *, form="MatMul", opset=21) -> onnx.ModelProto:
    if form == "MatMul":
        return graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w.T}, opset=opset)
    attributes = {"transB": 1} if form == "Gemm transB" else {}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)]
    return graph(nodes, {"w": w if attributes else w.T, "b": np.ones(OUT, np.float32)}, opset=opset)


def table(w) -> onnx.ModelProto:
    return graph([helper.make_node("Gather", ["w", "x"], ["y"])], {"w": w}, ids=True)


def run(model, x, **settings) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for name, value in settings.get("entries", {}).items():
        options.add_session_config_entry(name, value)
    if settings.get("save"):
        options.optimized_model_filepath = str(settings["save"])
    if settings.get("plain"):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("form", ["MatMul", "Gemm", "Gemm transB"])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_answers_as_the_float_layer_with_decoded_weights(name, form) -> None:
    w = weight()
    coded = SCHEMES[name](w)
    x = np.random.default_rng(1).normal(size=(ROWS, IN)).astype(np.float32)
    expected = x.astype(np.float64) @ coded.dequantise().T.astype(np.float64) + (form != "MatMul")
    model = decode_onnx(linear(w, form=form), {"w": coded})
    exact = {"session.qdq_matmulnbits_accuracy_level": "1"}
    for settings in ({"entries": exact}, {"plain": True}):
        assert np.abs(run(model, x, **settings) - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", [name for name in SCHEMES if name.startswith("int")])
def test_default_session_rounds_inputs_to_int8_and_nothing_else(name) -> None:
    # Whole numbers up to 127, with one 127 in each 16 values, lose nothing in int8 whatever the block.
    w = weight()
    coded = SCHEMES[name](w)
    x = np.random.default_rng(1).integers(-127, 128, (ROWS, IN)).astype(np.float32)
    x[:, ::16] = 127
    expected = x.astype(np.float64) @ coded.dequantise().T.astype(np.float64)
    assert np.abs(run(decode_onnx(linear(w), {"w": coded}), x) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", WHOLE_TABLE)
def test_an_embedding_gives_the_decoded_rows(name) -> None:
    w = weight(rows=40)
    coded = WHOLE_TABLE[name](w)
    ids = np.array([[0, 39, 7, 7, 12]], np.int32)
    model = decode_onnx(table(w), {"w": coded})
    for plain in (False, True):
        assert np.allclose(run(model, ids, plain=plain)[0], coded.dequantise()[ids[0]], rtol=1e-6, atol=0)


def test_rows_with_an_odd_number_of_codes_are_decoded() -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight(columns=95).T})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 95
    x = np.random.default_rng(1).normal(size=(ROWS, 95)).astype(np.float32)
    for make in (codebook, lambda w: blockwise_integer(w, block=None), lambda w: blockwise_integer(w, block=32)):
        coded = make(weight(columns=95))
        got = run(decode_onnx(model, {"w": coded}), x, plain=True)
        assert np.allclose(got, x @ coded.dequantise().T, rtol=0, atol=1e-4)


def test_files_hold_packed_codes_and_standard_operators_alone() -> None:
    w = weight(rows=OUT, columns=IN)
    most = {"int4 in blocks": 0.5 + 2 / 32, "int4 per channel": 0.55, "power of two": 0.56, "codebook 16": 0.53}
    for name, bytes_per_weight in most.items():
        model = decode_onnx(linear(w), {"w": SCHEMES[name](w)})
        held = {t.name: t for t in model.graph.initializer}
        sizes = {n: len(t.raw_data) for n, t in held.items() if n != "w.pairs"}  # 2 KB, the same for any size
        assert sum(sizes.values()) <= bytes_per_weight * w.size + 100, name
        assert {node.domain for node in model.graph.node} == {""}
        assert "w" not in held


def test_onnxruntime_fuses_int4_and_computes_lookups_at_load(tmp_path) -> None:
    # What the docs say of memory and speed rests on this.
    w = weight()
    x = np.zeros((ROWS, IN), np.float32)
    found = {}
    for name in ("int4 in blocks", "int8 per channel", "codebook 16", "power of two"):
        run(decode_onnx(linear(w), {"w": SCHEMES[name](w)}), x, save=tmp_path / "optimised.onnx")
        found[name] = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert found["int4 in blocks"] == found["int8 per channel"] == ["MatMulNBits"]
    assert found["codebook 16"] == found["power of two"] == ["MatMul"]


def test_weights_are_found_by_value_in_either_layout() -> None:
    first, second = weight(), weight() + 1
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Gemm", ["h", "b"], ["y"], transB=1)]
    square = {"a": first[:, :IN].T, "b": np.ascontiguousarray(second[:, :OUT])}
    model = graph(nodes, square)
    assert onnx_weights(model, {"one": first, "two": second[:, :OUT]}) == {"one": "a", "two": "b"}
    with pytest.raises(ConversionError) as caught:
        onnx_weights(model, {"three": second})
    assert caught.value.code == "E0759"


def test_what_a_file_cannot_hold_is_refused() -> None:
    w = weight()
    shared = graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Identity", ["w"], ["y"])], {"w": w.T}
    )
    cases = [
        ("E0758", linear(w, opset=20), {"w": blockwise_integer(w)}),
        ("E0759", linear(w), {"v": codebook(w)}),
        ("E0759", linear(w), {"w": codebook(w[:, :32])}),
        ("E0759", shared, {"w": codebook(w)}),
        ("E0760", table(w), {"w": codebook(w, rows_per_table=12)}),
        ("E0760", table(w), {"w": blockwise_integer(w, block=80)}),
    ]
    for code, model, coded in cases:
        before = model.SerializeToString()
        with pytest.raises(ConversionError) as caught:
            decode_onnx(model, coded)
        assert caught.value.code == code
        assert model.SerializeToString() == before
