"""Remove structure from the student, then let it recover by distillation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import DistillSpec, PruneSpec, StudentSpec
from edgekit_converters.distill.lesson import read_lesson, training_of
from edgekit_converters.prune.image import prune_image
from edgekit_converters.prune.text import prune_text
from edgekit_converters.training import ImageRows, Precision, TextRows
from edgekit_models.saved import load_own_model, save_model
from edgekit_models.text_classifier import TextClassifier

__all__ = ["PruneStudent"]

# A pruned model is near its optimum: half the peak rate recovers it without unlearning.
_RECOVERY_RATE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStudent:
    """Prune by score, recover by the distillation loss."""

    student: StudentSpec
    how: PruneSpec
    distill: DistillSpec
    precision: Precision
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.TEACHER_OUTPUTS, Kind.STUDENT)
    gives: ClassVar[Kind] = Kind.STUDENT_PRUNED

    def config(self) -> Mapping[str, object]:
        return {
            "layers": list(self.student.layers),
            "prune": asdict(self.how),
            "distill": asdict(self.distill),
            "precision": self.precision,
        }

    def versions(self) -> tuple[str, ...]:
        return ("torch", "torch-pruning", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write the smaller student as a plain module."""
        folder = artifacts[Kind.STUDENT].path
        student = load_own_model(folder / "config.json", folder / "model.safetensors")
        lesson = read_lesson(artifacts)
        wanted = self.how.heads or self.how.ffn if isinstance(student, TextClassifier) else self.how.channels
        if not wanted:
            save_model(student, into)
            return "nothing to prune: the recipe's prune section keeps every size"
        if isinstance(student, TextClassifier):
            assert isinstance(lesson.rows, TextRows)
            note = prune_text(student, self.how, lesson.rows)
        else:
            assert isinstance(lesson.rows, ImageRows)
            student, note = prune_image(student, self.how, lesson.rows)
        if self.how.recover_epochs > 0:
            training = training_of(
                self.distill,
                epochs=self.how.recover_epochs,
                scale=_RECOVERY_RATE,
                seed=self.seed + 1,
                precision=self.precision,
            )
            lesson.teach(student, self.distill, layers=self.student.layers, training=training, stage="distill")
            note += f"; recovered for {self.how.recover_epochs:g} epochs"
        save_model(student, into)
        size = sum(p.numel() for p in student.parameters())
        return f"{note}; {size / 1e6:.2f} M parameters"
