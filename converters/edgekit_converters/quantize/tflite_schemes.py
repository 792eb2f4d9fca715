"""Writes a plan's coded weights into a TFLite file, and reads them back for the proof."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.lookup import Coded, read_lookup
from edgekit_converters.quantize.schemes.tflite_decode import decode_tflite, tflite_weights
from edgekit_converters.quantize.schemes.tflite_edit import TfliteEdit

__all__ = ["read_tflite_codes", "stamp_tflite"]

_CODES = "_codes"


def stamp_tflite(path: Path, plan: QuantPlan, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Replace every coded layer's weights in a file by their codes; int4 layers round their inputs at each run.

    Args:
        path: All other layers are written; coded ones are still float. Changed in place.
        plan: With its codes.
        weights: Float weights by layer, channels first.

    Raises:
        ConversionError: A layer is absent or LiteRT has no kernel for it (E0759, E0760).
    """
    coded = plan.codes()
    if not coded:
        return
    data = path.read_bytes()
    tensors = tflite_weights(data, {name: weights[name] for name in coded})
    path.write_bytes(decode_tflite(data, {tensors[name]: value for name, value in coded.items()}, activations="int8"))


def read_tflite_codes(path: Path) -> list[Coded]:
    """Give the coded weights of a file, whatever layers they belong to."""
    edit = TfliteEdit(path.read_bytes())
    found: list[Coded] = []
    for kind, operator in edit.operators():
        weight = int(operator.inputs[1]) if kind in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP") else -1
        scales = edit.int4_scales(weight) if weight >= 0 else None
        codes = edit.array(weight) if scales is not None else None
        if scales is not None and codes is not None:
            block = codes.shape[1] // scales.shape[1]
            found.append(BlockwiseInteger(codes=codes.astype(np.int8), scales=scales, block=block, bits=4))
    named = edit.constants()
    return found + [_lookup(edit, named, name.removesuffix(_CODES)) for name in named if name.endswith(_CODES)]


def _lookup(edit: TfliteEdit, named: Mapping[str, int], stem: str) -> Coded:
    parts = {role: edit.array(named[f"{stem}_{role}"]) if f"{stem}_{role}" in named else None
             for role in ("codes", "table", "scales", "pairs")}  # fmt: skip
    codes, table = parts["codes"], parts["table"]
    assert codes is not None
    assert table is not None
    shape = _matrix_shape(edit, named[f"{stem}{_CODES}"])
    return read_lookup(codes, table, parts["scales"], pairs=parts["pairs"], shape=shape)


def _matrix_shape(edit: TfliteEdit, codes: int) -> list[int] | None:
    """Give (out, in) of the product that reads the decoded codes; None for an embedding, which takes rows of them."""
    tensor = codes
    while True:
        kind, reader = next((kind, item) for kind, item in edit.operators() if tensor in list(item.inputs))
        if kind == "FULLY_CONNECTED":
            return edit.shape(tensor)
        if kind == "GATHER" and tensor == codes:
            return None
        tensor = int(reader.outputs[0])
