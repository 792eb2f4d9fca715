"""What LiteRT makes of coded weights: the answers of the float model that holds the decoded weights."""

from collections.abc import Mapping

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit_converters.quantize.schemes.blockwise import blockwise_integer
from edgekit_converters.quantize.schemes.codebook import codebook
from edgekit_converters.quantize.schemes.power import power_of_two
from edgekit_converters.quantize.schemes.tflite_decode import decode_tflite, tflite_weights
from edgekit_converters.quantize.schemes.tflite_edit import TfliteEdit
from edgekit_runtime.errors import ConversionError

ROWS, OUT, IN, WORDS = 6, 48, 96, 40
BIAS = np.linspace(-1, 1, OUT, dtype=np.float32)
SCHEMES = {
    "int4 in blocks": blockwise_integer,
    "int4 per channel": lambda w: blockwise_integer(w, block=None),
    "int8 per channel": lambda w: blockwise_integer(w, block=None, bits=8),
    "power of two": power_of_two,
    "codebook 16": codebook,
    "codebook 16 in groups": lambda w: codebook(w, rows_per_table=8),
    "codebook 256": lambda w: codebook(w, entries=256),
}


@pytest.fixture(scope="module")
def weights() -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(rows, IN)).astype(np.float32) for name, rows in (("words", WORDS), ("linear", OUT))}


@pytest.fixture(scope="module")
def data(weights) -> bytes:
    """An embedding and a linear layer beside each other, written by hand from the schema."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, model.operatorCodes = [], [], []

    def tensor(name: str, shape: list[int], kind: int, values: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), shape, kind, 0
        if values is not None:
            made.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(kind: str, inputs: list[int], output: int) -> None:
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes), inputs, [output]
        if kind == "FULLY_CONNECTED":
            made.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            made.builtinOptions = schema.FullyConnectedOptionsT()
        model.operatorCodes.append(code)
        graph.operators.append(made)

    kind = schema.TensorType
    ids, x = tensor("ids", [ROWS], kind.INT32), tensor("x", [ROWS, IN], kind.FLOAT32)
    words = tensor("words", [WORDS, IN], kind.FLOAT32, weights["words"])
    linear = tensor("linear", [OUT, IN], kind.FLOAT32, weights["linear"])
    bias = tensor("bias", [OUT], kind.FLOAT32, BIAS)
    rows, result = tensor("rows", [ROWS, IN], kind.FLOAT32), tensor("result", [ROWS, OUT], kind.FLOAT32)
    operator("EMBEDDING_LOOKUP", [ids, words], rows)
    operator("FULLY_CONNECTED", [x, linear, bias], result)
    graph.inputs, graph.outputs = [ids, x], [rows, result]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(data: bytes, *, ids=None, x=None) -> dict[int, np.ndarray]:
    """Outputs by their last dimension."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    for row in interpreter.get_input_details():
        given = ids if row["dtype"] == np.int32 else x
        interpreter.set_tensor(row["index"], np.zeros(row["shape"], row["dtype"]) if given is None else given)
    interpreter.invoke()
    found = [interpreter.get_tensor(row["index"]) for row in interpreter.get_output_details()]
    return {value.shape[-1]: value for value in found}


def coded_file(data, weights, layer, coded, **options) -> bytes:
    (tensor,) = tflite_weights(data, {layer: weights[layer]}).values()
    return decode_tflite(data, {tensor: coded}, **options)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_answers_as_the_float_layer_with_decoded_weights(name, data, weights) -> None:
    coded = SCHEMES[name](weights["linear"])
    x = np.random.default_rng(1).normal(size=(ROWS, IN)).astype(np.float32)
    expected = x.astype(np.float64) @ coded.dequantise().T.astype(np.float64) + BIAS
    got = run(coded_file(data, weights, "linear", coded, activations="float"), x=x)[OUT]
    assert np.abs(got - expected).max() < 2e-6 * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name.startswith("int")])
def test_integer_kernels_round_the_input_to_int8_and_nothing_else(name, data, weights) -> None:
    # LiteRT's rows are asymmetric: with both ends present, the whole numbers from -128 to 127 lose nothing.
    coded = SCHEMES[name](weights["linear"])
    x = np.random.default_rng(1).integers(-128, 128, (ROWS, IN)).astype(np.float32)
    x[..., 0], x[..., 1] = -128, 127
    expected = x.astype(np.float64) @ coded.dequantise().T.astype(np.float64) + BIAS
    got = run(coded_file(data, weights, "linear", coded, activations="int8"), x=x)[OUT]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("name", [name for name in SCHEMES if "groups" not in name])
def test_an_embedding_gives_the_decoded_rows(name, activations, data, weights) -> None:
    coded = SCHEMES[name](weights["words"])
    ids = np.array([0, 39, 7, 7, 12, 1], np.int32)
    got = run(coded_file(data, weights, "words", coded, activations=activations), ids=ids)[IN]
    assert np.allclose(got, coded.dequantise()[ids], rtol=1e-6, atol=1e-9)


def test_the_other_layer_and_the_float_file_stay_as_they_are(data, weights) -> None:
    x = np.random.default_rng(1).normal(size=(ROWS, IN)).astype(np.float32)
    before = bytes(data)
    changed = coded_file(data, weights, "words", codebook(weights["words"]))
    assert np.array_equal(run(changed, x=x)[OUT], run(data, x=x)[OUT])
    assert data == before


def test_four_bit_files_are_as_small_as_they_promise(data, weights) -> None:
    float_bytes = 4 * weights["linear"].size
    for name, per_weight in {"int4 in blocks": 0.5 + 2 / 32, "int4 per channel": 0.55, "codebook 16": 0.5}.items():
        saved = len(data) - len(coded_file(data, weights, "linear", SCHEMES[name](weights["linear"])))
        extra = 5000 if name == "codebook 16" else 1000  # operators, and 2 KB of byte pairs
        assert saved > float_bytes - per_weight * weights["linear"].size - extra, name
    edit = TfliteEdit(coded_file(data, weights, "linear", SCHEMES["codebook 16"](weights["linear"])))
    (codes,) = [edit.array(tensor) for name, tensor in edit.constants().items() if name.endswith("_codes")]
    assert codes.nbytes == weights["linear"].size // 2


def test_an_interpreter_too_old_for_the_integers_can_refuse_the_file(data, weights) -> None:
    expected = {"int4 in blocks": 13, "int4 per channel": 13, "int8 per channel": 12}
    for name, version in expected.items():
        edit = TfliteEdit(coded_file(data, weights, "linear", SCHEMES[name](weights["linear"])))
        codes = edit._model.operatorCodes
        assert [codes[o.opcodeIndex].version for kind, o in edit.operators() if kind == "FULLY_CONNECTED"] == [version]


def test_what_litert_has_no_kernel_for_is_refused(data, weights) -> None:
    linear, words = weights["linear"], weights["words"]
    cases = [
        ("E0760", "linear", blockwise_integer(linear, block=16), {}),
        ("E0760", "linear", blockwise_integer(linear, block=64), {}),
        ("E0760", "linear", blockwise_integer(linear, bits=8), {}),
        ("E0760", "linear", blockwise_integer(linear, block=64), {"activations": "float"}),
        ("E0760", "words", codebook(words, rows_per_table=8), {}),
        ("E0759", "linear", codebook(linear[:, :32]), {}),
    ]
    for code, layer, coded, options in cases:
        with pytest.raises(ConversionError) as caught:
            coded_file(data, weights, layer, coded, **options)
        assert caught.value.code == code
    for wrong in (lambda: tflite_weights(data, {"a": linear + 1}), lambda: decode_tflite(data, {0: codebook(linear)})):
        with pytest.raises(ConversionError) as caught:
            wrong()
        assert caught.value.code == "E0759"
