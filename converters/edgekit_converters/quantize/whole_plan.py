"""The plan of a network in which every operator reads and gives integers: a grid for every tensor."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from edgekit_converters.quantize.plan import Technique
from edgekit_runtime.errors import ConversionError

__all__ = ["Residual", "TensorGrid", "WholePlan", "grid_between", "grid_of_constant"]

Residual = Literal["int8", "int16"]
_SMALLEST = 1e-9  # scale of a tensor that is always 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGrid:
    """The grid of one tensor: ``q = clip(rint(x / scale) + zero_point)``.

    Attributes:
        scale: Width of a step, a float32 value; above 0.
        zero_point: Code of 0.0; 0 for 16 bits, which are symmetric.
        bits: 8 or 16.
    """

    scale: float
    zero_point: int
    bits: Literal[8, 16] = 8

    def __post_init__(self) -> None:
        low, high = self.codes
        if not (self.scale > 0 and low <= self.zero_point <= high) or (self.bits == 16 and self.zero_point != 0):
            raise ConversionError("E0773", f"the plan holds an impossible grid: {self}", fix="build again")

    @property
    def codes(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def apply(self, x: Tensor) -> Tensor:
        """Round a float tensor to the grid, in float32 as engines do that have no integer kernel."""
        low, high = self.codes
        return x.div(self.scale).round_().add_(self.zero_point).clamp_(low, high).sub_(self.zero_point).mul_(self.scale)


def grid_between(low: float, high: float, *, bits: Literal[8, 16] = 8) -> TensorGrid:
    """Give the grid that holds 0 and all values from ``low`` to ``high``: asymmetric in 8 bits, symmetric in 16."""
    if bits == 16:
        return TensorGrid(scale=_float32(max(abs(low), abs(high)) / 32767), zero_point=0, bits=16)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _float32((high - low) / 255)
    return TensorGrid(scale=scale, zero_point=min(127, max(-128, round(-128 - low / scale))))


def grid_of_constant(value: Tensor, *, bits: Literal[8, 16] = 8) -> TensorGrid:
    """Give the symmetric grid of a constant; its largest absolute value has the code 127 (32,767)."""
    peak = float(value.abs().max())
    return TensorGrid(scale=_float32(peak / (2 ** (bits - 1) - 1)), zero_point=0, bits=bits)


def _float32(scale: float) -> float:
    return float(torch.tensor(max(scale, _SMALLEST), dtype=torch.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class WholePlan:
    """Every tensor of a network.

    Attributes:
        residual: Bits of the tensors that a layer norm sums up.
        tensors: Grid by node of the traced graph, computed tensors and constants. Views have none: they stand on the
            grid of their input. Weights and biases of linear layers have none: int8 per output channel
            (``absmax / 127``), and int32 on the grid of the accumulator.
        techniques: What was tried, in order.
    """

    residual: Residual
    tensors: Mapping[str, TensorGrid]
    techniques: tuple[Technique, ...]

    def to_json(self) -> str:
        """Give the file's text; the same plan gives the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"
