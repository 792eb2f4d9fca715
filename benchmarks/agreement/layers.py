"""Reads the static layers of an int8 ONNX file: their numbers for the reference, and real codes to feed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agreement.cut import OnnxCut, cut_onnx
from edgekit_converters.quantize.integer_reference import Geometry, IntegerLayer, run
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_converters.quantize.proof import Stamped

__all__ = ["Static", "file_weights", "input_codes", "reference", "static_layers"]

Codes = NDArray[np.int8]
Feeds = Mapping[str, NDArray[np.generic]]
_MOST_BYTES = 8_000_000  # of one layer's inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """One layer on calibrated 8-bit grids.

    Attributes:
        plan: What the plan says of it.
        cut: The layer alone, out of the ONNX file.
        source: Tensor of its input codes in the whole file.
        integers: For the reference.
    """

    plan: LayerPlan
    cut: OnnxCut
    source: str
    integers: IntegerLayer


def file_weights(model: onnx.ModelProto, plan: QuantPlan) -> dict[str, NDArray[np.float32]]:
    """Give the int8 weights that stand in a file as floats, channels first: their codes come back exactly."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    axes = {
        node.input[0]: next((each.i for each in node.attribute if each.name == "axis"), 1)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    found = {}
    for layer in plan.layers:
        name = f"{layer.name}.weight.int8"
        if name not in held:
            continue
        codes = numpy_helper.to_array(held[name]).astype(np.float32)
        scale = numpy_helper.to_array(held[f"{layer.name}.weight.scale"]).astype(np.float32).ravel()
        by_inputs = layer.kind != "embedding" and (layer.mode is Mode.DYNAMIC or axes[name] == 1)
        codes = np.ascontiguousarray(codes.T) if by_inputs else codes
        found[layer.name] = codes * scale.reshape([-1] + [1] * (codes.ndim - 1))
    return found


def static_layers(model: onnx.ModelProto, plan: QuantPlan, stamped: Mapping[str, Stamped]) -> dict[str, Static]:
    """Give the layers that both files compute on calibrated grids.

    Args:
        model: The ONNX file.
        plan: Of both files.
        stamped: From ``read_onnx``.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for layer in plan.layers:
        held = stamped.get(layer.name)
        if layer.mode is not Mode.STATIC or layer.output is None or held is None:
            continue
        node = next(each for each in model.graph.node if f"{layer.name}.weight.dq" in list(each.input)[1:2])
        cut = cut_onnx(model, node)
        source = str(makers[node.input[0]].input[0])
        found[layer.name] = Static(plan=layer, cut=cut, source=source, integers=_integers(layer, held, node, cut))
    return found


def _integers(layer: LayerPlan, held: Stamped, node: onnx.NodeProto, cut: OnnxCut) -> IntegerLayer:
    assert layer.input is not None
    assert layer.output is not None
    bias = np.zeros(len(held.codes), np.int32) if held.bias is None else held.bias.astype(np.int32)
    return IntegerLayer(
        weight=held.codes,
        weight_scales=held.scales,
        bias=bias,
        input_scale=np.float32(layer.input.scale),
        input_zero_point=layer.input.zero_point,
        output_scale=np.float32(layer.output.scale),
        output_zero_point=layer.output.zero_point,
        relu=cut.relu,
        geometry=_geometry(node) if node.op_type == "Conv" else Geometry(),
    )


def _geometry(node: onnx.NodeProto) -> Geometry:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    assert set(given.get("dilations", [1])) == {1}, "the integer reference has no dilation"
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    high, wide = given.get("strides", [1, 1])
    return Geometry(stride=(high, wide), padding=(top, left, bottom, right), groups=int(given.get("group", 1)))


def input_codes(model: onnx.ModelProto, layers: Mapping[str, Static], rows: Sequence[Feeds]) -> dict[str, Codes]:
    """Run the whole ONNX file and give the codes that each layer really reads.

    Returns:
        By layer: int8 (rows, ..., inputs) or (rows, C, H, W), at most 8 MB each.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(layer.source for layer in layers.values()))
    kinds = {layer.source: TensorProto.UINT8 if layer.cut.unsigned else TensorProto.INT8 for layer in layers.values()}
    shown.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, list[Codes]] = {name: [] for name in names}
    for feeds in rows:
        for name, value in zip(names, session.run(names, dict(feeds)), strict=True):
            codes = (value.astype(np.int16) - 128).astype(np.int8) if value.dtype == np.uint8 else value
            if sum(part.nbytes for part in found[name]) < _MOST_BYTES:
                found[name].append(codes)
    held = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: held[layer.source] for name, layer in layers.items()}


def reference(layer: IntegerLayer, codes: Codes) -> Codes:
    """Compute a layer in exact integers, rounded as both engines do: int8 (rows, ..., out)."""
    if layer.weight.ndim == 4:
        return run(codes, layer, "float")
    return run(codes.reshape(-1, codes.shape[-1]), layer, "float").reshape(*codes.shape[:-1], -1)
