"""Reads a ready model from a file or folder: says what it is, and hands it to the importer of its format."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgekit_converters.ready.model import ReadyModel, ReadyOnnx, ReadyTflite
from edgekit_runtime.errors import ConversionError, MissingError

__all__ = ["load_ready", "model_kind"]


def load_ready(
    path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None = None
) -> ReadyModel | ReadyOnnx | ReadyTflite:
    """Import a model; the source is never written to.

    Args:
        path: ``.onnx``, ``.pt2``, ``.keras``, ``.tflite``, or a SavedModel folder; what is inside decides, not the
            suffix.
        work: Scratch folder that exists; copies and conversions lie there and must outlive a ``ReadyOnnx`` or
            ``ReadyTflite``.
        shape: Fixes open dimensions, by input name; without it the batch becomes 1 and any other is asked for.

    Raises:
        MissingError: There is no such file (E0660), or no TensorFlow (E0661).
        ConversionError: The model cannot be imported (E0780 to E0795).
    """
    if not path.exists():
        raise MissingError("E0660", f"there is no model '{path}'", fix="check the path")
    kind = model_kind(path)
    if kind == "onnx":
        from edgekit_converters.ready.from_onnx import load_onnx

        return load_onnx(path, work=work, shape=shape)
    if kind == "program":
        from edgekit_converters.ready.from_program import load_program

        return load_program(path, shape=shape)
    if kind is not None:
        from edgekit_converters.ready.from_tensorflow import load_keras, load_saved_model, load_tflite

        if kind == "tflite":
            return load_tflite(path, work=work)
        return (load_keras if kind == "keras" else load_saved_model)(path, work=work, shape=shape)
    raise ConversionError(
        "E0780",
        f"'{path.name}' is no model that can be imported",
        why="pickled checkpoints and HDF5 files can hold code" if path.suffix in (".pt", ".pth", ".bin", ".h5") else "",
        fix="give a .onnx, .pt2, .keras or .tflite file, or a SavedModel folder",
    )


def model_kind(path: Path) -> str | None:
    """Tell a model's format from its content; ONNX, which has no mark, also from its suffix.

    Returns:
        ``onnx``, ``program`` (.pt2), ``keras``, ``tflite``, ``saved model``; None for anything else.
    """
    if path.is_dir():
        return "saved model" if (path / "saved_model.pb").is_file() else None
    with path.open("rb") as stream:
        start = stream.read(8)
    if start[4:8] == b"TFL3":
        return "tflite"
    if start[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "config.json" in names:
            return "keras"
        return "program" if any(name.endswith("models/model.json") for name in names) else None
    return "onnx" if path.suffix == ".onnx" else None
