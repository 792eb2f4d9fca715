"""Adds constants and operators to the first subgraph of a TFLite file."""

from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.lookup import unpack_nibbles
from edgekit_runtime.errors import ConversionError

__all__ = ["TfliteEdit"]

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
}
_OLDEST_NAMED = 127  # operators from here on are not in the old one-byte field
_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


class TfliteEdit:
    """A file's first subgraph as objects."""

    def __init__(self, data: bytes) -> None:
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        self._graph = self._model.subgraphs[0]
        for buffer in self._model.buffers:  # ai-edge-quantizer puts those of a large model behind the flatbuffer
            if buffer.data is None and (buffer.offset or 0) > 1:
                buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        self._graph.operators = list(self._graph.operators)

    def pack(self) -> bytes:
        """Give the file."""
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def operators(self) -> Iterator[tuple[str, Any]]:
        """Give name and object of each operator in order of execution."""
        for operator in self._graph.operators:
            code = self._model.operatorCodes[operator.opcodeIndex]
            yield _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)], operator

    def reader(self, tensor: int, kinds: Sequence[str]) -> tuple[str, Any]:
        """Give name and object of the one operator that reads a constant as its weight, which is its second input.

        Raises:
            ConversionError: There is no such operator (E0759).
        """
        readers = [(name, item) for name, item in self.operators() if tensor in list(item.inputs)]
        if len(readers) != 1 or readers[0][0] not in kinds or int(readers[0][1].inputs[1]) != tensor:
            raise ConversionError(
                "E0759",
                f"tensor {tensor} is not the weight of one {' or '.join(kinds)}",
                why=f"it is read by {', '.join(name for name, _ in readers) or 'nothing'}",
            )
        return readers[0]

    def values(self, tensor: int) -> NDArray[np.float32] | None:
        """Give the values of a float32 constant, None if the tensor is none."""
        held = self._graph.tensors[tensor]
        data = self._model.buffers[held.buffer].data
        if data is None or held.type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(self.shape(tensor))

    def put(self, tensor: int, values: NDArray[np.float32]) -> None:
        """Give a float32 constant other values of the same shape."""
        assert values.shape == tuple(self.shape(tensor))
        buffer = schema.BufferT()  # a new one: the old may serve several tensors
        buffer.data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)
        self._graph.tensors[tensor].buffer = len(self._model.buffers)
        self._model.buffers.append(buffer)

    def array(self, tensor: int) -> NDArray[np.generic] | None:
        """Give the values of a constant of any type that this class writes, int4 as int8; None if it is computed."""
        held = self._graph.tensors[tensor]
        data = self._model.buffers[held.buffer].data
        if data is None:
            return None
        raw, shape = np.frombuffer(bytes(data), np.uint8), self.shape(tensor)
        if held.type == schema.TensorType.INT4:
            codes = unpack_nibbles(raw)[: int(np.prod(shape))].astype(np.int8)
            return np.where(codes > 7, codes - 16, codes).astype(np.int8).reshape(shape)
        kind = next(name for name, value in _TYPES.items() if value == held.type)
        return raw.view(np.dtype(kind)).reshape(shape)

    def int4_scales(self, tensor: int) -> NDArray[np.float32] | None:
        """Give the scales (out, blocks) of an int4 weight, None for any other tensor."""
        held = self._graph.tensors[tensor]
        if held.type != schema.TensorType.INT4:
            return None
        if held.quantization.details is None:
            return np.array(held.quantization.scale, np.float32)[:, None]
        scales = self.array(held.quantization.details.scales)
        assert scales is not None
        return scales.astype(np.float32)

    def constants(self) -> dict[str, int]:
        """Give the numbers of all constants by name."""
        tensors = enumerate(self._graph.tensors)
        return {self.name(i): i for i, held in tensors if self._model.buffers[held.buffer].data is not None}

    def shape(self, tensor: int) -> list[int]:
        """Give a tensor's shape."""
        return [int(size) for size in self._graph.tensors[tensor].shape]

    def name(self, tensor: int) -> str:
        """Give a tensor's name."""
        return str(self._graph.tensors[tensor].name.decode())

    def constant(self, values: NDArray[np.generic], name: str) -> int:
        """Add a constant."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        place = self.tensor(list(values.shape), str(values.dtype), name)
        self._graph.tensors[place].buffer = len(self._model.buffers) - 1
        return place

    def tensor(self, shape: Sequence[int], dtype: str, name: str) -> int:
        """Add a tensor that an operator fills."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = np.array(shape, np.int32), _TYPES[dtype], name.encode()
        tensor.buffer = 0
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def quantised(self, tensor: int, packed: NDArray[np.uint8], *, bits: int, quantisation: Any) -> None:  # noqa: ANN401
        """Turn a float constant into integers with scales."""
        held = self._graph.tensors[tensor]
        held.type = schema.TensorType.INT4 if bits == 4 else schema.TensorType.INT8
        held.quantization = quantisation
        self._model.buffers[held.buffer].data = packed.reshape(-1)

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: Any = None) -> Any:  # noqa: ANN401
        """Make an operator; ``insert`` puts it into the graph."""
        made = schema.OperatorT()
        made.opcodeIndex = self._code(getattr(schema.BuiltinOperator, kind))
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return made

    def insert(self, before: Any, operators: Sequence[Any]) -> None:  # noqa: ANN401 - objects of the schema
        """Put operators in front of another."""
        place = next(i for i, item in enumerate(self._graph.operators) if item is before)
        self._graph.operators[place:place] = operators

    def remove(self, operator: Any) -> None:  # noqa: ANN401 - an object of the schema
        """Take an operator out."""
        self._graph.operators = [item for item in self._graph.operators if item is not operator]

    def drop(self, tensor: int) -> None:
        """Empty the buffer of a constant that nothing reads any more; its number stays taken."""
        held = self._graph.tensors[tensor]
        self._model.buffers[held.buffer].data = None
        held.buffer, held.shape = 0, np.array([0], np.int32)

    def raise_version(self, kind: str, version: int) -> None:
        """Let an interpreter that does not know this version of an operator refuse the file."""
        code = self._model.operatorCodes[self._code(getattr(schema.BuiltinOperator, kind))]
        code.version = max(code.version, version)

    def _code(self, builtin: int) -> int:
        for place, code in enumerate(self._model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return place
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, _OLDEST_NAMED), 1
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1
