"""A small view of a TFLite file: its layers with weights, and which layer of PyTorch each of them is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import ConversionError

__all__ = ["TfliteGraph", "TfliteLayer"]

_LAYERS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP")
_DTYPES = {0: np.float32, 2: np.int32, 4: np.int64, 9: np.int8, 3: np.uint8}  # schema: TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteLayer:
    """One operator with weights; numbers are tensor indices, -1 = none.

    Attributes:
        operator: Its TFLite name.
        input: Activations, or ids of an embedding.
        weight: Constant weights.
        bias: Constant bias.
        output: Result, behind a fused activation.
    """

    operator: str
    input: int
    weight: int
    bias: int
    output: int


class TfliteGraph:
    """The first subgraph of a file."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._content = path.read_bytes()
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(self._content, 0))
        self._graph = self._model.subgraphs[0]
        self._names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

    def name(self, tensor: int) -> str:
        """Give a tensor's name."""
        return str(self._graph.tensors[tensor].name.decode())

    def rank(self, tensor: int) -> int:
        """Give a tensor's number of dimensions."""
        return len(self._graph.tensors[tensor].shape)

    def constant(self, tensor: int) -> NDArray[np.generic]:
        """Give the values of a constant tensor."""
        held = self._graph.tensors[tensor]
        data = self._bytes(tensor)
        assert data is not None
        return np.frombuffer(data, _DTYPES[held.type]).reshape(list(held.shape))

    def _bytes(self, tensor: int) -> bytes | None:
        """Give a constant's bytes; ai-edge-quantizer puts those of a large model behind the flatbuffer."""
        buffer = self._model.buffers[self._graph.tensors[tensor].buffer]
        if buffer.data is not None:
            return bytes(buffer.data)
        return self._content[buffer.offset : buffer.offset + buffer.size] if (buffer.offset or 0) > 1 else None

    def grid(self, tensor: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Give scales and zero points; empty for a float tensor."""
        held: Any = self._graph.tensors[tensor].quantization
        if held is None or held.scale is None:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        return np.array(held.scale, np.float32), np.array(held.zeroPoint, np.int64)

    def is_constant(self, tensor: int) -> bool:
        """Tell whether a tensor's values stand in the file."""
        return self._bytes(tensor) is not None

    def operators(self) -> Iterator[tuple[str, list[int], list[int]]]:
        """Give name, inputs and outputs of each operator in order of execution; -1 = none."""
        for operator in self._graph.operators:
            code = self._model.operatorCodes[operator.opcodeIndex]
            name = self._names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            yield name, [int(i) for i in operator.inputs], [int(i) for i in operator.outputs]

    def layers(self) -> Iterator[TfliteLayer]:
        """Give the operators with constant weights in order of execution."""
        for name, inputs, outputs in self.operators():
            if name not in _LAYERS or self._bytes(inputs[1]) is None:
                continue
            if self._graph.tensors[inputs[1]].type not in _DTYPES:  # 4 bits: ``tflite_schemes`` reads them
                continue
            bias = inputs[2] if len(inputs) > 2 else -1
            yield TfliteLayer(operator=name, input=inputs[0], weight=inputs[1], bias=bias, output=outputs[0])

    def channels_first(self, layer: TfliteLayer) -> NDArray[np.generic]:
        """Give a layer's weights as PyTorch holds them: (out, in) or (out, in / groups, height, width)."""
        weight = self.constant(layer.weight)
        if layer.operator == "CONV_2D":
            return weight.transpose(0, 3, 1, 2)
        return weight.transpose(3, 0, 1, 2) if layer.operator == "DEPTHWISE_CONV_2D" else weight

    def match(self, weights: Mapping[str, NDArray[np.generic]]) -> dict[str, list[TfliteLayer]]:
        """Find each layer's calls by the values of its weights (channels first); equal weights are taken in order.

        More calls than layers of the same weights belong to the last, as the steps of a recurrent network do.

        Raises:
            ConversionError: A layer is not there: the converter folded something into its weights (E0769).
        """
        waiting: dict[bytes, list[str]] = {}
        for name, weight in weights.items():
            waiting.setdefault(_key(weight), []).append(name)
        found: dict[str, list[TfliteLayer]] = {}
        for layer in self.layers():
            names = waiting.get(_key(self.channels_first(layer)))
            if names:
                found.setdefault(names[0], []).append(layer)
                del names[: len(names) > 1]
        lost = [name for name in weights if name not in found]
        if lost:
            raise ConversionError(
                "E0769",
                f"layers of the plan are not in the TFLite graph: {', '.join(lost[:3])}",
                why="the converter folded something into their weights",
                fix="run again with --debug and report the model",
            )
        return found


def _key(weight: NDArray[np.generic]) -> bytes:
    return repr(weight.shape).encode() + np.ascontiguousarray(weight).tobytes()
