"""The teacher's answers on all rows, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit.pipeline import Artifacts, Kind
from edgekit_converters.rows import training_rows
from edgekit_converters.training import Precision, keep_freed_memory, mixed_precision, predict
from edgekit_models.data.dataset import Rows, read_dataset
from edgekit_models.saved import load_model
from edgekit_runtime.errors import QualityError

__all__ = ["RecordTeacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTeacher:
    """Write the teacher's logits: on training rows in the training precision, on evaluation rows in float32."""

    precision: Precision

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER)
    gives: ClassVar[Kind] = Kind.TEACHER_OUTPUTS

    def config(self) -> Mapping[str, object]:
        return {"precision": self.precision}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``train.npy`` and ``eval.npy``, float32 (N, classes).

        Raises:
            QualityError: The teacher gives NaN, so nothing can be learned from it.
        """
        keep_freed_memory()
        data = read_dataset(artifacts[Kind.DATA].path)
        folder = artifacts[Kind.TEACHER].path
        teacher = load_model(folder)
        accuracies = []
        parts: tuple[tuple[str, Rows, Precision], ...] = (
            ("train", data.train, self.precision),
            ("eval", data.evaluation, "float32"),
        )
        for name, part, precision in parts:
            with mixed_precision(precision):
                logits = predict(teacher, training_rows(part.inputs, folder))
            if not np.isfinite(logits).all():
                raise QualityError(
                    "E0310",
                    f"the teacher gives NaN or infinity on the {name} rows",
                    fix="lower adapt.learning_rate, or check the teacher's weights",
                )
            np.save(into / f"{name}.npy", logits, allow_pickle=False)
            accuracies.append(float((logits.argmax(1) == part.targets).mean()))
        return f"teacher accuracy {accuracies[1]:.4f} on {len(data.evaluation):,} eval rows ({accuracies[0]:.4f} train)"
