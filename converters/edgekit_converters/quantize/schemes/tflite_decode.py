"""Writes coded weights into a TFLite file: as typed integers where LiteRT has kernels, else as a lookup by GATHER.

LiteRT computes nothing when it loads a file, so a lookup runs at every inference and the weights are never all float.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.lookup import PAIRS, Coded, Lookup, as_lookup, pack_nibbles
from edgekit_converters.quantize.schemes.tflite_edit import TfliteEdit
from edgekit_runtime.errors import ConversionError

__all__ = ["decode_tflite", "tflite_weights"]

_READERS = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")
# An interpreter from before these versions would run the file and answer nonsense. Source: TFLite op_version.cc.
_VERSIONS = {
    ("FULLY_CONNECTED", 8): 12,
    ("FULLY_CONNECTED", 4): 13,
    ("EMBEDDING_LOOKUP", 8): 4,
    ("EMBEDDING_LOOKUP", 4): 4,
}
_BLOCK_STEP = 32  # XNNPACK's blockwise kernels: blocks are multiples of 32 and divide the row


def tflite_weights(data: bytes, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, int]:
    """Find the weight tensors of layers by their values.

    Args:
        data: A float TFLite file.
        weights: float32 (out, in) by any name; an embedding table is (rows, width).

    Returns:
        Tensor number by that name; equal weights are taken in order.

    Raises:
        ConversionError: A weight is not in the file (E0759).
    """
    edit = TfliteEdit(data)
    held: dict[bytes, list[int]] = {}
    for name, operator in edit.operators():
        value = edit.values(int(operator.inputs[1])) if name in _READERS else None
        if value is not None:
            held.setdefault(_key(value), []).append(int(operator.inputs[1]))
    found = {}
    for layer, weight in weights.items():
        tensors = held.get(_key(weight))
        if not tensors:
            raise ConversionError(
                "E0759",
                f"the weights of {layer} are not in the TFLite file",
                why="no values are equal; the converter may have folded something into them",
            )
        found[layer] = tensors.pop(0)
    return found


def _key(value: NDArray[np.float32]) -> bytes:
    return repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()


def decode_tflite(
    data: bytes, weights: Mapping[int, Coded], *, activations: Literal["int8", "float"] = "int8"
) -> bytes:
    """Give a file that stores coded weights.

    Args:
        data: A float TFLite file.
        weights: Codes (out, in) by tensor number; each is read by one FULLY_CONNECTED or EMBEDDING_LOOKUP.
        activations: What linear codes meet in FULLY_CONNECTED; other codes always meet floats. ``int8``: the layer
            reads the integers and rounds its input to int8 at run time, which is fast. ``float``: the input stays as it
            is, and weights become float at every run, by DEQUANTIZE (one scale per channel) or by lookup (blocks).

    Raises:
        ConversionError: A tensor is absent, has another shape or another use (E0759), or LiteRT has no kernel for such
            blocks or tables (E0760).
    """
    edit = TfliteEdit(data)
    for tensor, coded in weights.items():
        kind, reader = edit.reader(tensor, _READERS)
        if edit.shape(tensor) != list(coded.codes.shape):
            raise ConversionError(
                "E0759", f"tensor {tensor} is {edit.shape(tensor)}, the codes are {coded.codes.shape}"
            )
        part = _Part(edit, edit.name(tensor))
        if isinstance(coded, BlockwiseInteger) and (kind == "EMBEDDING_LOOKUP" or activations == "int8"):
            _write_typed(edit, tensor, coded)
            edit.raise_version(kind, _VERSIONS[kind, coded.bits])
            continue
        if isinstance(coded, BlockwiseInteger) and coded.per_channel:
            _write_typed(edit, tensor, coded)
            part.read_instead(reader, tensor, part.dequantise(tensor, coded))
            continue
        if kind == "EMBEDDING_LOOKUP":
            part.decode_rows(as_lookup(coded), reader)
        else:
            part.read_instead(reader, tensor, part.decode_table(as_lookup(coded)))
        edit.drop(tensor)
    return edit.pack()


def _write_typed(edit: TfliteEdit, tensor: int, coded: BlockwiseInteger) -> None:
    """Integer tensor with scales, as ai-edge-quantizer writes it.

    Source:
        TFLite schema: QuantizationParameters, BlockwiseQuantization (scales are a float16 tensor).
    """
    width = coded.codes.shape[1]
    parameters = schema.QuantizationParametersT()
    parameters.quantizedDimension = 0
    if coded.per_channel:
        parameters.scale = coded.scales[:, 0]
        parameters.zeroPoint = np.zeros(coded.scales.shape[0], np.int64)
    elif coded.bits == 8 or coded.block % _BLOCK_STEP or width % coded.block:
        raise ConversionError(
            "E0760",
            f"LiteRT has no kernel for {coded.bits}-bit rows of {width} in blocks of {coded.block}",
            why="its blocks have 4 bits, are multiples of 32 and divide the row",
            fix="choose such a block, or one scale per channel",
        )
    else:
        details = schema.BlockwiseQuantizationT()
        details.scales = edit.constant(coded.scales.astype(np.float16), f"{edit.name(tensor)}_scales")
        details.zeroPoints, details.blockSize = -1, coded.block
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = details
    flat = coded.codes.reshape(-1).view(np.uint8)
    packed = flat if coded.bits == 8 else pack_nibbles(np.append(flat, np.zeros(flat.size % 2, np.uint8)))
    edit.quantised(tensor, packed, bits=coded.bits, quantisation=parameters)


class _Part:
    """The operators and constants that stand in for one weight."""

    def __init__(self, edit: TfliteEdit, name: str) -> None:
        self.operators: list[Any] = []
        self._edit, self._name = edit, name

    def read_instead(self, reader: Any, tensor: int, decoded: int) -> None:  # noqa: ANN401 - an object of the schema
        """Let the layer read the decoded weights, and put the decode in front of it."""
        reader.inputs = np.array([decoded if i == tensor else i for i in reader.inputs], np.int32)
        self._edit.insert(reader, self.operators)

    def dequantise(self, tensor: int, coded: BlockwiseInteger) -> int:
        """DEQUANTIZE of a typed tensor."""
        value = self._add("DEQUANTIZE", [tensor], list(coded.codes.shape), schema.DequantizeOptionsT())
        self._edit.raise_version("DEQUANTIZE", 6 if coded.bits == 4 else 5)
        return value

    def decode_table(self, lookup: Lookup) -> int:
        """Lookup of the whole matrix, group by group; gives the tensor with the float weights (out, in)."""
        groups, rows = lookup.table.shape[0], lookup.codes.shape[0]
        codes = lookup.stored().reshape(groups, -1)
        index = self._cast(self._constant(codes, "codes"), list(codes.shape))
        table = self._constant(lookup.table, "table")
        pair = [2] if lookup.packed else []
        if lookup.packed:
            pairs = self._constant(PAIRS, "pairs")
            table = self._gather(table, pairs, [groups, 256, 2], axis=1, batch=0)
        value = self._gather(table, index, [*codes.shape, *pair], axis=1, batch=1)
        if lookup.scales is None:
            return self._reshape(value, list(lookup.codes.shape))
        if lookup.ragged:
            raise ConversionError(
                "E0760", f"a row of {self._name} ends in an incomplete block", fix="use a block that divides the row"
            )
        blocks = lookup.scales.shape[1]
        value = self._reshape(value, [rows, blocks, lookup.block])
        scales = self._constant(lookup.scales[:, :, None], "scales")
        return self._reshape(self._mul(value, scales, [rows, blocks, lookup.block]), list(lookup.codes.shape))

    def decode_rows(self, lookup: Lookup, reader: Any) -> None:  # noqa: ANN401 - an object of the schema
        """Lookup of the rows that EMBEDDING_LOOKUP takes, in its place."""
        if lookup.table.shape[0] > 1 or lookup.ragged:
            raise ConversionError(
                "E0760",
                f"embedding {self._name} has several tables or an incomplete last block",
                fix="use one codebook for the whole embedding, and a block that divides its width",
            )
        ids, output = int(reader.inputs[0]), int(reader.outputs[0])
        count = self._edit.shape(ids)[0]
        codes = lookup.stored()
        rows = self._gather(
            self._constant(codes, "codes"), ids, [count, codes.shape[1]], axis=0, batch=0, dtype="uint8"
        )
        index = self._cast(rows, [count, codes.shape[1]])
        table = self._constant(lookup.table[0][PAIRS] if lookup.packed else lookup.table[0], "table")
        value = self._gather(table, index, [count, codes.shape[1], *([2] if lookup.packed else [])], axis=0, batch=0)
        if lookup.scales is not None:
            blocks = lookup.scales.shape[1]
            held = self._constant(lookup.scales, "scales")
            steps = self._reshape(self._gather(held, ids, [count, blocks], axis=0, batch=0), [count, blocks, 1])
            value = self._reshape(value, [count, blocks, lookup.block])
            value = self._mul(value, steps, [count, blocks, lookup.block])
        self._reshape(value, [count, lookup.codes.shape[1]])
        self.operators[-1].outputs = np.array([output], np.int32)
        self._edit.insert(reader, self.operators)
        self._edit.remove(reader)

    def _constant(self, values: NDArray[np.generic], role: str) -> int:
        return self._edit.constant(values, f"{self._name}_{role}")

    def _add(self, kind: str, inputs: list[int], shape: list[int], options: Any, dtype: str = "float32") -> int:  # noqa: ANN401
        output = self._edit.tensor(shape, dtype, f"{self._name}_{kind.lower()}_{len(self.operators)}")
        self.operators.append(self._edit.operator(kind, inputs, output, options))
        return output

    def _cast(self, value: int, shape: list[int]) -> int:
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = schema.TensorType.UINT8, schema.TensorType.INT32
        return self._add("CAST", [value], shape, options, "int32")

    def _gather(
        self, table: int, index: int, shape: list[int], *, axis: int, batch: int, dtype: str = "float32"
    ) -> int:
        options = schema.GatherOptionsT()
        options.axis, options.batchDims = axis, batch
        value = self._add("GATHER", [table, index], shape, options, dtype)
        self._edit.raise_version("GATHER", 5 if batch else 1)
        return value

    def _mul(self, left: int, right: int, shape: list[int]) -> int:
        return self._add("MUL", [left, right], shape, schema.MulOptionsT())

    def _reshape(self, value: int, shape: list[int]) -> int:
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        target = self._constant(np.array(shape, np.int32), f"shape_{len(self.operators)}")
        return self._add("RESHAPE", [value, target], shape, options)
