"""Trains a model of the zoo and judges it, with the loop that edgekit's own stages use."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgekit_converters.training import Batch, ImageRows, Rows, TextRows, Training, predict, train
from zoo.rows import ZooData

__all__ = ["TrainSettings", "eval_accuracy", "eval_logits", "train_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows per step.
        learning_rate: Peak of AdamW.
        precision: Of the matrix products.
        frozen: First parts of the names of parameters that keep their weights.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    precision: Literal["float32", "bfloat16"] = "float32"
    frozen: tuple[str, ...] = ()


def train_model(model: nn.Module, data: ZooData, how: TrainSettings, *, seed: int) -> None:
    """Train in place with cross entropy; the model is in evaluation mode afterwards.

    Args:
        model: Untrained, or with weights of another task.
        data: Rows.
        how: Settings.
        seed: Of the order of the rows.

    Raises:
        ConversionError: The loss became NaN or infinite.
    """
    targets = torch.from_numpy(data.train_targets)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(how.frozen))

    def loss(batch: Batch) -> Tensor:
        return functional.cross_entropy(model(*batch.inputs).float(), targets[torch.from_numpy(batch.rows)])

    training = Training(
        epochs=how.epochs,
        batch_size=how.batch_size,
        learning_rate=how.learning_rate,
        seed=seed,
        precision=how.precision,
    )
    train([model], loss, _rows(data.train_inputs), training, stage="zoo")
    for parameter in model.parameters():
        parameter.requires_grad_()


def eval_logits(model: nn.Module, data: ZooData) -> NDArray[np.float32]:
    """Give the float logits of the eval rows in their order, float32 (N, classes); texts run without most padding."""
    return predict(model.eval(), _rows(data.eval_inputs), batch_size=100)


def eval_accuracy(model: nn.Module, data: ZooData) -> float:
    """Give the float accuracy on the eval rows, 0 to 1."""
    return data.accuracy(eval_logits(model, data))


def _rows(inputs: tuple[NDArray[np.generic], ...]) -> Rows:
    if len(inputs) == 1:
        return ImageRows(images=inputs[0].astype(np.float32))
    ids, mask = inputs
    lengths = mask.sum(1)
    return TextRows(ids=tuple(row[:length].astype(np.int64) for row, length in zip(ids, lengths, strict=True)))
