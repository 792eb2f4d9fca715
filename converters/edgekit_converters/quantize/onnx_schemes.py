"""Writes a plan's coded weights into an ONNX file, and reads them back for the proof."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.lookup import Coded, read_lookup
from edgekit_converters.quantize.schemes.onnx_decode import decode_onnx, onnx_weights

__all__ = ["least_opset", "read_onnx_codes", "stamp_onnx"]

_CODES = ".codes"
_OPSET = 21  # first with int4 codes, blocks and 16-bit Q/DQ


def least_opset(plan: QuantPlan) -> int:
    """Give the lowest opset that can hold a plan's codes and grids; 0 = any."""
    wide = any(layer.input is not None and layer.input.bits == 16 for layer in plan.layers)
    short = any(layer.is_coded and layer.scheme is not None and layer.scheme.kind == "int4" for layer in plan.layers)
    return _OPSET if wide or short else 0


def stamp_onnx(model: onnx.ModelProto, plan: QuantPlan, weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Give the model with every coded layer's weights replaced by their codes and a decode in standard operators.

    Args:
        model: All other layers are written; coded ones are still float.
        plan: With its codes.
        weights: Float weights by layer, channels first.

    Raises:
        ConversionError: A layer is absent or cannot be decoded (E0758 to E0760).
    """
    coded = plan.codes()
    if not coded:
        return model
    places = onnx_weights(model, {name: weights[name] for name in coded})
    return decode_onnx(model, {places[name]: value for name, value in coded.items()})


def read_onnx_codes(path: Path) -> list[Coded]:
    """Give the coded weights of a file, whatever layers they belong to."""
    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found: list[Coded] = []
    for name in held:
        if name.endswith(_CODES):
            reader = readers.get(name)
            stem = name.removesuffix(_CODES)
            found.append(_lookup(held, stem) if reader is None else _linear(held, stem, reader))
    return found


def _linear(held: Mapping[str, onnx.TensorProto], stem: str, reader: onnx.NodeProto) -> BlockwiseInteger:
    codes = numpy_helper.to_array(held[f"{stem}.codes"]).astype(np.int8)
    scales = numpy_helper.to_array(held[f"{stem}.scales"]).astype(np.float32)
    options = {item.name: item.i for item in reader.attribute}
    block = int(options.get("block_size", 0))
    channels = options.get("axis", 1) if not block else 1 - options.get("axis", 1)
    if channels == 1:
        codes, scales = np.ascontiguousarray(codes.T), np.ascontiguousarray(scales.T)
    bits = 4 if held[f"{stem}.codes"].data_type == onnx.TensorProto.INT4 else 8
    scales = scales if block else scales.reshape(-1, 1)
    return BlockwiseInteger(codes=codes, scales=scales, block=block or codes.shape[1], bits=bits)  # type: ignore[arg-type]


def _lookup(held: Mapping[str, onnx.TensorProto], stem: str) -> Coded:
    parts = {
        role: None if f"{stem}.{role}" not in held else numpy_helper.to_array(held[f"{stem}.{role}"])
        for role in ("codes", "table", "scales", "pairs", "matrix_shape")
    }
    codes, table, shape = parts["codes"], parts["table"], parts["matrix_shape"]
    assert codes is not None
    assert table is not None
    matrix = None if shape is None or codes.ndim == 2 else [int(size) for size in shape]
    return read_lookup(codes, table, parts["scales"], pairs=parts["pairs"], shape=matrix)
