"""Imports Keras files and SavedModel folders through TensorFlow's converter, and TFLite files as they are."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit_converters.quiet import converting
from edgekit_converters.ready.model import ReadyTflite
from edgekit_converters.ready.onnx_file import digest_of
from edgekit_converters.ready.probe import TOLERANCE
from edgekit_converters.ready.tflite_file import read_contract
from edgekit_runtime.errors import ConversionError, MissingError

__all__ = ["PYTHON_VARIABLE", "load_keras", "load_saved_model", "load_tflite"]

PYTHON_VARIABLE = "EDGEKIT_TENSORFLOW_PYTHON"
_NO_ONNX = "TensorFlow converts to TFLite alone; for ONNX export the model with tf2onnx and import that file"
_TIMEOUT_S = 1800
# Operators that run Python, or read and write files, when the graph runs or is loaded.
_HARMFUL = (b"PyFunc", b"ReadFile", b"WriteFile", b"MatchingFiles")


def load_keras(path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None) -> ReadyTflite:
    """Import a ``.keras`` file; see ``load_ready``.

    Raises:
        ConversionError: It is no such file (E0783), has layers that carry code (E0791), cannot be converted (E0792), or
            its TFLite form answers otherwise (E0782).
        MissingError: There is no TensorFlow (E0661).
    """
    with converting("E0783", f"'{path.name}' cannot be read as a Keras file"), zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    for layer in _layers(config):
        _refuse_code(layer, path.name)
    return _through_tensorflow(path, work=work, shape=shape, digest=digest_of(path), kind="Keras")


def _layers(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from _layers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _layers(inner)


def _refuse_code(layer: Mapping[str, Any], title: str) -> None:
    name, module = str(layer["class_name"]), layer.get("module")
    known = module is None or str(module).split(".")[0] in ("keras", "builtins")
    if name in ("Lambda", "__lambda__", "function", "TorchModuleWrapper", "JaxLayer", "FlaxLayer") or not known:
        raise ConversionError(
            "E0791",
            f"'{title}' has a layer that carries code: {name}",
            why="a Lambda, a function or a foreign layer is Python code, and would run when the file is loaded",
            fix="replace it by layers of Keras, e.g. Rescaling or Activation, and save again",
        )


def load_saved_model(path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None) -> ReadyTflite:
    """Import a SavedModel folder; see ``load_keras``."""
    content = (path / "saved_model.pb").read_bytes()
    found = [name.decode() for name in _HARMFUL if name in content]
    if found:
        raise ConversionError(
            "E0791",
            f"'{path.name}' has operators that run code or touch files: {', '.join(found)}",
            fix="save the model without them",
        )
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = sha256(b"".join(f"{file.relative_to(path)}\0{digest_of(file)}\0".encode() for file in files)).hexdigest()
    return _through_tensorflow(path, work=work, shape=shape, digest=digest, kind="SavedModel")


def load_tflite(path: Path, *, work: Path) -> ReadyTflite:
    """Import a float32 ``.tflite`` file.

    Raises:
        ConversionError: It cannot be read (E0783), is quantised (E0784) or has inputs that cannot be taken (E0785).
    """
    digest, copy = digest_of(path), work / "source.tflite"
    shutil.copyfile(path, copy)
    return ReadyTflite(
        path=copy,
        contract=read_contract(copy, title=path.name),
        description=f"{path.name}: TFLite as it is",
        digest=digest,
        why_no_onnx="a TFLite file is where a conversion ends; give the model it was made from for an ONNX twin",
    )


def _python() -> str:
    """Give the interpreter that has TensorFlow.

    Raises:
        MissingError: There is none (E0661).
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    if find_spec("tensorflow") is not None:
        return sys.executable
    raise MissingError(
        "E0661",
        "TensorFlow is not installed, and a Keras or SavedModel source needs it",
        fix=f"pip install 'edgekit[tensorflow]', or name another interpreter that has it: "
        f"python -m venv tf && tf/bin/pip install tensorflow==2.21.0 && export {PYTHON_VARIABLE}=$PWD/tf/bin/python",
    )


def _through_tensorflow(
    path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None, digest: str, kind: str
) -> ReadyTflite:
    target = work / "source.tflite"
    worker = Path(__file__).with_name("tensorflow_worker.py")
    shapes = json.dumps({name: list(sizes) for name, sizes in (shape or {}).items()})
    command = [_python(), "-I", str(worker), str(path.resolve()), str(target), shapes]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        if said and said[-1].startswith("shape of input"):
            raise ConversionError(
                "E0786",
                f"{said[-1]} of '{path.name}'",
                why="a model for a device has fixed shapes and a batch of 1",
                fix="say it: load_ready(..., shape={'image': (1, 224, 224, 3)})",
            )
        raise ConversionError(
            "E0792",
            f"TensorFlow could not convert '{path.name}'",
            why="\n       ".join(said[-3:]) or f"it ended with {done.returncode}",
            fix="load and convert the model by hand to see where it stops",
        )
    report = json.loads(done.stdout.strip().splitlines()[-1])
    if not report["difference"] <= TOLERANCE:
        raise ConversionError(
            "E0782",
            f"the TFLite form of '{path.name}' does not answer as its source",
            why=f"outputs differ by {report['difference']:.2g} of their largest value; {TOLERANCE:g} is allowed",
            fix="report the model; its source was left as it is",
        )
    return ReadyTflite(
        path=target,
        contract=read_contract(target, title=path.name),
        description=f"{path.name}: {kind} through TensorFlow {report['tensorflow']}, within {report['difference']:.1g}",
        digest=digest,
        why_no_onnx=_NO_ONNX,
    )
