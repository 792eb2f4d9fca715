"""Writes coded weights into an ONNX file that decodes them with standard operators alone.

Linear codes become DequantizeLinear, which onnxruntime fuses with the product behind it. Codebooks and powers of two
become lookups in a table; the weights of a product are computed once, when onnxruntime loads the file.
"""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.lookup import PAIRS, Coded, Lookup, as_lookup, pack_nibbles
from edgekit_runtime.errors import ConversionError

__all__ = ["decode_onnx", "onnx_weights"]

_INT4_OPSET = 21  # first with int4 and block_size
_WEIGHT_PLACE = {"MatMul": 1, "Gemm": 1, "Gather": 0}


def onnx_weights(model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, str]:
    """Find the initializers of layers by their values.

    Args:
        model: Float model.
        weights: float32 (out, in) by any name; an embedding table is (rows, width).

    Returns:
        Initializer by that name; equal weights are taken in order.

    Raises:
        ConversionError: A weight is not in the model (E0759).
    """
    held: dict[bytes, list[str]] = {}
    for name, value in _matrices(model).items():
        held.setdefault(_key(value), []).append(name)
    found = {}
    for layer, weight in weights.items():
        names = held.get(_key(weight))
        if not names:
            raise ConversionError(
                "E0759", f"the weights of {layer} are not in the ONNX model", why="no values are equal"
            )
        found[layer] = names.pop(0)
    return found


def decode_onnx(model: onnx.ModelProto, weights: Mapping[str, Coded]) -> onnx.ModelProto:
    """Give a copy of the model that stores coded weights.

    Args:
        model: Float model; opset 21 for 4-bit linear codes, 13 for everything else.
        weights: Codes (out, in) by initializer; each is read by one MatMul, Gemm or Gather.

    Raises:
        ConversionError: The opset is too low (E0758); an initializer is absent, or of another shape or use (E0759); an
            embedding has a form that cannot be decoded row by row (E0760).
    """
    changed = copy.deepcopy(model)
    opset = next(entry.version for entry in changed.opset_import if entry.domain in {"", "ai.onnx"})
    held = {tensor.name: tensor for tensor in changed.graph.initializer}
    for name, coded in weights.items():
        node = _reader(changed.graph, name)
        shape = tuple(held[name].dims) if name in held else ()
        if shape != (coded.codes.shape[::-1] if _transposed(node) else coded.codes.shape):
            raise ConversionError("E0759", f"initializer {name} is {shape}, the codes are {coded.codes.shape}")
        if opset < _INT4_OPSET and isinstance(coded, BlockwiseInteger) and coded.bits == 4:
            raise ConversionError(
                "E0758", f"4-bit weights need opset 21, the model has {opset}", fix="export the model with opset 21"
            )
        part = _Part(name, node, changed.graph)
        if node.op_type == "Gather":
            part.decode_rows(as_lookup(coded))
        elif isinstance(coded, BlockwiseInteger):
            part.decode_linear(coded, transposed=_transposed(node))
        else:
            part.decode_table(as_lookup(coded), transposed=_transposed(node))
        changed.graph.initializer.remove(held[name])
        place = list(changed.graph.node).index(node)
        for offset, new in enumerate(part.nodes):
            changed.graph.node.insert(place + offset, new)
        if node.op_type == "Gather":
            changed.graph.node.remove(node)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _matrices(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Give the weights that can be coded as (out, in), in order of use."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        name = node.input[_WEIGHT_PLACE[node.op_type]] if node.op_type in _WEIGHT_PLACE else ""
        if name in held and held[name].data_type == TensorProto.FLOAT and len(held[name].dims) == 2:
            value = numpy_helper.to_array(held[name])
            found[name] = value.T if _transposed(node) else value
    return found


def _key(value: NDArray[np.float32]) -> bytes:
    return repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()


def _reader(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    readers = [node for node in graph.node if name in node.input]
    place = _WEIGHT_PLACE.get(readers[0].op_type, -1) if len(readers) == 1 else -1
    if place < 0 or readers[0].input[place] != name or _attribute(readers[0], "axis"):
        raise ConversionError(
            "E0759",
            f"initializer {name} is not the weight of one MatMul, Gemm or Gather",
            why=f"it is read by {', '.join(node.op_type for node in readers) or 'nothing'}",
        )
    return readers[0]


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return int(next((item.i for item in node.attribute if item.name == name), 0))


def _transposed(node: onnx.NodeProto) -> bool:
    """Whether the node holds its weight as (in, out)."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB"))


class _Part:
    """The nodes and constants that stand in for one weight; they carry its name and the reader's notes."""

    def __init__(self, name: str, reader: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._name, self._reader, self._graph = name, reader, graph

    def decode_linear(self, coded: BlockwiseInteger, *, transposed: bool) -> None:
        """DequantizeLinear in the layout of the reader; short scales are stored as float16."""
        codes, scales = (coded.codes.T, coded.scales.T) if transposed else (coded.codes, coded.scales)
        held = self._constant("codes", self._integers(np.ascontiguousarray(codes), coded.bits))
        if coded.per_channel:
            steps = self._constant("scales", numpy_helper.from_array(coded.scales[:, 0].copy()))
            self._add("DequantizeLinear", [held, steps], out="decoded", axis=1 if transposed else 0)
        else:
            steps = self._scales(scales)
            axis = 0 if transposed else 1
            self._add("DequantizeLinear", [held, steps], out="decoded", axis=axis, block_size=coded.block)
        self._replace("decoded")

    def decode_table(self, lookup: Lookup, *, transposed: bool) -> None:
        """Lookup of the whole matrix, group by group, then scales and the transpose that the reader wants."""
        groups = lookup.table.shape[0]
        codes = lookup.stored().reshape(groups, -1, 1)
        index = self._cast(self._constant("codes", numpy_helper.from_array(codes)), TensorProto.INT64)
        value = self._add("GatherND", [self._table(lookup), index], out="looked_up", batch_dims=1)
        value = self._reshape(value, list(lookup.codes.shape), out="matrix")
        if lookup.scales is not None:
            scales = self._constant("scales", numpy_helper.from_array(lookup.scales))
            value = self._add("Mul", [value, scales], out="scaled")
        if transposed:
            value = self._add("Transpose", [value], out="decoded", perm=[1, 0])
        self._replace(value.removeprefix(f"{self._name}."))

    def decode_rows(self, lookup: Lookup) -> None:
        """Lookup of the rows that Gather takes: the table of codes never becomes float.

        Raises:
            ConversionError: Rows have tables of their own, or blocks of unlike size (E0760).
        """
        if lookup.table.shape[0] > 1 or lookup.ragged:
            raise ConversionError(
                "E0760",
                f"embedding {self._name} has several tables or an incomplete last block",
                fix="use one codebook for the whole embedding, and a block that divides its width",
            )
        ids, rank = self._reader.input[1], self._ids_rank()
        held = self._constant("codes", numpy_helper.from_array(lookup.stored()))
        index = self._cast(self._add("Gather", [held, ids], out="rows"), TensorProto.INT32)
        table = numpy_helper.from_array(lookup.table[0][PAIRS] if lookup.packed else lookup.table[0])
        value = self._add("Gather", [self._constant("table", table), index], out="looked_up")
        if lookup.scales is not None:
            steps = self._add("Gather", [self._scales(lookup.scales), ids], out="row_scales")
            steps = self._reshape(steps, [0] * rank + [lookup.scales.shape[1], 1], out="row_steps")
            value = self._reshape(value, [0] * rank + [lookup.scales.shape[1], lookup.block], out="blocks")
            value = self._add("Mul", [value, steps], out="scaled")
        value = self._reshape(value, [0] * rank + [lookup.codes.shape[1]], out="matrix")
        self.nodes[-1].output[0] = self._reader.output[0]

    def _table(self, lookup: Lookup) -> str:
        """Table (groups, 16 or 256), as pairs (groups, 256, 2) if two codes share a byte."""
        table = self._constant("table", numpy_helper.from_array(lookup.table))
        if not lookup.packed:
            return table
        pairs = self._constant("pairs", numpy_helper.from_array(PAIRS))
        return self._add("Gather", [table, pairs], out="pair_table", axis=1)

    def _scales(self, scales: NDArray[np.float32]) -> str:
        short = scales.astype(np.float16)
        if not np.array_equal(short.astype(np.float32), scales):
            return self._constant("scales", numpy_helper.from_array(np.ascontiguousarray(scales)))
        return self._cast(self._constant("scales", numpy_helper.from_array(short)), TensorProto.FLOAT)

    def _integers(self, codes: NDArray[np.int8], bits: int) -> onnx.TensorProto:
        if bits == 8:
            return numpy_helper.from_array(codes)
        flat = codes.reshape(-1).view(np.uint8)
        even = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        return helper.make_tensor("", TensorProto.INT4, codes.shape, pack_nibbles(even).tobytes(), raw=True)

    def _ids_rank(self) -> int:
        values = [*self._graph.input, *self._graph.value_info]
        known = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
        name = self._reader.input[1]
        if name not in known:
            raise ConversionError("E0759", f"the rank of {name}, the ids of embedding {self._name}, is not known")
        return known[name]

    def _constant(self, role: str, tensor: onnx.TensorProto) -> str:
        name = f"{self._name}.{role}"
        tensor.name = name
        self._graph.initializer.append(tensor)
        return name

    def _cast(self, value: str, kind: int) -> str:
        role = value.removeprefix(f"{self._name}.")
        return self._add("Cast", [value], out=f"{role}_cast", to=kind)

    def _reshape(self, value: str, shape: list[int], *, out: str) -> str:
        target = self._constant(f"{out}_shape", numpy_helper.from_array(np.array(shape, np.int64)))
        return self._add("Reshape", [value, target], out=out)

    def _add(self, operator: str, inputs: list[str], *, out: str, **attributes: int | list[int]) -> str:
        name = f"{self._name}.{out}"
        node = helper.make_node(operator, inputs, [name], name=f"{self._name}.{operator}_{out}", **attributes)
        node.metadata_props.extend(self._reader.metadata_props)
        self.nodes.append(node)
        return name

    def _replace(self, role: str) -> None:
        self._reader.input[_WEIGHT_PLACE[self._reader.op_type]] = f"{self._name}.{role}"
