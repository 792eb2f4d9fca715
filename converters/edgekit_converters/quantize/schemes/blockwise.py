"""Linear integer weights with one scale per block of inputs; a block as wide as the layer is one scale per channel."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.checks import checked_weight
from edgekit_runtime.errors import ConversionError, UsageError

__all__ = ["BlockwiseInteger", "blockwise_integer", "spread", "step_size"]

_LARGEST_SCALE = 65504.0  # of float16
_SMALLEST_SCALE = 2.0**-24  # smallest float16 above 0, and a bfloat16 too


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockwiseInteger:
    """Weights as signed integers times a scale; 0.0 is exact.

    Attributes:
        codes: int8, shape (out, in), from ``-limit`` to ``limit``.
        scales: float32, shape (out, blocks), above 0; ``blocks = ceil(in / block)``.
        block: Neighbouring inputs that share a scale; the last block of a row may be shorter.
        bits: 4 or 8.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    block: int
    bits: Literal[4, 8]

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        limit = self.limit
        if self.scales.shape != (rows, -(-columns // self.block)) or not (self.scales > 0).all():
            raise UsageError(
                "E0159", f"scales of shape {self.scales.shape} do not fit codes of shape {(rows, columns)}"
            )
        if self.codes.min() < -limit or self.codes.max() > limit:
            raise UsageError("E0159", f"codes leave [-{limit}, {limit}], the range of {self.bits} bits")

    @property
    def limit(self) -> int:
        """Largest code: 7 or 127. The most negative code is left out, so that the grid is symmetric."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def per_channel(self) -> bool:
        """Whether each row has one scale."""
        return bool(self.scales.shape[1] == 1)

    def dequantise(self) -> NDArray[np.float32]:
        """Give ``code * scale`` in float32, shape (out, in): what both engines compute."""
        return self.codes.astype(np.float32) * spread(self.scales, self.block, self.codes.shape[1])


def blockwise_integer(
    weight: NDArray[np.float32], *, block: int | None = 32, bits: Literal[4, 8] = 4
) -> BlockwiseInteger:
    """Round weights to the nearest code of a symmetric grid, ``scale = absmax / limit`` per block.

    The error of a weight is at most half a scale. Scales of blocks smaller than the layer are rounded to values that
    float16 and bfloat16 both hold: LiteRT stores the former and computes with the latter.

    Args:
        weight: Shape (out, in).
        block: Inputs per scale; None = all of them, one scale per channel.
        bits: 4 or 8.

    Raises:
        UsageError: ``block`` or ``bits`` is out of range (E0159), or ``weight`` is no float32 matrix (E0158).
        ConversionError: A weight is not finite or too large for a float16 scale (E0756).

    Source:
        ONNX DequantizeLinear-21 (``block_size``); Dettmers and Zettlemoyer 2023, section 2 (small blocks at 4 bits).
    """
    weight = checked_weight(weight)
    if bits not in (4, 8) or (block is not None and block < 1):
        raise UsageError(
            "E0159", f"block is {block} and bits is {bits}", fix="use a block of at least 1 and 4 or 8 bits"
        )
    rows, columns = weight.shape
    width = columns if block is None else min(block, columns)
    blocks = -(-columns // width)
    padded = np.zeros((rows, blocks * width), np.float32)
    padded[:, :columns] = np.abs(weight)
    limit = 2 ** (bits - 1) - 1
    scales = step_size(padded.reshape(rows, blocks, width).max(2), limit=limit, short=blocks > 1)
    steps = weight.astype(np.float64) / spread(scales, width, columns)
    codes = np.clip(np.rint(steps), -limit, limit).astype(np.int8)
    return BlockwiseInteger(codes=codes, scales=scales, block=width, bits=bits)


def step_size(largest: NDArray[np.float32], *, limit: int, short: bool) -> NDArray[np.float32]:
    """Give ``largest / limit``; 1 where it is 0, for no weight there needs a step.

    Args:
        largest: Largest magnitude that a scale must reach.
        limit: Largest code.
        short: Round to a value that float16 and bfloat16 both hold.

    Raises:
        ConversionError: A scale is above the range of float16 (E0756).
    """
    scales = np.where(largest > 0, largest / np.float32(limit), np.float32(1)).astype(np.float32)
    if not short:
        return np.maximum(scales, np.finfo(np.float32).tiny)
    if scales.max() > _LARGEST_SCALE:
        raise ConversionError("E0756", f"a weight of {largest.max():g} needs a scale that float16 cannot hold")
    raw = scales.view(np.uint32)
    # Drop 16 bits of mantissa, halves to even: float32 becomes bfloat16.
    brain = ((raw + np.uint32(0x7FFF) + ((raw >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.maximum(brain.astype(np.float16).astype(np.float32), np.float32(_SMALLEST_SCALE))


def spread(scales: NDArray[np.float32], block: int, columns: int) -> NDArray[np.float32]:
    """Repeat each scale over its block: (out, blocks) becomes (out, columns)."""
    return np.repeat(scales, block, axis=1)[:, :columns]
