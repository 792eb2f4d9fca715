"""The form in which the zoo's models get their rows."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ZooData"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooData:
    """Rows to train on and rows to judge by, as the exported model takes them.

    Attributes:
        train_inputs: One array per input of the model, each with N first: token ids and attention mask, int32 (N, L);
            or images or series, float32 (N, ...).
        train_targets: Class of each row, int64 (N,).
        eval_inputs: As ``train_inputs``.
        eval_targets: As ``train_targets``.
        labels: Name of each class.
        metric: What is measured on the eval rows.
    """

    train_inputs: tuple[NDArray[np.generic], ...]
    train_targets: NDArray[np.int64]
    eval_inputs: tuple[NDArray[np.generic], ...]
    eval_targets: NDArray[np.int64]
    labels: tuple[str, ...]
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        for inputs, targets in ((self.train_inputs, self.train_targets), (self.eval_inputs, self.eval_targets)):
            if not inputs or any(len(value) != len(targets) for value in inputs):
                raise ValueError(f"{[value.shape for value in inputs]} inputs do not fit {targets.shape} targets")

    def example(self, row: int) -> tuple[torch.Tensor, ...]:
        """Give one training row with batch 1, in the dtypes of the exported model."""
        return tuple(torch.from_numpy(value[row : row + 1].copy()) for value in self.train_inputs)

    def eval_example(self, row: int) -> tuple[torch.Tensor, ...]:
        """Give one eval row with batch 1, in the dtypes of the exported model."""
        return tuple(torch.from_numpy(value[row : row + 1].copy()) for value in self.eval_inputs)

    def accuracy(self, logits: NDArray[np.float32]) -> float:
        """Give the share of eval rows whose largest logit is the target's; NaN logits are wrong.

        Args:
            logits: Of the eval rows in their order, (N, classes).
        """
        right = (logits.argmax(1) == self.eval_targets) & np.isfinite(logits).all(1)
        return float(right.mean())
