"""The tiny image classifier in int8, in both formats: logits = dequantised(codes of the image @ codes of W) + b."""

import numpy as np
import tiny_models
from onnx import helper

from edgekit_runtime.manifest import ModelEntry

STEP = float(np.abs(tiny_models.WEIGHTS).max()) / 127


def onnx_image_int8() -> bytes:
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "flat"], ["f"]),
        node("QuantizeLinear", ["f", "pixel", "zero"], ["q"]),
        node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        node("Cast", ["sums"], ["s"], to=1),
        node("Mul", ["s", "step"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    constants = {
        "flat": np.array([1, 64]),
        "pixel": np.array(1 / 255, np.float32),
        "zero": np.array(0, np.uint8),
        "w": np.rint(tiny_models.WEIGHTS / STEP).astype(np.int8),
        "step": np.array(STEP / 255, np.float32),
        "b": tiny_models.BIAS,
    }
    return tiny_models.onnx_model(nodes, *tiny_models.IMAGE_IO, constants)


def int8_image_parts() -> dict[str, object]:
    """Arguments of ``write_bundle``."""
    parts = tiny_models.image_bundle_parts()
    inputs, outputs = map(tiny_models.specs, tiny_models.IMAGE_IO)
    models = {
        engine: ModelEntry(member=member, precision="int8", inputs=inputs, outputs=outputs)
        for engine, member in (("onnxruntime", "model.onnx"), ("litert", "model.tflite"))
    }
    members = {"model.onnx": onnx_image_int8(), "model.tflite": tiny_models.tflite_image_int8()}
    return {**parts, "models": models, "members": {**parts["members"], **members}}
