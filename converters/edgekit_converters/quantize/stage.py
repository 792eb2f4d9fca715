"""Turn the float models into static int8, calibrated on training rows."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.stage import ONNX_FILE, TFLITE_FILE
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.rows import feeds
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.errors import UsageError

__all__ = ["QuantizeOnnx", "QuantizeTflite", "calibration_rows"]


def calibration_rows(artifacts: Artifacts, *, count: int, seed: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Give ``count`` seeded random training rows as feeds; never an evaluation row.

    Raises:
        UsageError: ``count`` is below 1.
    """
    if count < 1:
        raise UsageError("E0133", "quantize.calibration_rows is 0", fix="give at least 1; 256 is a good number")
    data = read_dataset(artifacts[Kind.DATA].path)
    generator = np.random.default_rng([seed, zlib.crc32(b"calibration")])
    chosen = np.sort(generator.permutation(len(data.train))[:count])
    return feeds(data.train.take(chosen).inputs, artifacts[Kind.TEACHER].path)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOnnx:
    """Write int8 ONNX with our own Q/DQ placement."""

    task: Task
    how: QuantizeSpec
    activations: ActivationType
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.ONNX_FLOAT32)
    gives: ClassVar[Kind] = Kind.ONNX_INT8

    def config(self) -> Mapping[str, object]:
        return {"quantize": asdict(self.how), "activations": self.activations, "task": self.task.value}

    def versions(self) -> tuple[str, ...]:
        return ("onnx", "onnxruntime", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx``."""
        from edgekit_converters.quantize.onnx_static import OnnxStatic, calibrate_onnx, quantize_onnx

        source = artifacts[Kind.ONNX_FLOAT32].path / ONNX_FILE
        how = OnnxStatic(activations=self.activations, mode=layer_mode(self.task, self.how))
        rows = calibration_rows(artifacts, count=self.how.calibration_rows, seed=self.seed)
        ranges = calibrate_onnx(source, rows, how)
        counts = quantize_onnx(source, into / ONNX_FILE, ranges, how)
        named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        size = (into / ONNX_FILE).stat().st_size
        kind = "U8S8" if self.activations == "uint8" else "S8S8"
        return f"{size / 1e6:.2f} MB, {kind}; layers: {named}; {self.how.calibration_rows} calibration rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeTflite:
    """Write int8 TFLite through ai-edge-quantizer."""

    task: Task
    how: QuantizeSpec
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.TFLITE_FLOAT32)
    gives: ClassVar[Kind] = Kind.TFLITE_INT8

    def config(self) -> Mapping[str, object]:
        return {"quantize": asdict(self.how), "task": self.task.value}

    def versions(self) -> tuple[str, ...]:
        return ("ai-edge-quantizer", "ai-edge-litert", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.tflite``."""
        from edgekit_converters.quantize.tflite_static import image_rules, quantize_tflite, text_rules

        rules = image_rules()
        if self.task is Task.TEXT_CLASSIFICATION:
            embedding = Mode.STATIC if self.how.embedding == "int8" else Mode.FLOAT
            rules = text_rules(ffn_output=Mode(self.how.ffn_output), embedding=embedding)
        rows = calibration_rows(artifacts, count=self.how.calibration_rows, seed=self.seed)
        target = into / TFLITE_FILE
        quantize_tflite(artifacts[Kind.TFLITE_FLOAT32].path / TFLITE_FILE, target, rows, rules)
        return f"{target.stat().st_size / 1e6:.2f} MB; {self.how.calibration_rows} calibration rows"
