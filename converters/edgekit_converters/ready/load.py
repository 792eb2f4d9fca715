"""Reads a ready model from a file or folder: says what it is, and hands it to the importer of its format."""

from collections.abc import Mapping
from pathlib import Path

from edgekit_converters.ready.model import ReadyModel, ReadyOnnx, ReadyTflite
from edgekit_runtime.errors import ConversionError, MissingError

__all__ = ["load_ready"]


def load_ready(
    path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None = None
) -> ReadyModel | ReadyOnnx | ReadyTflite:
    """Import a model; the source is never written to.

    Args:
        path: ``.onnx``, ``.pt2``, ``.keras``, ``.tflite``, or a SavedModel folder.
        work: Scratch folder that exists; copies and conversions lie there and must outlive a ``ReadyTflite``.
        shape: Fixes open dimensions, by input name; without it the batch becomes 1 and any other is asked for.

    Raises:
        MissingError: There is no such file (E0660), or a package for its format is missing (E0661 to E0663).
        ConversionError: The model cannot be imported (E0780 to E0799).
    """
    del work, shape
    if not path.exists():
        raise MissingError("E0660", f"there is no model '{path}'", fix="check the path")
    raise ConversionError(
        "E0780",
        f"'{path.name}' is no model that can be imported",
        fix="give a .onnx, .pt2, .keras or .tflite file, or a SavedModel folder",
    )
