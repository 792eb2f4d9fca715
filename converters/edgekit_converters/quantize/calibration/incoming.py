"""The check that every tensor passes before an observer counts it."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit_runtime.errors import ConversionError, UsageError

__all__ = ["Incoming", "nothing_seen", "not_finite"]

_NOTHING = -1  # rank before the first tensor


def not_finite(name: str, low: float, high: float) -> ConversionError:
    """Give the error for a tensor that holds NaN or infinity; nothing of it has been counted."""
    return ConversionError(
        "E0740",
        f"tensor {name} is not finite during calibration ({low} to {high})",
        why="a range that takes in NaN or infinity has no grid, and leaving the value out would hide it",
        fix="check the calibration rows and the trained weights",
    )


def nothing_seen(name: str) -> UsageError:
    """Give the error for a range that is asked for before the first row."""
    return UsageError(
        "E0135",
        f"no calibration rows: tensor {name} was never seen",
        fix="give at least one row, better a hundred that look like the data on the device",
    )


class Incoming:
    """Type and shape of one tensor over all rows.

    Lengths may differ from row to row (sentences do), so the rank alone must stay; with ``axis`` the number of channels
    must stay too. Without ``axis`` no length is checked: the last dimension of attention scores counts tokens.
    """

    __slots__ = ("_axis", "_channels", "_name", "_rank")

    def __init__(self, name: str, axis: int | None = None) -> None:
        self._name, self._axis = name, axis
        self._rank, self._channels = _NOTHING, _NOTHING

    @property
    def seen(self) -> bool:
        """Whether a tensor has passed."""
        return self._rank != _NOTHING

    def ends(self, values: torch.Tensor) -> tuple[float, float]:
        """Check a tensor, let it pass and give its smallest and largest value, in one pass and without a copy.

        Raises:
            ConversionError: E0740, it holds NaN or infinity; E0742 to E0744 as in ``check``.
        """
        self.check(values)
        found = torch.aminmax(values.detach())  # NaN anywhere makes both ends NaN
        low, high = float(found.min) + 0.0, float(found.max) + 0.0  # -0.0 becomes 0.0
        if not (math.isfinite(low) and math.isfinite(high)):
            raise not_finite(self._name, low, high)
        self.accept(values)
        return low, high

    def accept(self, values: torch.Tensor) -> None:
        """Let a tensor pass; the first one decides the shape."""
        if self._rank == _NOTHING:
            self._rank, self._channels = values.ndim, self._channels_of(values)

    def check(self, values: torch.Tensor) -> None:
        """Refuse a tensor that does not fit to those that passed before; nothing is changed.

        Raises:
            ConversionError: E0742, rank or number of channels changed, or the channel axis does not exist;
                E0743, no elements; E0744, not float32.
        """
        if values.dtype is not torch.float32:
            raise ConversionError(
                "E0744",
                f"tensor {self._name} is {values.dtype} during calibration; observers take float32",
                fix="run the float32 model for calibration",
            )
        if values.numel() == 0:
            raise ConversionError(
                "E0743",
                f"tensor {self._name} of shape {tuple(values.shape)} has no elements during calibration",
                why="a row without a real token or pixel says nothing about the range",
                fix="drop empty rows from the calibration set",
            )
        came = (values.ndim, self._channels_of(values))
        if self._rank != _NOTHING and came != (self._rank, self._channels):
            before = f"rank {self._rank}" + (f" and {self._channels} channels" if self._axis is not None else "")
            raise ConversionError(
                "E0742",
                f"tensor {self._name} has shape {tuple(values.shape)}; the rows before it had {before}",
                fix="give every calibration row the same layout",
            )

    def _channels_of(self, values: torch.Tensor) -> int:
        if self._axis is None:
            return _NOTHING
        if not -values.ndim <= self._axis < values.ndim:
            raise ConversionError(
                "E0742",
                f"tensor {self._name} of shape {tuple(values.shape)} has no axis {self._axis} to take channels from",
                fix="name an axis that the tensor has",
            )
        return values.shape[self._axis]

    def state(self) -> NDArray[np.int64]:
        """Give rank and number of channels, -1 where nothing is known."""
        return np.array([self._rank, self._channels], np.int64)

    def restore(self, state: NDArray[np.generic]) -> None:
        """Go on from ``state()``."""
        self._rank, self._channels = (int(value) for value in state)
