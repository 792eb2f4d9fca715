"""Rows as a source gives them, before any check."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RawImages", "RawTable", "raw_label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """Cells of the text and label columns, as the format typed them.

    Attributes:
        title: The source in words, for messages.
        texts: One per row.
        labels: One per row.
        numbers: Line or row number of each, counted from 1, as the user would find it.
        unit: What ``numbers`` counts: ``line`` or ``row``.
    """

    title: str
    texts: Sequence[object]
    labels: Sequence[object]
    numbers: Sequence[int]
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawImages:
    """Images of one shape and their labels.

    Attributes:
        title: The source in words, for messages.
        images: uint8 or float32, shape (N, H, W, C).
        labels: One per image.
        notes: What was changed while reading, for the user.
    """

    title: str
    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: Sequence[object]
    notes: tuple[str, ...] = ()


def raw_label(value: object) -> str | None:
    """Give a label cell as text: 1, 1.0 and ``"1"`` are all ``1``; None for a missing one.

    Raises:
        TypeError: The cell is no class: a fractional number, a list, an object.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str):
        name = value.strip()
        return None if name.casefold() in {"", "nan"} else name
    raise TypeError(f"{value!r} is not a class")
