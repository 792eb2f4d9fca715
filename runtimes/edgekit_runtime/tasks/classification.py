"""Logits to a label with scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.tasks.embedding import vector_of

__all__ = ["Prediction", "classify", "softmax"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one input.

    Attributes:
        label: Name of the class.
        index: Its place in the bundle's labels.
        score: Its share of the softmax, 0 to 1.
        scores: Of every class, in label order; they sum to 1.
    """

    label: str
    index: int
    score: float
    scores: tuple[float, ...]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """``exp(x - max x) / sum exp(x - max x)`` over a vector; the shift changes nothing but prevents overflow."""
    powers = np.exp(logits - logits.max())
    result: NDArray[np.float32] = powers / powers.sum()
    return result


def classify(logits: NDArray[np.generic], labels: Sequence[str]) -> Prediction:
    """Read logits of shape (1, C).

    Raises:
        BundleError: They hold NaN or infinity.
    """
    row = vector_of(logits)
    scores = tuple(softmax(row).tolist())
    index = int(row.argmax())
    return Prediction(labels[index], index, scores[index], scores)
