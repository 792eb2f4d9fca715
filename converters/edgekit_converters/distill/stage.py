"""Make the student from its teacher and teach it."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import DistillSpec, StudentSpec
from edgekit_converters.distill.lesson import Lesson, read_lesson, training_of
from edgekit_converters.training import Precision, TextRows
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.saved import Classifier, save_model
from edgekit_models.students import check_student, text_student
from edgekit_models.text_classifier import TextClassifier

__all__ = ["DistilStudent"]

_SAMPLE_ROWS = 256  # rows that choose the channels of a narrower student


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilStudent:
    """Initialise a student and train it on the teacher's answers."""

    student: StudentSpec
    how: DistillSpec
    precision: Precision
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.TEACHER, Kind.TEACHER_OUTPUTS)
    gives: ClassVar[Kind] = Kind.STUDENT

    def config(self) -> Mapping[str, object]:
        return {"student": asdict(self.student), "distill": asdict(self.how), "precision": self.precision}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write the student."""
        lesson = read_lesson(artifacts)
        torch.manual_seed(self.seed)
        student = _initial(lesson, self.student)
        size = sum(p.numel() for p in student.parameters())
        note = f"{size / 1e6:.2f} M parameters, as initialised: distill.epochs is 0"
        if self.how.epochs > 0:
            training = training_of(
                self.how, epochs=self.how.epochs, scale=1.0, seed=self.seed, precision=self.precision
            )
            lesson.teach(student, self.how, layers=self.student.layers, training=training, stage="distill")
            note = f"{size / 1e6:.2f} M parameters, {self.how.epochs:g} epochs in {self.precision}"
        save_model(student, into)
        return note


def _initial(lesson: Lesson, spec: StudentSpec) -> Classifier:
    teacher = lesson.teacher
    check_student(teacher, spec)  # the teacher may come from the cache of a build with another student
    if isinstance(teacher, TextClassifier):
        order = _channels(lesson, teacher, spec.hidden) if spec.hidden else None
        return text_student(teacher, layers=spec.layers, hidden_order=order)
    if not spec.widths:
        assert isinstance(teacher, ImageClassifier)  # check_student
        return copy.deepcopy(teacher)
    images = lesson.rows.batch(torch.zeros(1, dtype=torch.int64).numpy()).inputs[0]
    _, channels, height, width = images.shape
    classes = lesson.logits.shape[1]
    return ImageClassifier(
        ImageConfig.from_widths(tuple(spec.widths), height=height, width=width, channels=channels, classes=classes)
    )


@torch.no_grad()
def _channels(lesson: Lesson, teacher: TextClassifier, hidden: int) -> torch.Tensor:
    """Give the channels of the residual stream that are largest on average, in their order."""
    assert isinstance(lesson.rows, TextRows)
    sample = torch.arange(min(_SAMPLE_ROWS, len(lesson.rows))).numpy()
    batch = lesson.rows.batch(sample)
    real = batch.inputs[1].bool()
    size = torch.stack([state[real].abs().mean(0) for state in teacher.hidden_states(*batch.inputs)]).mean(0)
    return size.topk(hidden).indices.sort().values
