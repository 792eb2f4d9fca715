"""Writes a quantisation plan into an ONNX file: our own Q/DQ placement, because onnxruntime's breaks transformers.

It quantises the outputs of every matrix product (the feed-forward output has a channel 30 times larger than the rest),
quantises attention although told not to, lets the residual read the rounded copy, and gives a bias shape that makes the
runtime fall back to float. See docs/decisions/0002-own-qdq.md.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit_converters.quantize.grid import ActivationType, bias_codes
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_graph import GraphEditor
from edgekit_converters.quantize.onnx_schemes import stamp_onnx
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_runtime.errors import ConversionError

__all__ = ["match_layers", "quantize_onnx"]

Weights = Mapping[str, NDArray[np.float32]]


def _float_layers(graph: GraphEditor) -> Iterator[tuple[onnx.NodeProto, NDArray[np.float32]]]:
    """Give the nodes with constant weights, and those weights with channels in dimension 0 as PyTorch has them."""
    for node in graph.nodes:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            weight = graph.weight(node.input[1])
            if weight is not None and weight.ndim >= 2:
                held = weight.astype(np.float32)
                yield node, held.T if _output_axis(node) == 1 else held
        elif node.op_type == "Gather":
            table = graph.weight(node.input[0])
            if table is not None and table.dtype == np.float32 and table.ndim == 2:
                yield node, table.astype(np.float32)


def match_layers(graph: GraphEditor, weights: Weights) -> dict[str, list[onnx.NodeProto]]:
    """Find each layer's nodes by the values of its weight; names do not survive an exporter, values do.

    Layers of equal weights are taken in order of execution, which is that of ``weights``; more nodes than layers are
    further calls of the last, as in the steps of a recurrent network.

    Raises:
        ConversionError: A layer has no node: the exporter changed its weights (E0768).
    """
    waiting: dict[bytes, list[str]] = {}
    for name, weight in weights.items():
        waiting.setdefault(_key(weight), []).append(name)
    found: dict[str, list[onnx.NodeProto]] = {}
    for node, weight in _float_layers(graph):
        names = waiting.get(_key(weight))
        if names:
            found.setdefault(names[0], []).append(node)
            del names[: len(names) > 1]
    lost = [name for name in weights if name not in found]
    if lost:
        raise ConversionError(
            "E0768",
            f"layers of the plan are not in the ONNX graph: {', '.join(lost[:3])}",
            why="the exporter folded something into their weights",
            fix="run again with --debug and report the model",
        )
    return found


def _key(weight: NDArray[np.float32]) -> bytes:
    return repr(weight.shape).encode() + np.ascontiguousarray(weight).tobytes()


def _after(graph: GraphEditor, node: onnx.NodeProto) -> str:
    """Give the tensor where a convolution's grid point lies: behind its ReLU, which the kernel fuses."""
    tensor = str(node.output[0])
    readers = graph.readers(tensor)
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        return str(readers[0].output[0])
    return tensor


def quantize_onnx(
    source: Path, target: Path, plan: QuantPlan, weights: Weights, *, activations: ActivationType
) -> dict[str, int]:
    """Write the int8 model.

    Static layers read a Q/DQ pair and hold int8 weights per output channel; matrix products give float, so that
    residual sums, layer norms and softmax stay float; convolutions give int8 behind their ReLU. Embeddings hold int8
    rows with one scale each.

    Args:
        source: Float32 model, exported from the graph that the plan was made for.
        target: Of the int8 model.
        plan: Modes and grids.
        weights: Float weights by layer, channels first, in order of execution.
        activations: Type of the codes; both stand on the plan's grid.

    Returns:
        Number of layers by mode, and of embeddings.
    """
    graph = GraphEditor(onnx.load(source))
    graph.fold_transposes()
    writer = _Writer(graph, activations)
    counts = dict.fromkeys((*(mode.value for mode in Mode), "embedding", "int4", "power-of-two", "codebook"), 0)
    nodes = match_layers(graph, weights)
    for layer in plan.layers:
        if layer.is_coded and layer.scheme is not None:
            counts[layer.scheme.kind] += 1
            continue
        counts["embedding" if layer.kind == "embedding" else layer.mode.value] += layer.mode is not Mode.FLOAT
        if layer.mode is Mode.FLOAT:
            counts["float"] += layer.kind != "embedding"
            continue
        write = writer.embedding if layer.kind == "embedding" else writer.static
        if layer.kind != "embedding" and layer.mode is not Mode.STATIC:
            write = writer.dynamic
        for node in nodes[layer.name]:
            write(node, layer, weights[layer.name])
    target.write_bytes(stamp_onnx(graph.finish(), plan, weights).SerializeToString(deterministic=True))
    return counts


class _Writer:
    """Writes the int8 form of single layers into a graph."""

    def __init__(self, graph: GraphEditor, activations: ActivationType) -> None:
        self.graph, self.activations = graph, activations
        self._paired: set[str] = set()  # tensors that have a Q/DQ pair
        self._decoded: set[str] = set()  # constants that have their DQ; all calls of a layer read the same one

    def _pair(self, tensor: str, grid: Grid) -> str:
        """Give the tensor after Q and DQ; one pair serves all its readers."""
        after = f"{tensor}.dq"
        if tensor not in self._paired:
            unsigned = self.activations == "uint8" and grid.bits == 8
            signed = np.int8(grid.zero_point) if grid.bits == 8 else np.int16(0)
            code = np.uint8(grid.zero_point + 128) if unsigned else signed
            step = self.graph.constant(f"{tensor}.scale", np.float32(grid.scale))
            zero = self.graph.constant(f"{tensor}.zero_point", code)
            self.graph.add("QuantizeLinear", [tensor, step, zero], [f"{tensor}.q"])
            self.graph.add("DequantizeLinear", [f"{tensor}.q", step, zero], [after])
            self._paired.add(tensor)
        return after

    def _weight(self, node: onnx.NodeProto, layer: LayerPlan, weight: NDArray[np.float32]) -> str:
        axis = _output_axis(node)
        codes = layer.codes(weight)
        name = layer.name or str(node.output[0])
        return self._constant(f"{name}.weight", codes.T if axis == 1 else codes, layer.scales(weight), axis=axis)

    def _constant(self, name: str, codes: NDArray[np.signedinteger], scales: NDArray[np.float32], *, axis: int) -> str:
        """Give the tensor behind the DQ of int8 or int32 codes; one scale of many channels is a scalar."""
        if name not in self._decoded:
            scales = scales if len(scales) == codes.shape[axis] else scales.reshape(())
            held = self.graph.constant(f"{name}.{codes.dtype}", codes)
            steps = self.graph.constant(f"{name}.scale", scales)
            zeros = self.graph.constant(f"{name}.zero_point", np.zeros(scales.shape, codes.dtype))
            self.graph.add("DequantizeLinear", [held, steps, zeros], [f"{name}.dq"], axis=axis)
            self._decoded.add(name)
        return f"{name}.dq"

    def static(self, node: onnx.NodeProto, layer: LayerPlan, weight: NDArray[np.float32]) -> None:
        """Put a layer's input, weight, bias and, for a convolution, output on their grids."""
        assert layer.input is not None
        source = str(node.input[0]).removesuffix(".dq")  # a convolution before may have put its output on a grid
        node.input[0] = self._pair(source, layer.input)
        node.input[1] = self._weight(node, layer, weight)
        if node.op_type == "MatMul":
            if layer.input.bits == 8:
                self._broad_bias(node, layer)
            return
        bias = self.graph.weight(node.input[2]) if len(node.input) > 2 and layer.input.bits == 8 else None
        if bias is not None:
            node.input[2] = self._bias(layer, bias.astype(np.float32))
        if node.op_type == "Conv" and layer.output is not None:
            self._grid_output(_after(self.graph, node), layer.output)

    def _bias(self, layer: LayerPlan, bias: NDArray[np.float32]) -> str:
        codes, scale = _bias_of(layer, bias)
        return self._constant(f"{layer.name}.bias", codes, scale, axis=0)

    def _grid_output(self, tensor: str, grid: Grid) -> None:
        """Let every reader of a convolution's output read it from its grid."""
        if self.graph.is_output(tensor):
            return
        readers = self.graph.readers(tensor)
        after = self._pair(tensor, grid)
        for reader in readers:
            for i, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[i] = after

    def _broad_bias(self, node: onnx.NodeProto, layer: LayerPlan) -> None:
        """Store a following bias as (1, 1, N), rounded to the codes of its accumulator.

        With the shape (N,) onnxruntime's MatMulAddFusion makes a float Gemm of the pair and dequantises the weights at
        every run, which took four times as long as int8. The values are those of int32 codes, as TFLite holds them.
        """
        for reader in self.graph.readers(str(node.output[0])):
            for i, name in enumerate(reader.input):
                bias = self.graph.weight(str(name)) if reader.op_type == "Add" else None
                if bias is not None and bias.ndim == 1:
                    codes, scale = _bias_of(layer, bias.astype(np.float32))
                    rounded = (codes * scale.astype(np.float64)).astype(np.float32)
                    reader.input[i] = self.graph.constant(f"{layer.name}.bias.broad", rounded.reshape(1, 1, -1))

    def dynamic(self, node: onnx.NodeProto, layer: LayerPlan, weight: NDArray[np.float32]) -> None:
        """Compute a matrix product in int8 on a grid that is measured at each run; a bias stays float."""
        assert node.op_type in ("MatMul", "Gemm"), f"dynamic int8 is for linear layers, not {node.op_type}"
        tensor, out = str(node.input[0]), str(node.output[0])
        held = self.graph.constant(f"{layer.name}.weight.int8", layer.codes(weight).T)
        zero = self.graph.constant(f"{layer.name}.weight.zero_point", np.int8(0))
        steps = self.graph.constant(f"{layer.name}.weight.scale", np.array(layer.weight_scales, np.float32))
        self.graph.add("DynamicQuantizeLinear", [tensor], [f"{out}.xq", f"{out}.xs", f"{out}.xz"])
        self.graph.add("MatMulInteger", [f"{out}.xq", held, f"{out}.xz", zero], [f"{out}.acc"])
        self.graph.add("Cast", [f"{out}.acc"], [f"{out}.float"], to=onnx.TensorProto.FLOAT)
        self.graph.add("Mul", [f"{out}.xs", steps], [f"{out}.step"])
        has_bias = len(node.input) > 2
        self.graph.add("Mul", [f"{out}.float", f"{out}.step"], [f"{out}.product" if has_bias else out])
        if has_bias:
            self.graph.add("Add", [f"{out}.product", str(node.input[2])], [out])
        self.graph.replace(node)

    def embedding(self, node: onnx.NodeProto, layer: LayerPlan, table: NDArray[np.float32]) -> None:
        """Look int8 rows up, each with its own scale."""
        ids, out = str(node.input[1]), str(node.output[0])
        held = self.graph.constant(f"{layer.name}.weight.int8", layer.codes(table))
        steps = self.graph.constant(f"{layer.name}.weight.scale", layer.scales(table).reshape(-1, 1))
        self.graph.add("Gather", [held, ids], [f"{out}.codes"], axis=0)
        self.graph.add("Gather", [steps, ids], [f"{out}.step"], axis=0)
        self.graph.add("Cast", [f"{out}.codes"], [f"{out}.float"], to=onnx.TensorProto.FLOAT)
        self.graph.add("Mul", [f"{out}.float", f"{out}.step"], [out])
        self.graph.replace(node)


def _bias_of(layer: LayerPlan, bias: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    assert layer.input is not None
    scales = np.array(layer.weight_scales, np.float32)
    return bias_codes(bias, activation_scale=np.float32(layer.input.scale), weight_scale=scales)


def _output_axis(node: onnx.NodeProto) -> int:
    """Give the dimension of a weight that counts output channels."""
    if node.op_type == "MatMul":
        return 1
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return 0
