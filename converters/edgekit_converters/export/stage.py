"""Write the student, and the teacher as a yardstick, in the float formats."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit.pipeline import Artifacts, Kind
from edgekit_converters.export.contract import contract_of
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.saved import load_model, load_own_model
from edgekit_models.text_classifier import TextClassifier

__all__ = ["ONNX_FILE", "TFLITE_FILE", "ExportOnnx", "ExportTeacher", "ExportTflite"]

ONNX_FILE, TFLITE_FILE = "model.onnx", "model.tflite"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOnnx:
    """Write the student as float32 ONNX."""

    opset: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.STUDENT_PRUNED,)
    gives: ClassVar[Kind] = Kind.ONNX_FLOAT32

    def config(self) -> Mapping[str, object]:
        return {"opset": self.opset}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnx", "onnxscript")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx``."""
        from edgekit_converters.export.onnx import export_onnx

        folder = artifacts[Kind.STUDENT_PRUNED].path
        model = load_own_model(folder / "config.json", folder / "model.safetensors")
        path = into / ONNX_FILE
        export_onnx(model, contract_of(model.config), path, opset=self.opset)
        return f"{path.stat().st_size / 1e6:.2f} MB, opset {self.opset}"


@dataclass(frozen=True, slots=True)
class ExportTflite:
    """Write the student as float32 TFLite."""

    takes: ClassVar[tuple[Kind, ...]] = (Kind.STUDENT_PRUNED,)
    gives: ClassVar[Kind] = Kind.TFLITE_FLOAT32

    def config(self) -> Mapping[str, object]:
        return {}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "litert-torch", "litert-converter")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.tflite``."""
        from edgekit_converters.export.tflite import export_tflite

        folder = artifacts[Kind.STUDENT_PRUNED].path
        model = load_own_model(folder / "config.json", folder / "model.safetensors")
        path = into / TFLITE_FILE
        export_tflite(model, contract_of(model.config), path)
        return f"{path.stat().st_size / 1e6:.2f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTeacher:
    """Write the teacher as float32 ONNX, so that speed-ups are measured against it in the same engine."""

    opset: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.TEACHER,)
    gives: ClassVar[Kind] = Kind.TEACHER_ONNX

    def config(self) -> Mapping[str, object]:
        return {"opset": self.opset}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnx", "onnxscript")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx`` if the teacher is one of our own networks, else a note."""
        from edgekit_converters.export.onnx import export_onnx

        model = load_model(artifacts[Kind.TEACHER].path)
        if not isinstance(model, TextClassifier | ImageClassifier):
            note = "not exported: the teacher is a foreign module, so its CPU time is not compared"
            (into / "note.txt").write_text(note + "\n", encoding="utf-8")  # a stage must leave a file
            return note
        path = into / ONNX_FILE
        export_onnx(model, contract_of(model.config), path, opset=self.opset)
        return f"{path.stat().st_size / 1e6:.2f} MB"
