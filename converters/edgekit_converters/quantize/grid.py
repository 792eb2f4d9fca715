"""The integer grids of static int8: where zero lies, how wide a step is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import ConversionError

__all__ = ["ActivationType", "Range", "bias_codes", "bias_room", "grid_of", "weight_grid"]

ActivationType = Literal["uint8", "int8"]
_SMALLEST_SCALE = np.float32(1e-9)  # a tensor that is always 0 still needs a scale
_LARGEST_BIAS_CODE = 2**30  # half of the accumulator; the products need the rest


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value seen.

    Attributes:
        low: In the tensor's own unit.
        high: At least ``low``.
    """

    low: float
    high: float

    def merge(self, other: "Range") -> "Range":
        """Give the range that holds both: a true minimum and maximum, not a moving average."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @classmethod
    def of(cls, values: NDArray[np.floating], *, name: str) -> "Range":
        """Measure a tensor.

        Raises:
            ConversionError: It holds NaN or infinity.
        """
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ConversionError(
                "E0730",
                f"tensor {name} is not finite during calibration ({low} to {high})",
                fix="check the calibration rows and the trained weights",
            )
        return cls(low, high)


def grid_of(seen: Range, kind: ActivationType) -> tuple[np.float32, int]:
    """Give scale and zero point of an asymmetric 8-bit tensor whose range includes 0.

    ``int8`` and ``uint8`` stand on the same grid: their zero points differ by 128.

    Source:
        Jacob et al. 2018, section 2.1; ONNX QuantizeLinear.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    scale = max(np.float32((high - low) / 255.0), _SMALLEST_SCALE)
    smallest = 0 if kind == "uint8" else -128
    zero_point = int(np.clip(np.rint(smallest - low / float(scale)), smallest, smallest + 255))
    return scale, zero_point


def weight_grid(weight: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise weights symmetrically per channel: ``scale = absmax / 127``, codes in [-127, 127].

    Args:
        weight: Any shape.
        axis: The channel dimension.

    Returns:
        Codes in the shape of ``weight``, and one scale per channel.

    Raises:
        ConversionError: A weight is NaN or infinite.
    """
    if not np.isfinite(weight).all():
        raise ConversionError(
            "E0732",
            f"weights of shape {weight.shape} hold NaN or infinity, for which there is no int8 code",
            fix="lower the learning rates, and build again",
        )
    others = tuple(i for i in range(weight.ndim) if i != axis)
    # The floor under a channel of zeros is ai-edge-quantizer's, so that both formats hold the same scale.
    scale = (np.maximum(np.abs(weight).max(others), _SMALLEST_SCALE) / np.float32(127)).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    codes = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    return codes, scale


def bias_room(bias: NDArray[np.float32], *, activation_scale: np.float32) -> NDArray[np.float32]:
    """Give the weight scale of each channel below which its bias would not fit into the int32 accumulator.

    A channel that is dead but for its bias has no weights to take a scale from; its bias would be cut off.

    Args:
        bias: Float32 (channels,).
        activation_scale: Of the layer's input.
    """
    return (np.abs(bias.astype(np.float64)) / (np.float64(activation_scale) * _LARGEST_BIAS_CODE)).astype(np.float32)


def bias_codes(
    bias: NDArray[np.float32], *, activation_scale: np.float32, weight_scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Quantise a bias to int32 on the grid of the accumulator, ``activation_scale * weight_scale``."""
    scale = np.float64(activation_scale) * weight_scale.astype(np.float64)
    limit = np.iinfo(np.int32)
    codes = np.clip(np.rint(bias.astype(np.float64) / scale), limit.min, limit.max).astype(np.int32)
    return codes, scale.astype(np.float32)
