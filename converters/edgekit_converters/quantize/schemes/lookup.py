"""One common form of all schemes, from which both formats write a decode by table lookup."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.codebook import Codebook
from edgekit_converters.quantize.schemes.power import POWER_TABLE, PowerOfTwo

__all__ = ["PAIRS", "Coded", "Lookup", "as_lookup", "pack_nibbles"]

Coded = BlockwiseInteger | PowerOfTwo | Codebook

# Both 4-bit codes of a byte, low half first: row b is (b & 15, b >> 4). Two weights come out of one lookup in
# table[PAIRS], and no file needs an operator for bits.
PAIRS: NDArray[np.int32] = np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=1).astype(np.int32)
PAIRS.flags.writeable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Weights as ``table[group, code] * scale``.

    Attributes:
        codes: uint8, shape (out, in).
        table: float32, shape (groups, 16 or 256).
        scales: float32, shape (out, blocks); None = 1.
        block: Inputs per scale.
    """

    codes: NDArray[np.uint8]
    table: NDArray[np.float32]
    scales: NDArray[np.float32] | None
    block: int

    @property
    def ragged(self) -> bool:
        """Whether the last block of a row is shorter than the others."""
        return self.scales is not None and self.codes.shape[1] != self.block * self.scales.shape[1]

    @property
    def packed(self) -> bool:
        """Whether two codes share a byte: they have 4 bits and each row has an even number of them."""
        return bool(self.table.shape[1] == 16 and self.codes.shape[1] % 2 == 0)

    def stored(self) -> NDArray[np.uint8]:
        """Give the codes as they stand in a file: (out, in / 2) if packed, else (out, in)."""
        return pack_nibbles(self.codes) if self.packed else self.codes


def as_lookup(coded: Coded) -> Lookup:
    """Give the lookup form of any scheme."""
    columns = coded.codes.shape[1]
    if isinstance(coded, Codebook):
        return Lookup(codes=coded.codes, table=coded.table, scales=None, block=columns)
    if isinstance(coded, PowerOfTwo):
        return Lookup(codes=coded.codes, table=POWER_TABLE[None], scales=coded.scales[:, None], block=columns)
    half = 2 ** (coded.bits - 1)
    codes = (coded.codes.astype(np.int16) + half).astype(np.uint8)
    table = np.arange(-half, half, dtype=np.float32)[None]
    return Lookup(codes=codes, table=table, scales=coded.scales, block=coded.block)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put two 4-bit codes in a byte along the last axis, the first in the low half, as ONNX and TFLite do."""
    packed: NDArray[np.uint8] = ((codes[..., 0::2] & 15) | ((codes[..., 1::2] & 15) << 4)).astype(np.uint8)
    return packed
