"""Which tensor of which file each PyTorch module of a bundle became, and what became of those that are no layers."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.kept import KEPT
from edgekit.layers import LANES, open_twin
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import MissingError

__all__ = ["Identities", "LayerIdentity", "Lost", "layer_identities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerIdentity:
    """One layer in all files; a format that the bundle does not have is None.

    Attributes:
        module: PyTorch module path.
        kind: ``linear``, ``conv`` or ``embedding``.
        onnx_float: Its output tensor in the float ONNX file.
        onnx_int8: In the int8 one.
        tflite_float: In the float TFLite file, ``index:name``.
        tflite_int8: In the int8 one.
    """

    module: str
    kind: str
    onnx_float: str | None
    onnx_int8: str | None
    tflite_float: str | None
    tflite_int8: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A module with weights that is no layer of the files.

    Attributes:
        module: PyTorch module path.
        reason: What became of it.
    """

    module: str
    reason: str


@dataclass(frozen=True, slots=True)
class Identities:
    """The whole table.

    Attributes:
        layers: In order of execution.
        lost: Modules of the student that are no layers.
    """

    layers: tuple[LayerIdentity, ...]
    lost: tuple[Lost, ...]


def layer_identities(path: Path, *, bundle: Bundle) -> Identities:
    """Find every layer of a bundle in all files that the build kept.

    Args:
        path: The ``.edge`` file, with the folder ``NAME.lanes`` beside it.
        bundle: The same, verified.

    Raises:
        MissingError: No format has its float network here (E0680).
        ConversionError: As of ``open_twin``.
    """
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for lane in LANES:
        try:
            units = open_twin(path, lane, bundle=bundle).twin.units
        except MissingError as error:
            missing = error
            continue
        layers = [unit for unit in units if unit.layer is not None]
        found[lane] = {unit.module: (unit.kind, unit.target.reference, unit.target.lane) for unit in layers}
    if not found:
        raise missing
    names = dict.fromkeys(name for table in found.values() for name in table)
    rows = tuple(_row(name, [found.get(lane, {}).get(name) for lane in LANES]) for name in names)
    return Identities(rows, tuple(_lost(path, [row.module for row in rows])))


def _row(module: str, tables: Sequence[tuple[str, str, str] | None]) -> LayerIdentity:
    onnx, tflite = tables
    return LayerIdentity(
        module=module,
        kind=next(table[0] for table in tables if table is not None),
        onnx_float=onnx[1] if onnx else None,
        onnx_int8=onnx[2] if onnx else None,
        tflite_float=tflite[1] if tflite else None,
        tflite_int8=tflite[2] if tflite else None,
    )


def _lost(path: Path, layers: Sequence[str]) -> Iterator[Lost]:
    """Say what became of the student's other modules with weights; a ready model names no modules."""
    weights = path.with_suffix(".lanes") / KEPT["torch"].folder / "model.safetensors"
    shapes = _shapes(weights) if weights.is_file() else {}
    for module in dict.fromkeys(name.rpartition(".")[0] or name for name in shapes):
        if any(layer == module or layer.startswith((f"{module}.", f"{module}#")) for layer in layers):
            continue
        if f"{module}.running_mean" in shapes:
            yield Lost(module, "a batch norm: folded into the convolution before it")
        elif len(shapes.get(f"{module}.weight", ())) == 1:
            yield Lost(module, "a norm: an operator between layers, never int8 by the plan")
        else:
            yield Lost(module, "read at fixed places only: a constant in the files")


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Give the shape of each tensor from the header of a safetensors file."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    return {name: tuple(row["shape"]) for name, row in header.items() if name != "__metadata__"}
