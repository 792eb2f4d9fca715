"""The name of a calibration set: a digest of its rows, so that ranges are never taken for those of another set."""

import hashlib
from collections.abc import Mapping

import numpy as np

from edgekit_runtime.errors import ConversionError

__all__ = ["CalibrationFingerprint"]


class CalibrationFingerprint:
    """SHA-256 over the rows in their order, one row at a time.

    A row counts with the names, types, shapes and little-endian bytes of its feeds, sorted by name: a mapping has no
    order of its own, and neither strides nor the byte order of the machine matter. Every part is preceded by its
    length, so that no two different sets are the same stream of bytes.

    Attributes:
        rows: How many rows were taken in.
    """

    __slots__ = ("_hash", "rows")

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"edgekit calibration 1\n")
        self.rows = 0

    def update(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Take in one row.

        Raises:
            ConversionError: E0746, a feed has a type without plain bytes (objects); the row is not taken in.
        """
        for name, array in feeds.items():
            if array.dtype.hasobject:
                raise ConversionError(
                    "E0746",
                    f"feed {name} holds Python objects, which have no bytes to take a fingerprint of",
                    fix="give numbers, or text as a fixed-width numpy type",
                )
        self._hash.update(len(feeds).to_bytes(8, "little"))
        for name in sorted(feeds):
            little = feeds[name].astype(feeds[name].dtype.newbyteorder("<"), order="C", copy=False)
            shape = ",".join(str(length) for length in little.shape)
            for part in (name.encode(), little.dtype.str.encode(), shape.encode(), little.tobytes()):
                self._hash.update(len(part).to_bytes(8, "little"))
                self._hash.update(part)
        self.rows += 1

    def hexdigest(self) -> str:
        """Give the digest of the rows so far, 64 hexadecimal digits; more may follow."""
        return self._hash.hexdigest()
