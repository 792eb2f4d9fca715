"""TFLite from an ONNX file that has no PyTorch form, through onnx2tf in an environment of its own.

onnx2tf pins its own numpy, onnx and tensorflow, and writes over the file it reads; so it gets an interpreter of its own
and a copy. ``python -m edgekit_converters.ready.onnx2tf`` makes the environment; nothing else ever does.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgekit_converters.ready.model import ReadyOnnx, ReadyTflite
from edgekit_converters.ready.onnx_file import digest_of, run_onnx
from edgekit_converters.ready.probe import TOLERANCE, difference
from edgekit_converters.ready.tflite_file import read_contract, run_tflite
from edgekit_runtime.errors import ConversionError, MissingError

__all__ = ["environment", "install", "tflite_from_onnx"]

_REQUIREMENTS = ("onnx2tf==1.29.24",)  # it pins the rest itself
_COMMAND = "python -m edgekit_converters.ready.onnx2tf"
_TIMEOUT_S = 3600


def environment() -> Path:
    """Give the folder of the environment: ``$EDGEKIT_ONNX2TF``, or ``onnx2tf`` in the cache folder."""
    named = os.environ.get("EDGEKIT_ONNX2TF")
    cache = Path(os.environ.get("EDGEKIT_CACHE") or Path.home() / ".cache" / "edgekit")
    return Path(named) if named else cache / "onnx2tf"


def install() -> None:
    """Make the environment; 2 GB, minutes. Run by the user alone."""
    folder = environment()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", *_REQUIREMENTS], check=True)


def tflite_from_onnx(source: ReadyOnnx, *, work: Path) -> ReadyTflite:
    """Convert to float32 TFLite; inputs keep their shapes.

    Args:
        source: From ``load_ready``; its file is not written to.
        work: Scratch folder; the result lies there.

    Raises:
        MissingError: The environment is not there (E0662).
        ConversionError: onnx2tf fails (E0795), wrote into the source (E0790), or its file answers otherwise (E0782).
    """
    program = environment() / "bin" / "onnx2tf"
    if not program.is_file():
        raise MissingError(
            "E0662",
            "onnx2tf is not installed, and this ONNX model can become TFLite only through it",
            why=source.why_no_tflite,
            fix=f"{_COMMAND} (makes {environment()}, about 2 GB; edgekit does not install it by itself)",
        )
    before = digest_of(source.path)
    copy, into = work / "onnx2tf.onnx", work / "onnx2tf"
    shutil.copyfile(source.path, copy)
    keep = [f"{spec.tensor}" for spec in source.contract.inputs]
    command = [str(program), "-i", str(copy), "-o", str(into), "-kat", *keep, "-n", "-coion"]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    quiet["PATH"] = f"{program.parent}{os.pathsep}{quiet.get('PATH', '')}"
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=work, timeout=_TIMEOUT_S, check=False)
    if digest_of(source.path) != before:
        raise ConversionError("E0790", "onnx2tf wrote into its source", fix="report the model")
    files = sorted(into.glob("*_float32.tflite"))
    if done.returncode != 0 or len(files) != 1:
        said = [line for line in f"{done.stdout}\n{done.stderr}".strip().splitlines() if line.strip()]
        raise ConversionError(
            "E0795",
            "onnx2tf could not convert the model",
            why="\n       ".join(said[-3:]) or f"it ended with {done.returncode}",
            fix="take the ONNX form alone, or export the model from PyTorch as .pt2",
        )
    worst = _difference(source, files[0])
    if not worst <= TOLERANCE:
        raise ConversionError(
            "E0782",
            "the TFLite form that onnx2tf gave does not answer as its source",
            why=f"outputs differ by {worst:.2g} of their largest value; {TOLERANCE:g} is allowed",
            fix="take the ONNX form alone, or export the model from PyTorch as .pt2",
        )
    return ReadyTflite(
        path=files[0],
        contract=read_contract(files[0], title=files[0].name),
        description=f"{source.description}; TFLite through onnx2tf, within {worst:.1g}",
        digest=source.digest,
        why_no_onnx="the ONNX form is quantised by itself: see ready.onnx_only",
    )


def _difference(source: ReadyOnnx, path: Path) -> float:
    """Compare both files on random inputs, matched by shape and type in their order."""
    session = onnxruntime.InferenceSession(source.path, providers=["CPUExecutionProvider"])
    contract = read_contract(path, title=path.name)
    if [spec.shape for spec in contract.inputs] != [spec.shape for spec in source.contract.inputs]:
        return float("inf")
    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(4):
        values = [
            generator.standard_normal(spec.shape).astype(np.float32)
            if spec.dtype == "float32"
            else generator.integers(0, 2, spec.shape).astype(np.int32)
            for spec in source.contract.inputs
        ]
        feeds = {spec.name: value for spec, value in zip(contract.inputs, values, strict=True)}
        (given,) = run_tflite(path, [feeds])
        wanted = run_onnx(session, values)
        worst = max(worst, difference(wanted, [given[spec.name] for spec in contract.outputs]))
    return worst


if __name__ == "__main__":
    install()
