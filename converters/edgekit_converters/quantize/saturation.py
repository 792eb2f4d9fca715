"""Proves that int8 weights cannot saturate the 16-bit sums of x86 without VNNI, or makes weights that cannot.

On AVX2 and AVX-512 without VNNI, ONNX Runtime multiplies unsigned activations by signed weights with VPMADDUBSW: two
neighbouring products are added into an int16 that *saturates*. Two full-range weights under bright inputs overflow it,
and the answer is wrong without a word. XNNPACK (TFLite) widens int8 weights to 16 bits first, so it has no such sum.
The figures, the sources and a demonstration are in docs/integer-honesty.md.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.grid import weight_grid
from edgekit_runtime.errors import ConversionError, UsageError

__all__ = [
    "SEVEN_BIT",
    "Bound",
    "LayerKind",
    "SevenBit",
    "SaturationProof",
    "accumulator_bound",
    "guard",
    "guarded_scales",
    "pair_sums",
    "prove",
    "seven_bit",
]

LayerKind = Literal["linear", "conv", "depthwise"]
SevenBit = bool | Literal["pairs"]
Bound = Literal["pairs", "any_pairs", "no_pairs"]
Codes = tuple[int, int]

SEVEN_BIT = 64  # the largest |code| of which two fit: 2 * 255 * 64 = 32640; with 65 it would be 33150
_INT16 = (-(2**15), 2**15 - 1)
_INT32_MAX = 2**31 - 1
_FULL = 127
_UNSIGNED: Codes = (0, 255)
_SMALLEST_SCALE = np.float32(1e-9)  # as in grid.py: a channel of zeros still needs a scale


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturationProof:
    """What the 16-bit and 32-bit sums of one layer can reach, over all inputs.

    Attributes:
        layer: Its name in the plan.
        worst_positive: Largest sum that VPMADDUBSW would have to hold, at least 0.
        worst_negative: Smallest, at most 0.
        bound: ``pairs``: over the pairs that the kernel adds; ``any_pairs``: over all pairs of a row, whatever the
            packing; ``no_pairs``: the kernel widens before it adds, so only single products count.
        channels: Output channels in which a pair can saturate.
        accumulator: Bound on the magnitude of the int32 accumulator at any moment.
    """

    layer: str
    worst_positive: int
    worst_negative: int
    bound: Bound
    channels: int
    accumulator: int

    @property
    def safe(self) -> bool:
        """Whether no input can saturate a sum, neither of 16 nor of 32 bits."""
        return self.channels == 0 and self.accumulator <= _INT32_MAX

    def as_json(self) -> dict[str, object]:
        """Give the fields and the verdict, for a report."""
        return {**asdict(self), "safe": self.safe}


def prove(
    name: str,
    codes: NDArray[np.int8],
    *,
    kind: LayerKind,
    bias: NDArray[np.int32] | None = None,
    activations: Codes = _UNSIGNED,
    bound: Literal["pairs", "any_pairs"] = "pairs",
) -> SaturationProof:
    """Bound the sums of a layer over every input, from its weights alone.

    Args:
        name: Of the layer.
        codes: int8 weights, (out, in) of a linear layer or (out, in / groups, *kernel) of a convolution.
        kind: ``depthwise`` only if there are as many groups as input and as output channels.
        bias: int32 (out,), or None.
        activations: Smallest and largest *unsigned* code of the input. Inputs outside of the calibrated range clip to 0
            and 255, so anything narrower holds only for inputs that were seen. A default x86 session makes uint8 of
            int8 Q/DQ pairs, with 128 added.
        bound: ``pairs`` trusts the packing of ONNX Runtime's kernels; ``any_pairs`` does not.

    Raises:
        UsageError: Codes are not int8 of rank 2 and more, or the bias does not fit (E0137); the activation range is not
            in 0..255 (E0138).

    Source:
        MLAS QgemmU8S8KernelAvx2 and GemvU8S8: four rows of B are interleaved per column, and VPMADDUBSW adds rows
        (4i, 4i+1) and (4i+2, 4i+3). QLinearConv reorders its filter to (kernel, in, out) first, so a convolution's
        pairs are neighbouring input channels, and run on into the next kernel position where their number is odd;
        ConvSymKernelAvx2 adds the same pairs. Depthwise kernels widen to 16 bits before they multiply. ConvInteger,
        which we do not write, orders its sum otherwise: use ``any_pairs`` there.
    """
    _check(codes, bias)
    low, high = _checked_range(activations)
    used: Bound = "no_pairs" if kind == "depthwise" else bound
    smallest, largest = pair_sums(codes, kind=kind, activations=(low, high), bound=used)
    # Depthwise kernels multiply in 32 bits: one product can not saturate anything.
    over = np.zeros(len(codes), bool) if used == "no_pairs" else (smallest < _INT16[0]) | (largest > _INT16[1])
    return SaturationProof(
        layer=name,
        worst_positive=int(largest.max(initial=0)),
        worst_negative=int(smallest.min(initial=0)),
        bound=used,
        channels=int(over.sum()),
        accumulator=accumulator_bound(codes, bias),
    )


def pair_sums(
    codes: NDArray[np.int8], *, kind: LayerKind, activations: Codes = _UNSIGNED, bound: Bound = "pairs"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the smallest and the largest sum of two products per output channel, over all activations of the range.

    A product is largest at the top of the range if its weight is positive, else at the bottom. ``any_pairs`` adds the
    two largest products of the row, which bounds every packing.

    Args:
        codes: int8 (out, in) or (out, in / groups, *kernel).
        kind: Of the layer.
        activations: Smallest and largest unsigned code.
        bound: See ``SaturationProof``.

    Returns:
        Two int64 (out,): at most 0, and at least 0.
    """
    rows = _kernel_order(codes).astype(np.int64)
    low, high = activations
    positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
    largest, smallest = high * positive + low * negative, low * positive + high * negative
    if bound == "no_pairs" or kind == "depthwise":
        return _least(smallest), -_least(-largest)
    if bound == "pairs":
        return _least(smallest[:, 0::2] + smallest[:, 1::2]), -_least(-largest[:, 0::2] - largest[:, 1::2])
    return np.sort(smallest, 1)[:, :2].sum(1).clip(max=0), np.sort(largest, 1)[:, -2:].sum(1).clip(min=0)


def accumulator_bound(codes: NDArray[np.int8], bias: NDArray[np.int32] | None = None) -> int:
    """Bound the int32 accumulator of a layer at every moment of its sum: ``2 * 255 * sum|w| + |bias|``, worst channel.

    Once for the products of unsigned activations, and once for the share of their zero point, which kernels subtract as
    one start value. VNNI's VPDPBUSDS saturates at 32 bits, so partial sums count and not only the end.

    Args:
        codes: int8 (out, ...).
        bias: int32 (out,), or None.
    """
    weights = np.abs(codes.astype(np.int64)).reshape(len(codes), -1).sum(1)
    held = np.zeros(len(codes), np.int64) if bias is None else np.abs(bias.astype(np.int64))
    return int((2 * 255 * weights + held).max(initial=0))


def seven_bit(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise weights symmetrically per channel to [-64, 64], where no packing and no input can saturate.

    Two products reach at most ``2 * 255 * 64 = 32640``; the int16 holds 32767.

    Args:
        weight: Float32 (out, ...).

    Returns:
        int8 codes in the shape of ``weight``, and one float32 scale per output channel.

    Raises:
        ConversionError: A weight is NaN or infinite (E0752).
    """
    return _quantise(_finite(weight), np.full(len(weight), SEVEN_BIT))


def guard(
    weight: NDArray[np.float32], *, kind: LayerKind, activations: Codes = _UNSIGNED
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise weights per channel to the widest codes that cannot saturate: 127 where the pairs allow it, else fewer.

    Loses less than ``seven_bit``, since only neighbouring weights of the same sign share a sum; but the proof holds for
    this packing only.

    Args:
        weight: Float32 (out, in) or (out, in / groups, *kernel).
        kind: Of the layer.
        activations: Smallest and largest unsigned code of the input.

    Returns:
        int8 codes in the shape of ``weight``, and one float32 scale per output channel.

    Raises:
        ConversionError: A weight is NaN or infinite (E0752).
        UsageError: The activation range is not in 0..255 (E0138).
    """
    low, high = _checked_range(activations)
    limits = np.full(len(_finite(weight)), _FULL)
    codes, scales = _quantise(weight, limits)
    open_rows = np.arange(len(weight))
    while len(open_rows):
        smallest, largest = pair_sums(codes[open_rows], kind=kind, activations=(low, high))
        open_rows = open_rows[(smallest < _INT16[0]) | (largest > _INT16[1])]
        limits[open_rows] -= 1  # ends at SEVEN_BIT, where nothing is over
        codes[open_rows], scales[open_rows] = _quantise(weight[open_rows], limits[open_rows])
    return codes, scales


def guarded_scales(weight: NDArray[np.float32], *, kind: LayerKind, how: SevenBit) -> NDArray[np.float32]:
    """Give the weight scales of a layer, wide enough that its codes are those of ``seven_bit`` or of ``guard``.

    The scale alone decides: ``rint(weight / scale)`` then ends at the narrower limit, in every format.

    Args:
        weight: Float32 (out, ...).
        kind: Of the layer.
        how: False: full range. True: ``seven_bit``. ``pairs``: ``guard``.

    Returns:
        float32 (out,).

    Raises:
        ConversionError: A weight is NaN or infinite (E0732 or E0752).
    """
    if how is False:
        return weight_grid(weight, axis=0)[1]
    return guard(weight, kind=kind)[1] if how == "pairs" else seven_bit(weight)[1]


def _quantise(weight: NDArray[np.float32], limits: NDArray[np.int_]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    tops = limits.astype(np.float32)
    largest = np.abs(weight).max(tuple(range(1, weight.ndim)), initial=0)
    scale = (np.maximum(largest, _SMALLEST_SCALE) / tops).astype(np.float32)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    tops, steps = tops.reshape(shape), scale.reshape(shape)
    return np.clip(np.rint(weight / steps), -tops, tops).astype(np.int8), scale


def _kernel_order(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Give (out, K), K even, in the order in which the kernel adds: kernel position first, then input channel."""
    rows = np.moveaxis(codes, 1, -1).reshape(len(codes), -1)
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))  # the kernel pads with zeros, too


def _least(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    least: NDArray[np.int64] = sums.min(1, initial=0)
    return least


def _check(codes: NDArray[np.int8], bias: NDArray[np.int32] | None) -> None:
    if codes.dtype != np.int8 or codes.ndim < 2:
        raise UsageError(
            "E0137", f"weight codes are {codes.dtype} of rank {codes.ndim}", fix="give int8 of shape (out, in, *kernel)"
        )
    if bias is not None and bias.shape != codes.shape[:1]:
        raise UsageError("E0137", f"a bias of shape {bias.shape} does not fit {codes.shape[0]} output channels")


def _checked_range(activations: Codes) -> Codes:
    low, high = activations
    if not 0 <= low <= high <= 255:
        raise UsageError(
            "E0138",
            f"activation codes from {low} to {high} are not a range within 0..255",
            fix="give unsigned codes; add 128 to those of int8 activations",
        )
    return low, high


def _finite(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(weight).all():
        raise ConversionError(
            "E0752",
            f"weights of shape {weight.shape} hold NaN or infinity, for which there is no code",
            fix="lower the learning rates, and build again",
        )
    return weight
