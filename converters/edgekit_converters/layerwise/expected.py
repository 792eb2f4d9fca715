"""How much noise a sound int8 layer makes: rounding of its input, weights and output on grids that just hold them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.sums import ErrorSums, InputSums, decibels

__all__ = [
    "ROUNDING",
    "Expected",
    "expected_layer",
    "expected_table",
    "expected_tensor",
    "step_of",
    "weight_excess_db",
    "weight_slope",
]

ROUNDING = 1.0 / 12.0  # variance of rounding, in squares of a step
_CODES = 127  # of a weight
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Noise power by output channel, (channels,), in squares of the tensor's unit.

    Attributes:
        noise: Mean over positions.
    """

    noise: Float64

    def sqnr_db(self, signal: float, count: int) -> float:
        """Give the expected SQNR of a signal, a sum of squares over ``count`` positions of all channels."""
        return decibels(signal, float(self.noise.sum()) * count)


def expected_layer(
    weight: NDArray[np.float32], given: InputSums, *, input_step: float, output_step: float | None
) -> Expected:
    """Predict the noise of a linear or convolution layer.

    Args:
        weight: Float weights, (out, in) or (out, in / groups, height, width).
        given: Of its input in float.
        input_step: Width of a step of the input's grid, see ``step_of``.
        output_step: Of the output's; None where that stays float.

    Source:
        Errors that are uniform and independent: step^2 / 12 each (Widrow 1956); through a sum of products they add
        with the squares of the other factor.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    noise = ROUNDING * input_step * input_step * np.square(flat).sum(1)
    steps = np.abs(flat).max(1) / _CODES
    noise = noise + ROUNDING * np.square(steps) * _energies(weight.shape, given)
    return Expected(noise=noise + (ROUNDING * output_step * output_step if output_step else 0.0))


def _energies(shape: tuple[int, ...], given: InputSums) -> Float64:
    """Give the mean sum of squares that each output channel's weights meet, (out,)."""
    squares = given.squares / max(given.count, 1)
    if len(shape) == 2:
        return np.full(shape[0], squares.sum())
    groups = max(1, len(squares) // shape[1])
    by_group = squares.reshape(groups, -1).sum(1) * float(np.prod(shape[2:]))
    return np.repeat(by_group, shape[0] // groups)


def expected_table(gives: ErrorSums) -> Expected:
    """Predict the noise of looking up rows that have a scale each, ``largest entry / 127``."""
    channels = len(gives.noise)
    step_squares = gives.peaks / max(gives.count, 1) / _CODES**2
    return Expected(noise=np.full(channels, ROUNDING * step_squares))


def expected_tensor(gives: ErrorSums, *, levels: int) -> Expected:
    """Predict the noise of rounding a tensor once on a grid that just holds it."""
    step = step_of(gives, levels)
    return Expected(noise=np.full(len(gives.noise), ROUNDING * step * step))


def step_of(values: ErrorSums | InputSums, levels: int) -> float:
    """Give the width of a step of a grid that just holds some values and 0."""
    return (max(values.high, 0.0) - min(values.low, 0.0)) / levels


def weight_excess_db(wanted: NDArray[np.float32], held: NDArray[np.float32]) -> Float64:
    """Compare the error of int8 weights with that of rounding each channel on its own scale, dB by channel.

    0 dB is rounding; one byte out of hundreds that is wrong gives 15 dB and more.
    """
    flat, other = (values.reshape(len(values), -1).astype(np.float64) for values in (wanted, held))
    error = np.square(other - flat).mean(1)
    rounding = ROUNDING * np.square(np.maximum(np.abs(flat).max(1), 1e-30) / _CODES)
    found: Float64 = 10 * np.log10(np.maximum(error, 1e-300) / rounding)
    return found


def weight_slope(wanted: NDArray[np.float32], held: NDArray[np.float32]) -> Float64:
    """Give the factor by which each channel's weights are too large, (channels,)."""
    flat, other = (values.reshape(len(values), -1).astype(np.float64) for values in (wanted, held))
    return np.asarray((flat * other).sum(1) / np.maximum(np.square(flat).sum(1), 1e-300))
