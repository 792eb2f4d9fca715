"""The first stage with a model: load the teacher and fit it to the user's rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import AdaptSpec, ImageSpec, ModelSpec, Task
from edgekit_converters.rows import training_rows
from edgekit_converters.training import Batch, Precision, Training, train
from edgekit_models.data.dataset import read_dataset
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.preprocess import image_preprocess, text_preprocess, write_preprocess
from edgekit_models.saved import save_foreign_model, save_model
from edgekit_models.students import check_student
from edgekit_models.teacher_modules import Teacher, build_teacher, factory_digest
from edgekit_models.teachers import TeacherFiles
from edgekit_models.text_classifier import TextClassifier

__all__ = ["AdaptTeacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptTeacher:
    """Fine-tune the teacher with cross entropy on the training rows."""

    files: TeacherFiles
    model: ModelSpec
    image: ImageSpec | None
    how: AdaptSpec
    precision: Precision
    seed: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA,)
    gives: ClassVar[Kind] = Kind.TEACHER

    def config(self) -> Mapping[str, object]:
        made = ""
        if self.files.factory is not None:
            torch.manual_seed(self.seed)
            made = factory_digest(self.files, self.model.teacher.location)
        return {
            "teacher": self.files.digest,
            "made": made,
            "source": self.model.teacher.kind.value,
            "location": self.model.teacher.location,
            "max_length": self.model.student.max_length if self.model.task is Task.TEXT_CLASSIFICATION else 0,
            "image": asdict(self.image) if self.image else None,
            "adapt": asdict(self.how),
            "precision": self.precision,
        }

    def versions(self) -> tuple[str, ...]:
        return ("torch", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write the fitted teacher and its preprocessing."""
        data = read_dataset(artifacts[Kind.DATA].path)
        torch.manual_seed(self.seed)  # a fresh classifier is drawn when the teacher has none
        teacher = build_teacher(self.files, self.model, image=self.image, classes=len(data.labels))
        check_student(teacher.module, self.model.student)
        _save(teacher, self.image, into)  # what cannot be saved is found now and not after the training
        if self.image is not None:
            write_preprocess(image_preprocess(self.image), into)
        else:
            write_preprocess(text_preprocess(self.model.student.max_length), into, tokenizer=teacher.tokenizer)
        model = teacher.module
        note = "taken as it is: adapt.epochs is 0"
        if self.how.epochs > 0:
            rows = training_rows(data.train.inputs, into)
            targets = torch.from_numpy(data.train.targets)
            frozen = _freeze(model, self.how.frozen_layers)

            def loss(batch: Batch) -> Tensor:
                return functional.cross_entropy(model(*batch.inputs).float(), targets[torch.from_numpy(batch.rows)])

            how = Training(
                epochs=self.how.epochs,
                batch_size=self.how.batch_size,
                learning_rate=self.how.learning_rate,
                seed=self.seed,
                precision=self.precision,
            )
            train([model], loss, rows, how, stage="adapt")
            for parameter in model.parameters():
                parameter.requires_grad_()
            note = f"fine-tuned for {self.how.epochs:g} epochs on {len(rows):,} rows in {self.precision}{frozen}"
        _save(teacher, self.image, into)
        return note


def _freeze(model: nn.Module, layers: int) -> str:
    """Keep embeddings and the first ``layers`` encoder layers of a text model as they are."""
    if not isinstance(model, TextClassifier):
        return ""
    parts: list[nn.Module] = [model.words, *([model.embedding_norm] if layers else []), *model.layers[:layers]]
    model.positions.requires_grad = False
    for part in parts:
        part.requires_grad_(requires_grad=False)
    return f"; embeddings and {layers} of {len(model.layers)} layers kept" if layers else "; embeddings kept"


def _save(teacher: Teacher, image: ImageSpec | None, folder: Path) -> None:
    model = teacher.module
    if isinstance(model, TextClassifier | ImageClassifier):
        save_model(model, folder)
        return
    assert image is not None  # build_teacher gives foreign modules for images only
    example = np.zeros((2, image.channels, image.height, image.width), np.float32)
    save_foreign_model(model, (torch.from_numpy(example),), folder)
