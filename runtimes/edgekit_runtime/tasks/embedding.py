"""The output of an encoder to one vector a text."""

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError

__all__ = ["vector_of"]


def vector_of(output: NDArray[np.generic]) -> NDArray[np.float32]:
    """Read an output of shape (1, D) as a vector (D,).

    Raises:
        BundleError: It holds NaN or infinity (E0911).
    """
    row: NDArray[np.float32] = np.asarray(output[0], np.float32)
    if not np.isfinite(row).all():
        raise BundleError(
            "E0911",
            f"the model answered {row.tolist()[:8]}",
            why="an output that is NaN or infinite is no answer",
            fix="run `python -m edgekit_runtime selftest` on the bundle",
        )
    return row
