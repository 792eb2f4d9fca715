"""Refuses weights that no scheme can code."""

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import ConversionError, UsageError

__all__ = ["checked_weight"]


def checked_weight(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give ``weight`` back if it is a matrix of finite float32 values.

    Raises:
        UsageError: It is not a float32 matrix with at least one value (E0158).
        ConversionError: It holds NaN or infinity (E0756).
    """
    if weight.ndim != 2 or weight.size == 0 or weight.dtype != np.float32:
        raise UsageError(
            "E0158",
            f"weights are {weight.dtype} of shape {weight.shape}",
            why="a weight scheme codes float32 matrices of shape (out, in)",
            fix="reshape a convolution to (out, in * height * width) first",
        )
    if not np.isfinite(weight).all():
        raise ConversionError(
            "E0756", f"weights of shape {weight.shape} hold NaN or infinity", fix="check the trained weights"
        )
    return weight
