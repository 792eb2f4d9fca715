"""Static int8 for ONNX: our own Q/DQ placement, because onnxruntime's quantiser breaks transformers without a word.

It quantises the outputs of every matrix product (the feed-forward output has a channel 30 times larger than the rest),
quantises attention although told not to, lets the residual read the rounded copy, and gives a bias shape that makes the
runtime fall back to float. See docs/decisions/0002-own-qdq.md.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit_converters.quantize.grid import ActivationType, Range, bias_codes, bias_room, grid_of, weight_grid
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_graph import GraphEditor, module_path

__all__ = ["OnnxStatic", "calibrate_onnx", "quantize_onnx"]

Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxStatic:
    """What to do with a float graph.

    Attributes:
        activations: Type of quantised activations.
        mode: Mode of a layer by its PyTorch module path.
    """

    activations: ActivationType
    mode: Callable[[str], Mode]


def _layers(graph: GraphEditor) -> list[onnx.NodeProto]:
    """Give the nodes with constant weights that int8 kernels exist for."""
    found = []
    for node in graph.nodes:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            weight = graph.weight(node.input[1])
            if weight is not None and weight.ndim >= 2:
                found.append(node)
    return found


def _is_embedding(graph: GraphEditor, node: onnx.NodeProto) -> bool:
    table = graph.weight(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.dtype == np.float32 and table.ndim == 2


def _after(graph: GraphEditor, node: onnx.NodeProto) -> str:
    """Give the tensor where a convolution's grid point lies: behind its ReLU, which the kernel fuses."""
    tensor = str(node.output[0])
    readers = graph.readers(tensor)
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        return str(readers[0].output[0])
    return tensor


def calibrate_onnx(path: Path, rows: Iterable[Feeds], how: OnnxStatic) -> dict[str, Range]:
    """Measure the range of every tensor that static int8 puts on a grid; one row in memory at a time.

    Padding is left out where a row has an ``attention_mask``: tensors of shape (1, L, ...) are measured on real tokens.

    Args:
        path: Float32 model.
        rows: Feeds by input name.
        how: Which layers are static.

    Returns:
        Range by tensor name.
    """
    import onnxruntime

    graph = GraphEditor(onnx.load(path))
    wanted: list[str] = []
    for node in _layers(graph):
        if how.mode(module_path(node)) is Mode.STATIC:
            wanted.append(node.input[0])
            if node.op_type == "Conv":
                wanted.append(_after(graph, node))
    wanted = list(dict.fromkeys(wanted))
    inputs = {value.name for value in graph.graph.input}
    tapped = [name for name in wanted if name not in inputs]
    have = {value.name for value in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped if name not in have)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seen: dict[str, Range] = {}
    for feeds in rows:
        values = {name: feeds[name] for name in wanted if name in inputs}
        values |= dict(zip(tapped, session.run(tapped, dict(feeds)), strict=True))
        mask = feeds.get("attention_mask")
        for name, value in values.items():
            real = np.asarray(value, np.float32)
            if mask is not None and value.ndim >= 2 and value.shape[:2] == mask.shape:
                real = real[mask.astype(bool)]
            measured = Range.of(real, name=name)
            seen[name] = measured if name not in seen else seen[name].merge(measured)
    return seen


def quantize_onnx(source: Path, target: Path, ranges: Mapping[str, Range], how: OnnxStatic) -> dict[str, int]:
    """Write the int8 model.

    Static layers read a Q/DQ pair and hold int8 weights per output channel; matrix products give float, so that
    residual sums, layer norms and softmax stay float; convolutions give int8 behind their ReLU. Embeddings hold int8
    rows with one scale each.

    Args:
        source: Float32 model.
        target: Of the int8 model.
        ranges: From ``calibrate_onnx``.
        how: Modes and activation type.

    Returns:
        Number of layers by mode, and of embeddings.
    """
    graph = GraphEditor(onnx.load(source))
    writer = _Writer(graph, ranges, how.activations)
    counts = dict.fromkeys((*(mode.value for mode in Mode), "embedding"), 0)
    for node in _layers(graph):
        mode = how.mode(module_path(node))
        counts[mode.value] += 1
        if mode is Mode.STATIC:
            writer.static(node)
        elif mode is Mode.DYNAMIC:
            writer.dynamic(node)
    for node in graph.nodes:
        if _is_embedding(graph, node) and how.mode(module_path(node)) is not Mode.FLOAT:
            writer.embedding(node)
            counts["embedding"] += 1
    target.write_bytes(graph.finish().SerializeToString(deterministic=True))
    return counts


class _Writer:
    """Writes the int8 form of single layers into a graph."""

    def __init__(self, graph: GraphEditor, ranges: Mapping[str, Range], activations: ActivationType) -> None:
        self.graph, self.ranges, self.activations = graph, ranges, activations
        self.scales: dict[str, np.float32] = {}  # of the tensors that have a Q/DQ pair

    def _pair(self, tensor: str) -> str:
        """Give the tensor after Q and DQ; one pair serves all its readers."""
        after = f"{tensor}.dq"
        if tensor not in self.scales:
            scale, zero_point = grid_of(self.ranges[tensor], self.activations)
            dtype = np.uint8 if self.activations == "uint8" else np.int8
            step = self.graph.constant(f"{tensor}.scale", scale)
            zero = self.graph.constant(f"{tensor}.zero_point", dtype(zero_point))
            self.graph.add("QuantizeLinear", [tensor, step, zero], [f"{tensor}.q"])
            self.graph.add("DequantizeLinear", [f"{tensor}.q", step, zero], [after])
            self.scales[tensor] = scale
        return after

    def _weight(
        self, node: onnx.NodeProto, axis: int, least: NDArray[np.float32] | None
    ) -> tuple[str, NDArray[np.float32]]:
        weight = self.graph.weight(node.input[1])
        assert weight is not None
        codes, scale = weight_grid(weight.astype(np.float32), axis=axis, least=least)
        name = f"{node.output[0]}.weight"  # of the layer: the exporter lets layers share constants of equal value
        held = self.graph.constant(f"{name}.int8", codes)
        steps = self.graph.constant(f"{name}.scale", scale)
        zeros = self.graph.constant(f"{name}.zero_point", np.zeros(scale.shape, np.int8))
        self.graph.add("DequantizeLinear", [held, steps, zeros], [f"{name}.dq"], axis=axis)
        return f"{name}.dq", scale

    def static(self, node: onnx.NodeProto) -> None:
        """Put a layer's input and weight on their grids."""
        tensor = str(node.input[0])
        source = tensor.removesuffix(".dq")  # a convolution before may have put its output on a grid already
        node.input[0] = self._pair(source)
        axis = _output_axis(node)
        if node.op_type == "MatMul":
            node.input[1], _ = self._weight(node, axis, None)
            self._broad_bias(node)
            return
        bias = self.graph.weight(node.input[2]) if len(node.input) > 2 else None
        least = None if bias is None else bias_room(bias.astype(np.float32), activation_scale=self.scales[source])
        node.input[1], weight_scale = self._weight(node, axis, least)
        if bias is not None:
            self._bias(node, bias.astype(np.float32), self.scales[source], weight_scale)
        if node.op_type == "Conv":
            self._grid_output(_after(self.graph, node))

    def _bias(
        self,
        node: onnx.NodeProto,
        bias: NDArray[np.float32],
        activation_scale: np.float32,
        weight_scale: NDArray[np.float32],
    ) -> None:
        codes, scale = bias_codes(bias, activation_scale=activation_scale, weight_scale=weight_scale)
        name = f"{node.output[0]}.bias"
        held = self.graph.constant(f"{name}.int32", codes)
        steps = self.graph.constant(f"{name}.scale", scale)
        zeros = self.graph.constant(f"{name}.zero_point", np.zeros(scale.shape, np.int32))
        self.graph.add("DequantizeLinear", [held, steps, zeros], [f"{name}.dq"], axis=0)
        node.input[2] = f"{name}.dq"

    def _grid_output(self, tensor: str) -> None:
        """Let every reader of a convolution's output read it from its grid."""
        if self.graph.is_output(tensor):
            return
        readers = self.graph.readers(tensor)
        after = self._pair(tensor)
        for reader in readers:
            for i, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[i] = after

    def _broad_bias(self, node: onnx.NodeProto) -> None:
        """Store a following bias as (1, 1, N).

        With the shape (N,) onnxruntime's MatMulAddFusion makes a float Gemm of the pair and dequantises the weights at
        every run, which took four times as long as int8.
        """
        for reader in self.graph.readers(str(node.output[0])):
            for i, name in enumerate(reader.input):
                bias = self.graph.weight(str(name)) if reader.op_type == "Add" else None
                if bias is not None and bias.ndim == 1:
                    reader.input[i] = self.graph.constant(f"{name}.broad", bias.reshape(1, 1, -1))

    def dynamic(self, node: onnx.NodeProto) -> None:
        """Compute a matrix product in int8 on a grid that is measured at each run."""
        assert node.op_type == "MatMul", f"dynamic int8 is for linear layers, not {node.op_type}"
        tensor, name, out = str(node.input[0]), str(node.input[1]), str(node.output[0])
        weight = self.graph.weight(name)
        assert weight is not None
        codes, scale = weight_grid(weight.astype(np.float32), axis=1)
        held = self.graph.constant(f"{name}.int8", codes)
        zero = self.graph.constant(f"{name}.zero_point", np.int8(0))
        steps = self.graph.constant(f"{name}.scale", scale)
        self.graph.add("DynamicQuantizeLinear", [tensor], [f"{out}.xq", f"{out}.xs", f"{out}.xz"])
        self.graph.add("MatMulInteger", [f"{out}.xq", held, f"{out}.xz", zero], [f"{out}.acc"])
        self.graph.add("Cast", [f"{out}.acc"], [f"{out}.float"], to=onnx.TensorProto.FLOAT)
        self.graph.add("Mul", [f"{out}.xs", steps], [f"{out}.step"])
        self.graph.add("Mul", [f"{out}.float", f"{out}.step"], [out])
        self.graph.replace(node)

    def embedding(self, node: onnx.NodeProto) -> None:
        """Look int8 rows up, each with its own scale."""
        name, ids, out = str(node.input[0]), str(node.input[1]), str(node.output[0])
        table = self.graph.weight(name)
        assert table is not None
        codes, scale = weight_grid(table.astype(np.float32), axis=0)
        held = self.graph.constant(f"{name}.int8", codes)
        steps = self.graph.constant(f"{name}.scale", scale.reshape(-1, 1))
        self.graph.add("Gather", [held, ids], [f"{out}.codes"], axis=0)
        self.graph.add("Gather", [steps, ids], [f"{out}.step"], axis=0)
        self.graph.add("Cast", [f"{out}.codes"], [f"{out}.float"], to=onnx.TensorProto.FLOAT)
        self.graph.add("Mul", [f"{out}.float", f"{out}.step"], [out])
        self.graph.replace(node)


def _output_axis(node: onnx.NodeProto) -> int:
    """Give the dimension of a weight that counts output channels."""
    if node.op_type == "MatMul":
        return 1
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return 0
