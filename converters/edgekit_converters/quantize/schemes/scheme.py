"""Names the scheme of a layer's weights in a plan; a digest ties the plan to the codes that both files hold."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np

from edgekit_converters.quantize.schemes.lookup import Coded
from edgekit_runtime.errors import ConversionError

__all__ = ["Rounding", "SchemeKind", "WeightScheme", "digest_of"]

SchemeKind = Literal["int4", "power-of-two", "codebook"]
Rounding = Literal["nearest", "gptq", "adaround"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """How the weights of one layer are coded.

    Attributes:
        kind: Linear 4-bit codes, powers of two, or places in a table of 16 values.
        block: Neighbouring inputs that share a scale (int4); 0 = one scale per output channel, or no scale at all.
        rounding: What chose the codes.
        sha256: Of the codes with their scales or table, from ``digest_of``.
    """

    kind: SchemeKind
    block: int
    rounding: Rounding
    sha256: str

    def __post_init__(self) -> None:
        if self.block < 0 or len(self.sha256) != 64:
            raise ConversionError("E0796", f"the plan holds an impossible weight scheme: {self}", fix="build again")


def digest_of(coded: Coded) -> str:
    """Give sha256 (hex) of codes, scales and table: names, shapes and bytes, whatever file they come from."""
    digest = sha256(type(coded).__name__.encode())
    for name in ("codes", "scales", "table"):
        values = getattr(coded, name, None)
        if values is not None:
            digest.update(f"{name}{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
