"""One common form of all schemes, from which both formats write a decode by table lookup."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.codebook import Codebook
from edgekit_converters.quantize.schemes.power import POWER_TABLE, PowerOfTwo
from edgekit_runtime.errors import ConversionError

__all__ = ["PAIRS", "Coded", "Lookup", "as_lookup", "pack_nibbles", "read_lookup", "unpack_nibbles"]

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


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give two 4-bit codes for each byte along the last axis: the inverse of ``pack_nibbles``."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def read_lookup(
    codes: NDArray[np.generic],
    table: NDArray[np.generic],
    scales: NDArray[np.generic] | None,
    *,
    pairs: NDArray[np.generic] | None,
    shape: Sequence[int] | None,
) -> Coded:
    """Give the scheme that the arrays of a decode stand for, as both formats write them.

    Args:
        codes: Bytes as ``Lookup.stored`` gives them, for a whole matrix by group.
        table: (groups, 16 or 256) of a matrix; of an embedding (16,), (256,), or (256, 2) with two codes in a byte.
        scales: One for each block of a row, or None.
        pairs: ``PAIRS`` where a matrix has two codes in a byte.
        shape: (out, in) of a matrix; None for an embedding.

    Raises:
        ConversionError: The table is none that a scheme has (E0799).
    """
    held, values = codes.astype(np.uint8), table.astype(np.float32)
    if shape is not None:
        flat = held.reshape(len(values), -1)
        held = (flat if pairs is None else unpack_nibbles(flat)).reshape(tuple(shape))
        known = pairs is None or np.array_equal(pairs, PAIRS)
    else:
        packed = values.ndim == 2
        held = unpack_nibbles(held) if packed else held
        single = values[:16, 0] if packed else values
        known = not packed or np.array_equal(values, single[PAIRS])
        values = single[None]
    if scales is None and known:
        return Codebook(codes=held, table=values)
    half = values.shape[1] // 2
    if known and scales is not None:
        steps = scales.astype(np.float32).reshape(len(held), -1)
        if np.array_equal(values[0], POWER_TABLE):
            return PowerOfTwo(codes=held, scales=steps[:, 0])
        if np.array_equal(values[0], np.arange(-half, half)):
            signed = (held.astype(np.int16) - half).astype(np.int8)
            block = held.shape[1] // steps.shape[1]
            return BlockwiseInteger(codes=signed, scales=steps, block=block, bits=4 if half == 8 else 8)
    raise ConversionError("E0799", "a table in the file decodes to other values than any scheme", fix="build again")
