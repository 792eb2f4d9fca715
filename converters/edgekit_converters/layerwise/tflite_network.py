"""A TFLite file as a network whose parts run alone in LiteRT: operators are cut out of the flatbuffer."""

import copy
import mmap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.network import Array, Part, Step, TensorGrid, cut, refused
from edgekit_runtime.errors import ConversionError

__all__ = ["TfliteNetwork", "paired_steps"]

# Source: TFLite schema, TensorType.
_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
_LAYERS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


class TfliteNetwork:
    """The one subgraph of a TFLite file; a tensor is named ``index:name``.

    Args:
        source: The file, or its bytes. Parts run in XNNPACK, as the whole model does by default.
    """

    channels_last = True

    def __init__(self, source: bytes | Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._content = source if isinstance(source, bytes) else _mapped(source)
        self._model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(self._content, 0))
        if len(self._model.subgraphs) != 1:
            raise ConversionError(
                "E0725",
                f"the TFLite file has {len(self._model.subgraphs)} subgraphs",
                why="operators are compared one by one, and control flow hides some of them",
            )
        self._graph: Any = self._model.subgraphs[0]
        kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        codes = [kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in self._model.operatorCodes]
        self._names = tuple(f"{i}:{tensor.name.decode()}" for i, tensor in enumerate(self._graph.tensors))
        self.inputs = tuple(self._names[i] for i in self._graph.inputs)
        self.outputs = tuple(self._names[i] for i in self._graph.outputs)
        self.steps = tuple(self._step(operator, codes[operator.opcodeIndex]) for operator in self._graph.operators)

    def _step(self, operator: Any, kind: str) -> Step:  # noqa: ANN401 - a generated class
        inputs = [int(i) for i in operator.inputs if i >= 0]
        reads = dict.fromkeys(self._names[i] for i in inputs if self._data(i) is None)
        size = sum(len(data) for i in inputs if (data := self._data(i)) is not None)
        makes = tuple(self._names[i] for i in operator.outputs)
        return Step(kind=kind, reads=tuple(reads), makes=makes, constant_bytes=size)

    def _data(self, index: int) -> memoryview | None:
        """Give a constant's bytes, not copied; ai-edge-quantizer puts those of a large model behind the flatbuffer."""
        buffer = self._model.buffers[self._graph.tensors[index].buffer]
        if buffer.data is not None and len(buffer.data):
            return memoryview(buffer.data)
        if (buffer.offset or 0) > 1:
            return memoryview(self._content)[buffer.offset : buffer.offset + buffer.size]
        return None

    def _tensor(self, name: str) -> Any:  # noqa: ANN401 - a generated class
        return self._graph.tensors[int(name.partition(":")[0])]

    def size(self, tensor: str) -> int:
        held = self._tensor(tensor)
        return int(np.prod(_shape(held), dtype=np.int64)) * np.dtype(_DTYPES.get(held.type, "float32")).itemsize

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Give a tensor's shape."""
        return _shape(self._tensor(tensor))

    def grid(self, tensor: str) -> TensorGrid | None:
        held = self._tensor(tensor)
        kind = _DTYPES.get(held.type, "")
        if kind not in ("int8", "uint8", "int16") or held.quantization is None or held.quantization.scale is None:
            return None
        zeros = held.quantization.zeroPoint
        zero = int(zeros[0]) if zeros is not None and len(zeros) else 0
        return TensorGrid(scale=float(np.float32(held.quantization.scale[0])), zero_point=zero, dtype=kind)

    def read_grid(self, tensor: str) -> TensorGrid | None:
        return self.grid(tensor)

    def shown(self, tensor: str) -> str:
        return tensor

    def before(self, tensor: str) -> str:
        """Give the float tensor that is quantised into ``tensor``, or the tensor itself."""
        for step in self.steps:
            if step.kind == "QUANTIZE" and step.makes == (tensor,) and self.grid(step.reads[0]) is None:
                return step.reads[0]
        return tensor

    def after(self, tensor: str) -> list[str]:
        """Give the float copies of a tensor of codes."""
        return [step.makes[0] for step in self.steps if step.kind == "DEQUANTIZE" and step.reads == (tensor,)]

    def weights(self, inputs: Collection[str], output: str) -> NDArray[np.float32] | None:
        found = []
        for number in cut(self, [output], inputs).steps:
            operator = self._graph.operators[number]
            data = self._data(int(operator.inputs[1])) if self.steps[number].kind in _LAYERS else None
            held = self._graph.tensors[operator.inputs[1]] if data is not None else None
            if held is not None and held.type in _DTYPES:
                found.append(_decoded(held, data, self.steps[number].kind))
        return found[0] if len(found) == 1 else None

    def part_bytes(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        found = cut(self, outputs, list(inputs))
        if found.missing:
            raise ConversionError(
                "E0725", f"{outputs[0]} cannot be computed from {', '.join(inputs)}", why="other inputs"
            )
        operators = [copy.copy(self._graph.operators[number]) for number in found.steps]
        order: dict[int, int] = {}
        for name in inputs:
            order.setdefault(int(name.partition(":")[0]), len(order))
        for operator in operators:
            for index in (*operator.inputs, *operator.outputs):
                if index >= 0:
                    order.setdefault(int(index), len(order))
        buffers = [self._schema.BufferT()]
        tensors = [self._copied(index, buffers) for index in order]
        for operator in operators:
            operator.inputs = [order[int(i)] if i >= 0 else -1 for i in operator.inputs]
            operator.outputs = [order[int(i)] for i in operator.outputs]
        graph = copy.copy(self._graph)
        graph.tensors, graph.operators = tensors, operators
        graph.inputs = [order[int(name.partition(":")[0])] for name in inputs]
        graph.outputs = [order[int(name.partition(":")[0])] for name in outputs]
        model = copy.copy(self._model)
        model.subgraphs, model.buffers = [graph], buffers
        model.signatureDefs = model.metadata = model.metadataBuffer = None
        packed = _packed(model)
        if isinstance(self._content, mmap.mmap):
            self._content.madvise(mmap.MADV_DONTNEED)  # pages that were read count as ours; they come back when needed
        return packed

    def _copied(self, index: int, buffers: list[Any]) -> Any:  # noqa: ANN401 - a generated class
        tensor = copy.copy(self._graph.tensors[index])
        data = self._data(index)
        tensor.buffer = 0
        if data is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            tensor.buffer = len(buffers)
            buffers.append(buffer)
        return tensor

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Part:
        return _TflitePart(self.part_bytes(inputs, outputs), outputs)


class _TflitePart:
    """An interpreter over a part."""

    def __init__(self, model: bytes, outputs: Sequence[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._model, self._names = model, outputs  # the interpreter points into the bytes
        try:
            self._interpreter: Any = Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
        except Exception as error:
            raise refused(outputs, error) from error
        self._inputs = [row["index"] for row in self._interpreter.get_input_details()]
        self._outputs = [row["index"] for row in self._interpreter.get_output_details()]

    def run(self, values: Sequence[Array]) -> list[Array]:
        try:
            for index, value in zip(self._inputs, values, strict=True):
                self._interpreter.set_tensor(index, value)
            self._interpreter.invoke()
        except Exception as error:
            raise refused(self._names, error) from error
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def close(self) -> None:
        del self._interpreter


def paired_steps(reference: TfliteNetwork, lane: TfliteNetwork) -> dict[int, int]:
    """Give, for each operator of the float file, its number in the int8 file, which adds conversions and no more.

    Raises:
        ConversionError: The files hold other operators (E0726).
    """
    kept = [[i for i, step in enumerate(one.steps) if step.kind not in _CONVERSIONS] for one in (reference, lane)]
    kinds = [[one.steps[i].kind for i in places] for one, places in zip((reference, lane), kept, strict=True)]
    if kinds[0] != kinds[1]:
        place = next(
            (i for i, pair in enumerate(zip(*kinds, strict=False)) if pair[0] != pair[1]), min(map(len, kinds))
        )
        raise ConversionError(
            "E0726",
            "the int8 TFLite file holds other operators than the float one it should come from",
            why=f"they part at operator {place}",
            fix="build again, so that both files are of one build",
        )
    return dict(zip(*kept, strict=True))


def _mapped(path: Path) -> mmap.mmap:
    """Give a file's bytes without reading those that nobody asks for."""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _shape(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401 - a generated class
    return tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()


def _decoded(tensor: Any, data: memoryview | None, kind: str) -> NDArray[np.float32]:  # noqa: ANN401
    """Give weights in float as PyTorch holds them: (out, in) or (out, in / groups, height, width)."""
    assert data is not None
    values = np.frombuffer(data, _DTYPES[tensor.type]).reshape(_shape(tensor)).astype(np.float32)
    axis = values.ndim - 1 if kind == "DEPTHWISE_CONV_2D" else 0
    grid = tensor.quantization
    if tensor.type != 0 and grid is not None and grid.scale is not None:
        scales = np.asarray(grid.scale, np.float32)
        values = values * scales.reshape(
            [-1 if i == axis else 1 for i in range(values.ndim)] if len(scales) > 1 else []
        )
    if kind == "CONV_2D":
        return values.transpose(0, 3, 1, 2)
    return values.transpose(3, 0, 1, 2) if kind == "DEPTHWISE_CONV_2D" else values


def _packed(model: Any) -> bytes:  # noqa: ANN401 - a generated class
    import flatbuffers  # type: ignore[import-untyped]

    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + size // 64 + 4096)  # one that grows holds everything twice
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])
