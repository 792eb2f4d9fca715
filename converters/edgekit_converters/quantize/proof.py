"""Reads an int8 file back and proves, tensor by tensor, that it holds the grids, codes and biases of its plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit_converters.quantize.grid import bias_codes
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_graph import GraphEditor
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_converters.quantize.tflite_graph import TfliteGraph
from edgekit_runtime.errors import ConversionError

__all__ = ["Stamped", "prove", "read_onnx", "read_tflite"]

Point = tuple[np.float32, int]
Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """What a file holds for one layer.

    Attributes:
        codes: Int8 weights, channels in dimension 0.
        scales: One per channel, float32 (channels,).
        bias: Codes of the accumulator, int64 (channels,); None without a bias, or where the file keeps it float.
        input: Scale and int8 zero point of the input; None where it is float.
        output: The same of the output.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int64] | None
    input: Point | None
    output: Point | None


def prove(plan: QuantPlan, weights: Arrays, biases: Arrays, found: Mapping[str, Stamped]) -> int:
    """Compare a file with its plan.

    Args:
        plan: What should be in the file.
        weights: Float weights by layer, channels first.
        biases: Float biases by layer; layers without one are absent.
        found: From ``read_onnx`` or ``read_tflite``.

    Returns:
        Number of equal arrays and grid points.

    Raises:
        ConversionError: One differs; the layer and the part are named (E0771).
    """
    equal = 0
    for layer in plan.layers:
        if not layer.is_int8:
            continue
        calls = _calls(found, layer.name)
        if not calls:
            raise _differs(layer, "layer", "in int8", "absent or float")
        for held in calls:
            for part, wanted, given in _parts(layer, weights[layer.name], biases.get(layer.name), held):
                if given is None:
                    continue
                if not np.array_equal(wanted, given):
                    raise _differs(layer, part, wanted, given)
                equal += 1
    return equal


def _calls(found: Mapping[str, Stamped], name: str) -> list[Stamped]:
    """Give what a file holds for each call of a layer; the second and later ones have a number behind the name."""
    calls: list[Stamped] = []
    while (held := found.get(_call(name, len(calls)))) is not None:
        calls.append(held)
    return calls


def _call(name: str, number: int) -> str:
    return f"{name}#{number + 1}" if number else name


def _parts(
    layer: LayerPlan, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, held: Stamped
) -> list[tuple[str, Any, Any]]:
    scales = layer.scales(weight)
    parts: list[tuple[str, Any, Any]] = [
        ("weights", layer.codes(weight), held.codes),
        ("weight scales", scales, held.scales),
    ]
    if layer.mode is Mode.STATIC and layer.input is not None:
        parts += [("input", _point(layer.input), held.input or "float")]
        parts += [("output", _point(layer.output) if layer.output else None, held.output)]
        if bias is not None:
            codes, _ = bias_codes(bias, activation_scale=np.float32(layer.input.scale), weight_scale=scales)
            parts.append(("bias", codes.astype(np.int64), held.bias))
    return parts


def _point(grid: Grid) -> Point:
    return np.float32(grid.scale), grid.zero_point


def _differs(layer: LayerPlan, part: str, wanted: object, given: object) -> ConversionError:
    return ConversionError(
        "E0771",
        f"{part} of {layer.name} in the file differ from the plan",
        why=f"planned {str(wanted)[:80]}, found {str(given)[:80]}",
        fix="report the model: the writer and the plan must agree to the bit",
    )


def read_tflite(path: Path, plan: QuantPlan, weights: Arrays) -> dict[str, Stamped]:
    """Read the int8 layers of a TFLite file; a layer is known by its codes."""
    graph = TfliteGraph(path)
    wanted = {p.name: p.codes(weights[p.name]) for p in plan.layers if p.is_int8}
    found = {}
    calls = [(_call(name, i), layer) for name, layers in graph.match(wanted).items() for i, layer in enumerate(layers)]
    for name, layer in calls:
        scales, _ = graph.grid(layer.weight)
        bias = graph.constant(layer.bias) if layer.bias >= 0 else None
        codes = graph.channels_first(layer)
        assert codes.dtype == np.int8
        found[name] = Stamped(
            codes=codes.astype(np.int8),
            scales=scales,
            bias=bias.astype(np.int64) if bias is not None and bias.dtype != np.float32 else None,
            input=_tflite_point(graph, layer.input),
            output=_tflite_point(graph, layer.output),
        )
    return found


def _tflite_point(graph: TfliteGraph, tensor: int) -> Point | None:
    scales, zeros = graph.grid(tensor)
    return (np.float32(scales[0]), int(zeros[0])) if len(scales) else None


def read_onnx(path: Path, plan: QuantPlan, weights: Arrays) -> dict[str, Stamped]:
    """Read the int8 layers of an ONNX file with Q/DQ pairs; a layer is known by its codes."""
    graph = GraphEditor(onnx.load(path))
    makers = {str(name): node for node in graph.nodes for name in node.output}
    waiting: dict[bytes, list[str]] = {}
    for layer in plan.layers:
        if layer.is_int8:
            waiting.setdefault(_key(layer.codes(weights[layer.name])), []).append(layer.name)
    found: dict[str, Stamped] = {}
    for node in graph.nodes:
        held = _onnx_layer(graph, makers, node)
        names = waiting.get(_key(held.codes)) if held is not None else None
        if held is not None and names:
            found[_call(names[0], len(_calls(found, names[0])))] = held
            del names[: len(names) > 1]
    return found


def _key(codes: NDArray[np.int8]) -> bytes:
    return repr(codes.shape).encode() + np.ascontiguousarray(codes).tobytes()


def _constant(graph: GraphEditor, name: str) -> NDArray[np.generic]:
    value = graph.weight(name)
    assert value is not None
    return value


def _onnx_layer(graph: GraphEditor, makers: Mapping[str, onnx.NodeProto], node: onnx.NodeProto) -> Stamped | None:
    if node.op_type in ("MatMul", "Gemm", "Conv"):
        maker = makers.get(node.input[1])
        constant = maker is not None and all(graph.weight(name) is not None for name in maker.input[:2])
        if maker is None or maker.op_type != "DequantizeLinear" or not constant:
            return None
        codes, scales = _constant(graph, maker.input[0]), _constant(graph, maker.input[1])
        axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
        source = _onnx_point(graph, makers.get(node.input[0]))
        return Stamped(
            codes=(codes.T if axis == 1 else codes).astype(np.int8),
            scales=scales.astype(np.float32).ravel(),
            bias=_onnx_bias(graph, makers, node, np.float64(source[0]) * scales.astype(np.float64) if source else None),
            input=source,
            output=_onnx_output(graph, node),
        )
    if node.op_type == "MatMulInteger":
        codes = _constant(graph, node.input[1]).T
    elif node.op_type == "Gather" and (table := graph.weight(node.input[0])) is not None and table.dtype == np.int8:
        codes = table
    else:
        return None
    name = node.input[1] if node.op_type == "MatMulInteger" else node.input[0]
    scales = _constant(graph, f"{str(name).removesuffix('.int8')}.scale").astype(np.float32).ravel()
    return Stamped(codes=codes.astype(np.int8), scales=scales, bias=None, input=None, output=None)


def _onnx_point(graph: GraphEditor, node: onnx.NodeProto | None) -> Point | None:
    if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
        return None
    zero = _constant(graph, node.input[2])
    return np.float32(_constant(graph, node.input[1])), int(zero) - (128 if zero.dtype == np.uint8 else 0)


def _onnx_output(graph: GraphEditor, node: onnx.NodeProto) -> Point | None:
    """Give the grid of a convolution's output, behind its ReLU; linear layers give float."""
    if node.op_type != "Conv":
        return None
    readers = graph.readers(str(node.output[0]))
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        readers = graph.readers(str(readers[0].output[0]))
    return _onnx_point(graph, readers[0]) if readers else None


def _onnx_bias(
    graph: GraphEditor,
    makers: Mapping[str, onnx.NodeProto],
    node: onnx.NodeProto,
    steps: NDArray[np.float64] | None,
) -> NDArray[np.int64] | None:
    if node.op_type == "MatMul":
        for reader in graph.readers(str(node.output[0])):
            for name in reader.input if reader.op_type == "Add" else ():
                value = graph.weight(str(name))
                if value is not None and steps is not None:
                    return np.rint(value.astype(np.float64).ravel() / steps).astype(np.int64)
        return None
    maker = makers.get(node.input[2]) if len(node.input) > 2 else None
    return None if maker is None else _constant(graph, maker.input[0]).astype(np.int64)
