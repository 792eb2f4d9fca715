"""Computes int8 linear and convolution layers in exact integers, rounded as each engine rounds, to test the engines.

All engines sum the same integers; they differ in how the sum becomes a code. ONNX Runtime and XNNPACK multiply it with
a float32 scale and round halves to even. LiteRT's builtin kernels multiply with a 31-bit fixed-point number and round
once or twice, in three ways. How far the real engines agree with these functions is measured in
docs/integer-honesty.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgekit_runtime.errors import UsageError

__all__ = [
    "Fixed",
    "Geometry",
    "IntegerLayer",
    "Rounding",
    "accumulate",
    "dynamic_quantize",
    "fixed_point",
    "matmul_to_float",
    "requantize_fixed",
    "requantize_float",
    "run",
]

Fixed = Literal["fixed_once", "fixed_twice", "fixed_twice_up"]
Rounding = Literal["float", Fixed]
Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

_MIN, _MAX = -128, 127
_SMALLEST_SHIFT = -31


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where a convolution reads.

    Attributes:
        stride: Vertical and horizontal, in input pixels.
        padding: Pixels above, left, below and right; they hold the zero point.
        groups: Number of groups; as many as channels for a depthwise convolution.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLayer:
    """A static int8 layer: symmetric weights per output channel, activations with a zero point.

    Zero points are those of int8 codes; for uint8 take 128 from zero point and codes.

    Attributes:
        weight: int8 (out, in), or (out, in / groups, height, width).
        weight_scales: float32 (out,).
        bias: int32 (out,), in steps of ``input_scale * weight_scales``.
        input_scale: float32.
        input_zero_point: In [-128, 127].
        output_scale: float32.
        output_zero_point: In [-128, 127].
        relu: Whether a ReLU is fused behind the layer.
        geometry: Of a convolution.
    """

    weight: Int8
    weight_scales: Float32
    bias: NDArray[np.int32]
    input_scale: np.float32
    input_zero_point: int
    output_scale: np.float32
    output_zero_point: int
    relu: bool = False
    geometry: Geometry = Geometry()

    def __post_init__(self) -> None:
        """Refuse shapes that numpy would broadcast without a word."""
        channels = self.weight.shape[:1]
        if self.weight.dtype != np.int8 or self.weight.ndim not in (2, 4):
            raise UsageError("E0139", f"weights are {self.weight.dtype} of rank {self.weight.ndim}, not int8 of 2 or 4")
        if self.weight_scales.shape != channels or self.bias.shape != channels:
            shapes = f"{self.weight_scales.shape} and {self.bias.shape}"
            raise UsageError("E0139", f"weight scales and bias of shapes {shapes} do not fit {channels[0]} channels")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code of the output; a fused ReLU cuts at the zero point.

        Source:
            TFLite CalculateActivationRangeQuantized; ONNX Runtime drops a ReLU only where its cut is the type's own.
        """
        return (max(_MIN, self.output_zero_point) if self.relu else _MIN), _MAX


def accumulate(x: Int8, layer: IntegerLayer) -> Int64:
    """Sum ``(x - zero point) * w`` and the bias, exactly.

    Args:
        x: int8 codes, (N, in) or (N, C, H, W).
        layer: Linear for the first, convolution for the second.

    Returns:
        int64 (N, out) or (N, out, H', W').

    Raises:
        UsageError: The input does not fit the weights (E0139); a sum leaves the int32 that engines hold it in (E0157).
    """
    if x.dtype != np.int8 or x.ndim != layer.weight.ndim or x.shape[1] != layer.weight.shape[1] * layer.geometry.groups:
        raise UsageError("E0139", f"an input of {x.dtype} {x.shape} does not fit weights of {layer.weight.shape}")
    centred = x.astype(np.float64) - layer.input_zero_point  # whole numbers below 2**53: products and sums are exact
    if layer.weight.ndim == 2:
        total = centred @ layer.weight.T.astype(np.float64) + layer.bias
    else:
        total = _convolve(centred, layer.weight.astype(np.float64), layer.geometry) + layer.bias.reshape(-1, 1, 1)
    if np.abs(total).max(initial=0) >= 2**31:
        raise UsageError(
            "E0157", "the accumulator of a layer leaves 32 bits", fix="use fewer inputs or smaller weights"
        )
    return total.astype(np.int64)


def _convolve(x: NDArray[np.float64], weight: NDArray[np.float64], at: Geometry) -> NDArray[np.float64]:
    top, left, bottom, right = at.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(2, 3))[:, :, :: at.stride[0], :: at.stride[1]]
    rows, _, height, width = windows.shape[:4]
    grouped = windows.reshape(rows, at.groups, -1, height, width, weight[0, 0].size)
    columns = grouped.transpose(1, 0, 3, 4, 2, 5).reshape(at.groups, rows * height * width, -1)
    kernels = weight.reshape(at.groups, len(weight) // at.groups, -1).transpose(0, 2, 1)
    sums = (columns @ kernels).reshape(at.groups, rows, height, width, -1)
    return sums.transpose(1, 0, 4, 2, 3).reshape(rows, len(weight), height, width)


def run(x: Int8, layer: IntegerLayer, rounding: Rounding) -> Int8:
    """Compute a layer as an engine does.

    Args:
        x: int8 codes, (N, in) or (N, C, H, W).
        layer: The layer.
        rounding: ``float`` is ONNX Runtime's (QLinearConv, QGemm) and XNNPACK's. LiteRT without XNNPACK, on x86:
            ``fixed_twice_up`` for linear, ungrouped and depthwise layers, ``fixed_twice`` for grouped ones and for the
            reference resolver, ``fixed_once`` for the linear layers of the latter.

    Returns:
        int8 codes, (N, out) or (N, out, H', W').

    Raises:
        UsageError: As of ``accumulate``.
    """
    total = accumulate(x, layer)
    if rounding == "float":
        steps = requantize_float(total, _float_scales(layer))
    else:
        # In float64, from the float32 numbers in the file (TFLite PopulateConvolutionQuantizationParams).
        real = np.float64(layer.input_scale) * layer.weight_scales.astype(np.float64) / np.float64(layer.output_scale)
        steps = requantize_fixed(total, *fixed_point(real), rounding)
    low, high = layer.limits
    return (steps + layer.output_zero_point).clip(low, high).astype(np.int8)


def _float_scales(layer: IntegerLayer) -> Float32:
    scales: Float32 = np.float32(layer.input_scale) * layer.weight_scales / np.float32(layer.output_scale)
    return scales


def _channel_shape(rank: int) -> tuple[int, ...]:
    return (-1,) + (1,) * (rank - 2)


def requantize_float(total: Int64, scales: Float32) -> Int64:
    """Turn int32 sums into steps of the output: ``rint(float32(total) * scale)``, halves to even.

    The sum becomes a float32 first, which rounds from 2**24 on; the product is rounded to float32 before the halves are
    decided. Both engines clip before they round, to codes that are whole numbers, which is the same as after.

    Args:
        total: int64 (N, out, ...), within int32.
        scales: float32 (out,): ``input * weight / output``, in that order, each step rounded to float32.

    Returns:
        int64 in the shape of ``total``, zero point not yet added, clipped to [-256, 256].

    Source:
        ONNX Runtime MlasRequantizeOutput and ConvSymKernelAvx2 (vcvtdq2ps, vmulps, vcvtps2dq); XNNPACK
        qs8-qc8w-gemm fp32 kernels, the same instructions.
    """
    product: Float32 = total.astype(np.float32) * scales.reshape(_channel_shape(total.ndim))
    return np.rint(product).clip(-256, 256).astype(np.int64)


def fixed_point(real: NDArray[np.float64]) -> tuple[Int64, Int64]:
    """Write multipliers as ``m * 2**(shift - 31)`` with m in [2**30, 2**31).

    Args:
        real: float64 (out,), above 0.

    Returns:
        m and shift, int64 (out,); 0 and 0 for a multiplier below 2**-32.

    Source:
        TFLite QuantizeMultiplier, which rounds halves away from zero.
    """
    fraction, shift = np.frexp(real)
    whole = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    exponent = shift.astype(np.int64) + (whole == 2**31)
    whole = np.where(whole == 2**31, 2**30, whole)
    lost = exponent < _SMALLEST_SHIFT
    return np.where(lost, 0, whole), np.where(lost, 0, exponent)


def requantize_fixed(total: Int64, multiplier: Int64, shift: Int64, rounding: Fixed) -> Int64:
    """Turn int32 sums into steps of the output with a fixed-point multiplier.

    Rounding twice moves about one code in 2**-shift: the first rounding, to a whole number, makes exact halves for the
    second, whose direction then counts.

    Args:
        total: int64 (N, out, ...), within int32.
        multiplier: int64 (out,), see ``fixed_point``.
        shift: int64 (out,); negative for multipliers below 1/2.
        rounding: ``fixed_once``: one shift, halves up. ``fixed_twice``: by 2**31 (halves away from zero), then by the
            power of two (halves away from zero). ``fixed_twice_up``: the same two steps, halves up in both.

    Returns:
        int64 in the shape of ``total``, zero point not yet added.

    Source:
        gemmlowp SaturatingRoundingDoublingHighMul and RoundingDivideByPOT, which TFLite's MultiplyByQuantizedMultiplier
        composes unless it is built with TFLITE_SINGLE_ROUNDING; once: the formula of the latter, and of ruy's
        MultiplyByQuantizedMultiplier. Twice up: found by trial; ruy says that it is not bit-exact.
    """
    shape = _channel_shape(total.ndim)
    factor, power = multiplier.reshape(shape), shift.reshape(shape)
    if rounding == "fixed_once":
        return _halves_up(total * factor, 31 - power)
    product, down = (total << power.clip(min=0)) * factor, (-power).clip(min=0)
    if rounding == "fixed_twice_up":
        return _halves_up(_halves_up(product, np.full_like(down, 31)), down)
    return _halves_away(_halves_away(product, np.full_like(down, 31)), down)


def _halves_up(x: Int64, down: Int64) -> Int64:
    rounded: Int64 = (x + (np.int64(1) << down >> 1)) >> down
    return rounded


def _halves_away(x: Int64, down: Int64) -> Int64:
    rounded: Int64 = np.sign(x) * _halves_up(np.abs(x), down)
    return rounded


def dynamic_quantize(x: Float32) -> tuple[NDArray[np.uint8], np.float32, int]:
    """Quantise activations on the grid of their own range, as ONNX DynamicQuantizeLinear does.

    Args:
        x: float32 of any shape, in the tensor's unit.

    Returns:
        uint8 codes in the shape of ``x``, scale, zero point in [0, 255].

    Source:
        ONNX DynamicQuantizeLinear-11; ONNX Runtime divides by the scale, and does not multiply by its reciprocal.
    """
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = np.float32(1) if high == low else np.float32((high - low) / np.float32(255))
    zero_point = int(np.rint(np.clip(-low / scale, 0, 255)))
    return np.clip(np.rint(x / scale) + zero_point, 0, 255).astype(np.uint8), scale, zero_point


def matmul_to_float(
    codes: NDArray[np.uint8], weight: Int8, *, scale: np.float32, zero_point: int, weight_scales: Float32
) -> Float32:
    """Multiply int8 matrices and give floats, as ONNX Runtime's MatMulIntegerToFloat does.

    Args:
        codes: uint8 (N, in).
        weight: int8 (out, in), symmetric per output channel.
        scale: Of the codes.
        zero_point: Of the codes, in [0, 255].
        weight_scales: float32 (out,).

    Returns:
        float32 (N, out): ``float32(sum) * float32(scale * weight_scale)``. A float bias is added after.

    Source:
        ONNX Runtime MLAS_QGEMM_SCALE_BIAS_OUTPUT_PROCESSOR.
    """
    total = (codes.astype(np.float64) - zero_point) @ weight.T.astype(np.float64)
    out: Float32 = total.astype(np.float32) * (np.float32(scale) * weight_scales)
    return out
