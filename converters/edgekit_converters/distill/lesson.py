"""What a student learns from: rows, labels, the teacher's recorded logits and, for text, its hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import DistillSpec
from edgekit_converters.distill.losses import HiddenProjection, hidden_loss, soft_target_loss
from edgekit_converters.rows import training_rows
from edgekit_converters.training import Batch, Precision, Rows, Training, train
from edgekit_models.data.dataset import read_dataset
from edgekit_models.saved import Classifier, load_model
from edgekit_models.students import paired_layers
from edgekit_models.text_classifier import TextClassifier

__all__ = ["Lesson", "read_lesson", "training_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A data set with a teacher's answers.

    Attributes:
        rows: Preprocessed training rows.
        targets: Class of each row, int64 (N,).
        logits: The teacher's, float32 (N, classes).
        teacher: The teacher itself; its hidden states are computed batch by batch, because kept ones would fill the
            disk.
    """

    rows: Rows
    targets: Tensor
    logits: Tensor
    teacher: nn.Module

    def teach(
        self, student: Classifier, how: DistillSpec, *, layers: Sequence[int], training: Training, stage: str
    ) -> None:
        """Train ``student`` in place with ``ce_weight*CE + (1-ce_weight)*T^2*KL + hidden_weight*MSE(hidden)``.

        Args:
            student: What learns.
            how: Weights and temperature.
            layers: Teacher layers that a text student copied.
            training: Length and speed.
            stage: Named in errors.
        """
        teacher = self.teacher
        if not (isinstance(student, TextClassifier) and isinstance(teacher, TextClassifier)) or how.hidden_weight == 0:

            def plain(batch: Batch) -> Tensor:
                return self._logit_loss(student(*batch.inputs), batch, how)

            train([student], plain, self.rows, training, stage=stage)
            return
        pairs = paired_layers(layers, len(teacher.layers))
        torch.manual_seed(training.seed)  # the projection's first weights must not hang on what ran before
        projection = HiddenProjection(student.config.hidden, teacher.config.hidden)

        def with_hidden(batch: Batch) -> Tensor:
            ids, mask = batch.inputs
            with torch.no_grad():
                theirs = teacher.hidden_states(ids, mask)
            ours = student.hidden_states(ids, mask)
            hidden = hidden_loss([x.float() for x in ours], [theirs[i].float() for i in pairs], mask, projection)
            return self._logit_loss(student.classify(ours[-1], mask), batch, how) + how.hidden_weight * hidden

        train([student, projection], with_hidden, self.rows, training, stage=stage)

    def _logit_loss(self, logits: Tensor, batch: Batch, how: DistillSpec) -> Tensor:
        rows = torch.from_numpy(batch.rows)
        hard = functional.cross_entropy(logits.float(), self.targets[rows])
        soft = soft_target_loss(logits.float(), self.logits[rows], temperature=how.temperature)
        return how.ce_weight * hard + (1.0 - how.ce_weight) * soft


def read_lesson(artifacts: Artifacts) -> Lesson:
    """Gather what earlier stages wrote."""
    data = read_dataset(artifacts[Kind.DATA].path)
    folder = artifacts[Kind.TEACHER].path
    teacher = load_model(folder)
    logits = np.load(artifacts[Kind.TEACHER_OUTPUTS].path / "train.npy", allow_pickle=False)
    return Lesson(
        rows=training_rows(data.train.inputs, folder),
        targets=torch.from_numpy(data.train.targets),
        logits=torch.from_numpy(logits),
        teacher=teacher,
    )


def training_of(how: DistillSpec, *, epochs: float, scale: float, seed: int, precision: Precision) -> Training:
    """Give the length and speed of a distillation; ``scale`` multiplies the learning rate."""
    return Training(
        epochs=epochs,
        batch_size=how.batch_size,
        learning_rate=how.learning_rate * scale,
        seed=seed,
        precision=precision,
    )
