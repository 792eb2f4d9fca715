"""Two small real bundles for the tests of the commands: a text one and an image one, both ONNX."""

import io
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgekit_runtime.bundle import write_bundle
from edgekit_runtime.manifest import ModelEntry, TensorSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"]
LENGTH = 8


def _model(nodes, inputs, constants):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _entry(inputs):
    logits = TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, 2))
    specs = tuple(TensorSpec(name=name, tensor=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    return {"onnxruntime": ModelEntry(member="model.onnx", precision="float32", inputs=specs, outputs=(logits,))}


def _sums(layer: str, channels: int, highest: int) -> dict[str, object]:
    found = {"layer": layer, "channels": channels, "worst_negative": -255, "worst_positive": highest}
    return {**found, "safe": channels == 0}


SUMS = {"layers": [_sums("loud", 2, 64770), _sums("quiet", 0, 32640)], "unsafe": ["loud"]}


def _tensor(name: str, below: float, above: float) -> dict[str, object]:
    ends = {"calibrated": [-1.0, 2.0], "held_out": [-1.25, 7.5], "values": 800}
    return {"name": name, **ends, "fraction_below": below, "fraction_above": above}


COVERAGE = {
    "schema": 1,
    "rows": 32,
    "worst": ["loud input"],
    "tensors": [_tensor("loud input", 0.01, 0.0025), _tensor("quiet input", 0.0, 0.0)],
}


def _goldens():
    """'good film' and 'bad film': [CLS] WORD film [SEP] and four [PAD]."""
    ids = np.array([[2, 4, 6, 3, 0, 0, 0, 0], [2, 5, 6, 3, 0, 0, 0, 0]], np.int32)
    logits = _npy(np.array([[0, 1], [1, 0]], np.float32))
    return {
        "golden.json": b'{"texts":["good film","bad film"]}',
        "golden/input_ids.npy": _npy(ids),
        "golden/attention_mask.npy": _npy((ids > 0).astype(np.int32)),
        "golden/onnxruntime.npy": logits,
        "golden/reference.npy": logits,
    }


def write_text_bundle(path):
    """'good' adds 1 to the logit of `positive`, 'bad' to that of `negative`; all other words add nothing."""
    table = np.zeros((len(WORDS), 2), np.float32)
    table[WORDS.index("good"), 1] = table[WORDS.index("bad"), 0] = 1
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
    ]
    inputs = [(name, TensorProto.INT32, (1, LENGTH)) for name in ("input_ids", "attention_mask")]
    constants = {"table": table, "axis": np.array([2]), "tokens": np.array([1])}
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return write_bundle(
        path,
        name="tiny-text",
        version="1.2.3",
        task="text-classification",
        target="x86-64",
        models=_entry([(name, "int32", (1, LENGTH)) for name in ("input_ids", "attention_mask")]),
        members={
            "model.onnx": _model(nodes, inputs, constants),
            "preprocess.json": json.dumps(
                {"kind": "text", "tokenizer": "tokenizer.json", "max_length": LENGTH}
            ).encode(),
            "tokenizer.json": tokenizer.to_str().encode(),
            "labels.json": b'["negative","positive"]',
            "parity.json": b'{"lanes":[{"lane":"onnx-int8","accuracy":0.8125}],"rows":160}',
            "provenance.json": b'{"seed":0}',
            "saturation.json": json.dumps(SUMS).encode(),
            "coverage.json": json.dumps(COVERAGE).encode(),
            **_goldens(),
            "licence.txt": b"Apache-2.0\n",
        },
    )


def write_image_bundle(path):
    """`bright` if the 2 x 2 grey pixels, 0 to 255, sum up to more than one full pixel, else `dark`."""
    weight = np.zeros((4, 2), np.float32)
    weight[:, 1] = 1
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    constants = {"weight": weight, "bias": np.array([1, 0], np.float32)}
    preprocess = {
        "kind": "image",
        "height": 2,
        "width": 2,
        "channels": 1,
        "scale": 1 / 255,
        "mean": [0.0],
        "std": [1.0],
        "resize": "bilinear",
    }
    return write_bundle(
        path,
        name="tiny-image",
        version="0.1.0",
        task="image-classification",
        target="rpi4",
        models=_entry([("image", "float32", (1, 2, 2, 1))]),
        members={
            "model.onnx": _model(nodes, [("image", TensorProto.FLOAT, (1, 2, 2, 1))], constants),
            "preprocess.json": json.dumps(preprocess).encode(),
            "labels.json": b'["dark","bright"]',
            "golden/image.npy": _npy(np.zeros((1, 2, 2, 1), np.float32)),
        },
    )
