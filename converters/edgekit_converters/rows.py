"""From checked rows to tensors, through the very preprocessing that the device runs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.training import ImageRows, Rows, TextRows
from edgekit_models.data.dataset import Inputs
from edgekit_models.preprocess import read_preprocess
from edgekit_runtime.preprocess.image import ImagePreprocess
from edgekit_runtime.preprocess.text import TextPreprocess

__all__ = ["feeds", "training_rows"]


def training_rows(inputs: Inputs, teacher: Path) -> Rows:
    """Preprocess rows for training.

    Args:
        inputs: Texts or raw images.
        teacher: Folder with ``preprocess.json`` and, for text, ``tokenizer.json``.
    """
    preprocess = read_preprocess(teacher)
    if isinstance(preprocess, TextPreprocess):
        return TextRows(ids=tuple(_ids(preprocess, str(text)) for text in inputs))
    return ImageRows(images=_images(preprocess, inputs))


def _ids(preprocess: TextPreprocess, text: str) -> NDArray[np.int64]:
    tensors = preprocess(text)
    ids: NDArray[np.int64] = tensors["input_ids"][tensors["attention_mask"] == 1].astype(np.int64)
    return ids


def _images(preprocess: ImagePreprocess, inputs: Inputs) -> NDArray[np.float32]:
    assert isinstance(inputs, np.ndarray)
    tensors = [preprocess(image)["image"] for image in inputs]
    return np.ascontiguousarray(np.concatenate(tensors).transpose(0, 3, 1, 2))


def feeds(inputs: Inputs, teacher: Path) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Give the tensors of the model contract, one row at a time."""
    preprocess = read_preprocess(teacher)
    for row in inputs:
        yield preprocess(row)
