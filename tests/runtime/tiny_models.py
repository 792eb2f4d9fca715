"""Real models, small enough to read: one text and one image classifier, each as ONNX and as TFLite.

image: logits = flatten(image) @ W + b. text: logits = sum over tokens of mask * E[id].
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as tflite
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.manifest import ModelEntry, TensorSpec

IMAGE_SHAPE = (1, 8, 8, 1)
LENGTH = 12
CLASSES = ("nought", "one", "two")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "un", "##good", "!", ",", "a")

_rng = np.random.default_rng(7)
WEIGHTS = _rng.normal(size=(64, 3)).astype(np.float32) / 8
BIAS = np.array([0.1, -0.2, 0.3], np.float32)
EMBEDDING = _rng.normal(size=(len(VOCABULARY), 3)).astype(np.float32)


def image_logits(image):
    return image.reshape(1, 64) @ WEIGHTS + BIAS


def text_logits(input_ids, attention_mask):
    return (EMBEDDING[input_ids[0]] * attention_mask[0][:, None]).sum(axis=0, keepdims=True, dtype=np.float32)


def specs(rows):
    return tuple(TensorSpec(name=n, tensor=t, dtype=d, shape=s) for n, t, d, s in rows)


def onnx_model(nodes, inputs, outputs, constants) -> bytes:
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    values = [[helper.make_tensor_value_info(t, kinds[d], s) for _, t, d, s in side] for side in (inputs, outputs)]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", *values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


IMAGE_IO = ([("image", "x", "float32", IMAGE_SHAPE)], [("logits", "y", "float32", (1, 3))])
TEXT_IO = (
    [("input_ids", "ids", "int32", (1, LENGTH)), ("attention_mask", "mask", "int32", (1, LENGTH))],
    [("logits", "y", "float32", (1, 3))],
)


def onnx_image() -> bytes:
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"])]
    return onnx_model(nodes, *IMAGE_IO, {"flat": np.array([1, 64]), "w": WEIGHTS, "b": BIAS})


def onnx_text() -> bytes:
    nodes = [
        helper.make_node("Gather", ["e", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["m", "row"], ["mr"]),
        helper.make_node("MatMul", ["mr", "rows"], ["s"]),
        helper.make_node("Reshape", ["s", "out"], ["y"]),
    ]
    constants = {"e": EMBEDDING, "row": np.array([1, 1, LENGTH]), "out": np.array([1, 3])}
    return onnx_model(nodes, *TEXT_IO, constants)


@dataclass
class FlatTensor:
    """A tensor of a TFLite file: constant if ``data`` is given, quantised if ``scale`` is."""

    name: str
    shape: Sequence[int]
    dtype: str = "float32"
    data: np.ndarray | None = None
    scale: float = 0.0
    zero_point: int = 0


_TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "int32": tflite.TensorType.INT32,
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
}


def tflite_model(tensors: Sequence[FlatTensor], operators, inputs, outputs) -> bytes:
    """Write a flatbuffer: ``operators`` are (builtin operator, option union type, options, inputs, outputs)."""
    import flatbuffers

    model = tflite.ModelT()
    model.version, model.description = 3, "tiny"
    model.buffers = [tflite.BufferT()]
    graph = tflite.SubGraphT()
    graph.tensors, graph.operators, model.operatorCodes = [], [], []
    for row in tensors:
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = row.name, list(row.shape), _TYPES[row.dtype], 0
        if row.data is not None:
            buffer = tflite.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(row.data).tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        if row.scale:
            tensor.quantization = tflite.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [row.scale], [row.zero_point]
        graph.tensors.append(tensor)
    for code, kind, options, takes, gives in operators:
        operator_code = tflite.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        operator_code.version = 4 if code == tflite.BuiltinOperator.FULLY_CONNECTED else 1
        operator = tflite.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), takes, gives
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        model.operatorCodes.append(operator_code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = inputs, outputs
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _reshape(takes, gives, shape):
    options = tflite.ReshapeOptionsT()
    options.newShape = list(shape)
    return (tflite.BuiltinOperator.RESHAPE, tflite.BuiltinOptions.ReshapeOptions, options, takes, gives)


def _connected(takes, gives):
    options = tflite.FullyConnectedOptionsT()
    return (tflite.BuiltinOperator.FULLY_CONNECTED, tflite.BuiltinOptions.FullyConnectedOptions, options, takes, gives)


def tflite_image() -> bytes:
    tensors = [
        FlatTensor("x", IMAGE_SHAPE),
        FlatTensor("flat", [2], "int32", np.array([1, 64], np.int32)),
        FlatTensor("f", [1, 64]),
        FlatTensor("w", [3, 64], data=WEIGHTS.T),
        FlatTensor("b", [3], data=BIAS),
        FlatTensor("y", [1, 3]),
    ]
    return tflite_model(tensors, [_reshape([0, 1], [2], [1, 64]), _connected([2, 3, 4], [5])], [0], [5])


# Input and output steps of the quantised image model; pixels lie in 0..1, logits within about -3..3.
INT8_INPUT = (1 / 255, -128)
INT8_OUTPUT = (6 / 255, 3)


def tflite_image_int8() -> bytes:
    weight_scale = float(np.abs(WEIGHTS).max()) / 127
    bias = np.rint(BIAS / (weight_scale * INT8_INPUT[0])).astype(np.int32)
    codes = np.rint(WEIGHTS.T / weight_scale).astype(np.int8)
    tensors = [
        FlatTensor("x", IMAGE_SHAPE, "int8", None, *INT8_INPUT),
        FlatTensor("flat", [2], "int32", np.array([1, 64], np.int32)),
        FlatTensor("f", [1, 64], "int8", None, *INT8_INPUT),
        FlatTensor("w", [3, 64], "int8", codes, weight_scale),
        FlatTensor("b", [3], "int32", bias, weight_scale * INT8_INPUT[0]),
        FlatTensor("y", [1, 3], "int8", None, *INT8_OUTPUT),
    ]
    return tflite_model(tensors, [_reshape([0, 1], [2], [1, 64]), _connected([2, 3, 4], [5])], [0], [5])


def tflite_text() -> bytes:
    cast, gather, matmul = tflite.CastOptionsT(), tflite.GatherOptionsT(), tflite.BatchMatMulOptionsT()
    cast.inDataType, cast.outDataType = tflite.TensorType.INT32, tflite.TensorType.FLOAT32
    builtin, kind = tflite.BuiltinOperator, tflite.BuiltinOptions
    tensors = [
        FlatTensor("ids", [1, LENGTH], "int32"),
        FlatTensor("mask", [1, LENGTH], "int32"),
        FlatTensor("e", EMBEDDING.shape, data=EMBEDDING),
        FlatTensor("rows", [1, LENGTH, 3]),
        FlatTensor("m", [1, LENGTH]),
        FlatTensor("row", [3], "int32", np.array([1, 1, LENGTH], np.int32)),
        FlatTensor("mr", [1, 1, LENGTH]),
        FlatTensor("s", [1, 1, 3]),
        FlatTensor("out", [2], "int32", np.array([1, 3], np.int32)),
        FlatTensor("y", [1, 3]),
    ]
    operators = [
        (builtin.GATHER, kind.GatherOptions, gather, [2, 0], [3]),
        (builtin.CAST, kind.CastOptions, cast, [1], [4]),
        _reshape([4, 5], [6], [1, 1, LENGTH]),
        (builtin.BATCH_MATMUL, kind.BatchMatMulOptions, matmul, [6, 3], [7]),
        _reshape([7, 8], [9], [1, 3]),
    ]
    return tflite_model(tensors, operators, [0, 1], [9])


def tokenizer_json(vocabulary: Sequence[str] = VOCABULARY, **normalizer: object) -> bytes:
    """A BERT tokenizer over ``vocabulary``, as Hugging Face writes it."""
    rules = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True, **normalizer}
    ids = {token: place for place, token in enumerate(vocabulary)}
    special = [token for token in ids if token.startswith("[") and token.endswith("]") and len(token) > 2]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    template = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]")]
    template.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": ids[token], "content": token, "special": True, **flags} for token in special],
            "normalizer": {"type": "BertNormalizer", **rules},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": template,
                "pair": template,
                "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        }
    ).encode()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def entry(member: str, sides) -> ModelEntry:
    return ModelEntry(member=member, precision="float32", inputs=specs(sides[0]), outputs=specs(sides[1]))


def models(sides) -> Mapping[str, ModelEntry]:
    return {"onnxruntime": entry("model.onnx", sides), "litert": entry("model.tflite", sides)}


def image_bundle_parts() -> dict[str, object]:
    """Arguments of ``write_bundle`` for a whole image bundle."""
    raw = np.random.default_rng(3).integers(0, 256, (6, 8, 8), np.uint8)
    image = (raw.astype(np.float32) / 255).reshape(6, 8, 8, 1)
    logits = np.concatenate([image_logits(row) for row in image])
    config = {"kind": "image", "height": 8, "width": 8, "channels": 1, "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
    config["resize"] = "bilinear"
    members = {
        "model.onnx": onnx_image(),
        "model.tflite": tflite_image(),
        "preprocess.json": json.dumps(config).encode(),
        "labels.json": json.dumps(CLASSES).encode(),
        "golden.json": b"{}",
        "golden/input.npy": npy(raw),
        "golden/image.npy": npy(image),
        **{f"golden/{name}.npy": npy(logits) for name in ("reference", "onnxruntime", "litert")},
        "licence.txt": b"Apache-2.0",
    }
    head = {"name": "tiny-image", "version": "1.0.0", "task": "image-classification", "target": "x86-64"}
    return {**head, "models": models(IMAGE_IO), "members": members}


TEXTS = ("good film!", "bad, bad films", "a ungood film", "goods", "Ünbekannt", "a a a a a a a a a a a a a a a a")


def text_bundle_parts() -> dict[str, object]:
    """Arguments of ``write_bundle`` for a whole text bundle; ids come from the ``tokenizers`` library."""
    from tokenizers import Tokenizer

    data = tokenizer_json()
    library = Tokenizer.from_str(data.decode())
    library.enable_truncation(LENGTH)
    library.enable_padding(length=LENGTH)
    encodings = library.encode_batch(list(TEXTS))
    ids = np.array([encoding.ids for encoding in encodings], np.int32)
    mask = np.array([encoding.attention_mask for encoding in encodings], np.int32)
    logits = np.concatenate([text_logits(i[None], m[None]) for i, m in zip(ids, mask, strict=True)])
    members = {
        "model.onnx": onnx_text(),
        "model.tflite": tflite_text(),
        "preprocess.json": json.dumps({"kind": "text", "tokenizer": "tokenizer.json", "max_length": LENGTH}).encode(),
        "tokenizer.json": data,
        "labels.json": json.dumps(CLASSES).encode(),
        "golden.json": json.dumps({"texts": TEXTS}).encode(),
        "golden/input_ids.npy": npy(ids),
        "golden/attention_mask.npy": npy(mask),
        **{f"golden/{name}.npy": npy(logits) for name in ("reference", "onnxruntime", "litert")},
        "licence.txt": b"Apache-2.0",
    }
    head = {"name": "tiny-text", "version": "1.0.0", "task": "text-classification", "target": "x86-64"}
    return {**head, "models": models(TEXT_IO), "members": members}
