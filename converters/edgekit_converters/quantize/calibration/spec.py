"""How the range of one tensor is to be chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edgekit_runtime.errors import UsageError

__all__ = ["METHODS", "RANGE_SOURCES", "Method", "ObserverSpec", "RangeMethod"]

Method = Literal["minmax", "percentile", "entropy", "mse", "channel_max"]
RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
# Where the methods that may clip come from.
RANGE_SOURCES: Mapping[RangeMethod, str] = MappingProxyType(
    {
        "percentile": "Wu et al. 2020, section 5.2; 99.99 %",
        "entropy": "Migacz 2017, 8-bit inference with TensorRT",
        "mse": "Banner et al. 2019, section 3",
    }
)
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse", "channel_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverSpec:
    """Settings of one observer.

    Attributes:
        method: ``minmax`` keeps every value; ``percentile``, ``entropy`` and ``mse`` may clip; ``channel_max`` keeps
            the largest absolute value of each channel.
        percentile: Share of the values that ``percentile`` keeps, in percent, above 0 and at most 100. Half of the rest
            may be clipped at either end; with ``symmetric`` it counts absolute values.
        bits: Width of the codes that ``entropy`` and ``mse`` plan for, 2 to 16.
        symmetric: Give ``[-t, t]`` instead of a low and a high end of their own.
        bins: Most bins that a histogram may have, 64 to 65536. At least about half of them span the values and zero.
        axis: Channel dimension of ``channel_max``; negative counts from the end.
    """

    method: Method
    percentile: float = 99.99
    bits: int = 8
    symmetric: bool = False
    bins: int = 4096
    axis: int = -1

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {value!r}; {wanted}"
            for name, value, good, wanted in (
                ("method", self.method, self.method in METHODS, f"known: {', '.join(METHODS)}"),
                ("percentile", self.percentile, 0 < self.percentile <= 100, "wanted: above 0, at most 100"),
                ("bits", self.bits, 2 <= self.bits <= 16, "wanted: 2 to 16"),
                ("bins", self.bins, 64 <= self.bins <= 65536, "wanted: 64 to 65536"),
            )
            if not good
        ]
        if wrong:
            raise UsageError("E0136", f"impossible observer: {'; '.join(wrong)}", fix="correct the value")
