"""An ONNX file as a network whose parts run alone in ONNX Runtime; needs neither PyTorch nor the whole file in RAM."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from edgekit_converters.layerwise.network import Array, Part, Step, TensorGrid, cut, refused
from edgekit_runtime.engines.onnxruntime import adds_in_16_bits
from edgekit_runtime.errors import ConversionError

__all__ = ["OnnxNetwork"]

_LARGE = 1024  # bytes of a constant whose values do not matter for shapes
_LAYERS = ("MatMul", "Gemm", "Conv")


class OnnxNetwork:
    """One ONNX file.

    Args:
        source: Its bytes, or its path; constants in files beside it are read when a part needs them.
    """

    channels_last = False

    def __init__(self, source: bytes | Path) -> None:
        self._folder = source.parent if isinstance(source, Path) else None
        if isinstance(source, Path):
            self._model = onnx.load(source, load_external_data=False)
        else:
            self._model = onnx.load_from_string(source)
        graph = self._model.graph
        self._nodes = list(graph.node)
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(str(name), []).append(node)
        self._makers = {str(name): node for node in self._nodes for name in node.output}
        self.inputs = tuple(str(value.name) for value in graph.input)
        self.outputs = tuple(str(value.name) for value in graph.output)
        self.steps = tuple(self._step(node) for node in self._nodes)

    def _step(self, node: onnx.NodeProto) -> Step:
        reads = tuple(dict.fromkeys(str(name) for name in node.input if name and name not in self._held))
        size = sum(_bytes_of(self._held[name]) for name in node.input if name in self._held)
        return Step(kind=node.op_type, reads=reads, makes=tuple(map(str, node.output)), constant_bytes=size)

    @cached_property
    def _types(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Give element type and shape of every tensor, from a copy without its large constants."""
        graph = self._model.graph
        small = [tensor for tensor in graph.initializer if _bytes_of(tensor) <= _LARGE]
        large = [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in graph.initializer
            if _bytes_of(tensor) > _LARGE
        ]
        bare = helper.make_graph(self._nodes, "bare", [*graph.input, *large], list(graph.output), small)
        model = helper.make_model(bare, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        known = onnx.shape_inference.infer_shapes(model).graph
        found = {}
        for value in (*known.input, *known.value_info, *known.output):
            kind = value.type.tensor_type
            found[str(value.name)] = (int(kind.elem_type), tuple(int(size.dim_value) for size in kind.shape.dim))
        return found

    def size(self, tensor: str) -> int:
        kind, shape = self._types.get(tensor, (TensorProto.FLOAT, ()))
        return int(np.prod(shape, dtype=np.int64)) * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)

    def constant(self, name: str) -> Array | None:
        """Give a constant's values; None for a computed tensor."""
        held = self._held.get(name)
        return None if held is None else numpy_helper.to_array(self._whole(held))

    def _whole(self, tensor: TensorProto) -> TensorProto:
        """Give a constant with its values, read from the file beside the model if they are there."""
        if not external_data_helper.uses_external_data(tensor):
            return tensor
        if self._folder is None:
            raise ConversionError(
                "E0725", f"constant {tensor.name} is not in the file", fix="give the file by its path"
            )
        full = TensorProto()
        full.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(full, str(self._folder))
        full.data_location = TensorProto.DEFAULT
        del full.external_data[:]
        return full

    def _point(self, node: onnx.NodeProto) -> TensorGrid | None:
        scale = self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale is None or zero is None or scale.size != 1:
            return None
        return TensorGrid(scale=float(scale.item()), zero_point=int(zero.item()), dtype=zero.dtype.name)

    def grid(self, tensor: str) -> TensorGrid | None:
        maker = self._makers.get(tensor)
        if maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._point(maker) if maker.op_type == "QuantizeLinear" else None
        return None

    def read_grid(self, tensor: str) -> TensorGrid | None:
        for node in self._readers.get(tensor, ()):
            if node.op_type == "QuantizeLinear":
                return self._point(node)
        return None

    def shown(self, tensor: str) -> str:
        """Give the codes where nothing reads the floats: ONNX Runtime then fuses the layer with its grid."""
        readers = self._readers.get(tensor, [])
        if tensor in self.outputs or not readers or any(node.op_type != "QuantizeLinear" for node in readers):
            return tensor
        return str(readers[0].output[0])

    def weights(self, inputs: Collection[str], output: str) -> NDArray[np.float32] | None:
        found = [
            held
            for number in cut(self, [output], inputs).steps
            if (held := self._weights_of(self._nodes[number])) is not None
        ]
        return found[0] if len(found) == 1 else None

    def _weights_of(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        if node.op_type == "MatMulInteger":
            codes = self.constant(node.input[1])
            scale = self.constant(f"{str(node.input[1]).removesuffix('.int8')}.scale")
            if codes is None or scale is None:
                return None
            return np.asarray(codes.astype(np.float32) * scale.astype(np.float32)).T
        if node.op_type not in _LAYERS:
            return None
        value = self.constant(node.input[1])
        if value is None:
            maker = self._makers.get(str(node.input[1]))
            value = None if maker is None or maker.op_type != "DequantizeLinear" else self._decoded(maker)
        if value is None or value.ndim < 2:
            return None
        by_inputs = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute)
        )
        held = value.astype(np.float32)
        return held.T if by_inputs else held

    def _decoded(self, node: onnx.NodeProto) -> Array | None:
        codes, scale = self.constant(node.input[0]), self.constant(node.input[1])
        if codes is None or scale is None or scale.ndim > 1:
            return None
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        shape = [-1 if place == axis % codes.ndim else 1 for place in range(codes.ndim)] if scale.ndim else []
        found: Array = codes.astype(np.float32) * scale.astype(np.float32).reshape(shape)
        return found

    def part_bytes(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        found = cut(self, outputs, list(inputs))
        if found.missing:
            raise ConversionError(
                "E0725", f"{outputs[0]} cannot be computed from {', '.join(inputs)}", why="other inputs"
            )
        nodes = [self._nodes[number] for number in found.steps]
        used = dict.fromkeys(str(name) for node in nodes for name in node.input)
        graph = helper.make_graph(
            nodes,
            "part",
            [self._value(name) for name in inputs],
            [self._value(name) for name in outputs],
            [self._whole(self._held[name]) for name in used if name in self._held],
        )
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        del graph  # a copy of all constants
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _value(self, name: str) -> onnx.ValueInfoProto:
        kind, shape = self._types[name]
        return helper.make_tensor_value_info(name, kind, shape)

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Part:
        return _OnnxPart(self.part_bytes(inputs, outputs), inputs, outputs)


class _OnnxPart:
    """A session over a part."""

    def __init__(self, model: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # what a row took is given back
        if adds_in_16_bits():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise refused(outputs, error) from error
        self._inputs, self._outputs = list(inputs), list(outputs)

    def run(self, values: Sequence[Array]) -> list[Array]:
        try:
            found: list[Array] = self._session.run(self._outputs, dict(zip(self._inputs, values, strict=True)))
        except Exception as error:
            raise refused(self._outputs, error) from error
        return found

    def close(self) -> None:
        del self._session


def _bytes_of(tensor: TensorProto) -> int:
    count = int(np.prod(tensor.dims, dtype=np.int64))
    return max(1, count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize))
