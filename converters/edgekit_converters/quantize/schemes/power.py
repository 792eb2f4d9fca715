"""Weights as plus or minus a power of two: fine steps near zero, coarse steps at the ends."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.checks import checked_weight

__all__ = ["POWER_TABLE", "PowerOfTwo", "power_of_two"]

_FACTORS = np.linspace(0.5, 4 / 3, 26)  # of absmax; above 4/3 the largest weight would lose its code

# Bit 3 is the sign, bits 0-2 are e: 0 is zero and e = 1..7 is 2^(1-e), so 1, 1/2, ..., 1/64. Code 8 (minus zero) is
# never written and reads as zero.
POWER_TABLE: NDArray[np.float32] = np.array(
    [sign * (2.0 ** (1 - e) if e else 0.0) for sign in (1, -1) for e in range(8)], np.float32
)
POWER_TABLE.flags.writeable = False
_ASCENDING = np.abs(POWER_TABLE[[0, 7, 6, 5, 4, 3, 2, 1]])  # 0, 1/64, ..., 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOfTwo:
    """Weights as ``POWER_TABLE[code] * scale``.

    Attributes:
        codes: uint8, shape (out, in), 0 to 15.
        scales: float32, shape (out,), above 0.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]

    def dequantise(self) -> NDArray[np.float32]:
        """Give the weights in float32, shape (out, in)."""
        return POWER_TABLE[self.codes] * self.scales[:, None]


def power_of_two(weight: NDArray[np.float32], *, search: bool = True) -> PowerOfTwo:
    """Round each weight to the nearest of 0 and ``+-scale * 2^-k``, k = 0..6.

    The error of a weight is at most a third of it, or ``scale / 128`` near zero, or what it stands out of
    ``[-scale, scale]``; the last is nothing without ``search``.

    Args:
        weight: Shape (out, in).
        search: Choose each channel's scale by squared error among its largest magnitude and 26 multiples of it, from
            1/2 to 4/3; else take the magnitude.

    Raises:
        UsageError: ``weight`` is no float32 matrix (E0158).
        ConversionError: It holds NaN or infinity (E0756).

    Source:
        Miyashita et al. 2016, section 3 (logarithmic weights); nearest in the linear domain, where the error counts.
    """
    magnitude = np.abs(checked_weight(weight))
    largest = magnitude.max(1)
    best = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    codes = _places(magnitude, best)
    if search:
        least = _squared_error(magnitude, codes, best)
        for factor in _FACTORS:
            scales = np.where(largest > 0, largest * factor, 1).astype(np.float32)
            tried = _places(magnitude, scales)
            error = _squared_error(magnitude, tried, scales)
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
            codes[better] = tried[better]
    exponents = np.where(codes > 0, 8 - codes, codes)
    negative = (weight < 0) & (exponents > 0)
    return PowerOfTwo(codes=exponents + 8 * negative.astype(np.uint8), scales=best)


def _places(magnitude: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Give the place in ``_ASCENDING`` that is nearest to each magnitude.

    Halfway between two powers of two lies 3/4 of the larger one, so the nearest is ``2^floor(log2(4/3 x))``.
    """
    ratio = magnitude / scales[:, None]
    exponent = np.frexp(ratio * np.float32(4 / 3))[1] - 1
    places: NDArray[np.uint8] = np.clip(exponent + 7, 1, 7).astype(np.uint8)
    places[ratio <= 1 / 128] = 0
    return places


def _squared_error(
    magnitude: NDArray[np.float32], places: NDArray[np.uint8], scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    difference = magnitude - _ASCENDING[places] * scales[:, None]
    error: NDArray[np.float64] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return error
