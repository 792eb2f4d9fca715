"""Observers: each watches one tensor over all calibration rows and then gives its range.

How they take what is unusual:

* no row: ``range`` raises E0135. One row, one value: the range of that row.
* NaN or infinity: E0740 with the tensor's name; nothing of that tensor is counted.
* a constant tensor: ``[c, c]``, all zeros ``[0, 0]`` (``symmetric``: ``[-|c|, |c|]``); the grid takes in 0 by itself.
* another rank than before, or for channels another number: E0742. No elements: E0743. Not float32: E0744.

Every range is independent of the order of the rows and of how they are cut into updates, bit for bit. No range reaches
beyond the values seen, except for the mirrored end of a ``symmetric`` one.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.entropy import entropy_range
from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram
from edgekit_converters.quantize.calibration.incoming import Incoming, not_finite, nothing_seen
from edgekit_converters.quantize.calibration.mse import mse_range
from edgekit_converters.quantize.calibration.percentile import percentile_range
from edgekit_converters.quantize.calibration.spec import Method, ObserverSpec
from edgekit_converters.quantize.grid import Range

__all__ = ["ChannelMaxObserver", "HistogramObserver", "MinMaxObserver", "Observer", "State", "make_observer"]

State = Mapping[str, NDArray[np.generic]]


class Observer(Protocol):
    """Watches one tensor."""

    @property
    def name(self) -> str:
        """Of the tensor, for messages."""

    @property
    def spec(self) -> ObserverSpec:
        """What it was made from."""

    def update(self, values: torch.Tensor) -> None:
        """Take in a float32 tensor on the CPU, real tokens only; it is neither kept nor changed.

        Raises:
            ConversionError: E0740 to E0744, see the module; the observer is as it was before.
        """

    def range(self) -> Range:
        """Give the range of all that was taken in; more may follow.

        Raises:
            UsageError: E0135, nothing was.
        """

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Give all it knows, in a few small arrays of its own."""

    def restore(self, state: State) -> None:
        """Go on from the ``state()`` of an observer with the same ``spec``.

        Raises:
            KeyError: An array is absent.
            ValueError: The arrays are not such a state.
        """


class MinMaxObserver:
    """Keeps the smallest and the largest value."""

    __slots__ = ("_high", "_incoming", "_low", "name", "spec")

    def __init__(self, spec: ObserverSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self._incoming = Incoming(name)
        self._low, self._high = math.inf, -math.inf

    def update(self, values: torch.Tensor) -> None:
        low, high = self._incoming.ends(values)
        self._low, self._high = min(low, self._low), max(high, self._high)

    def range(self) -> Range:
        if not self._incoming.seen:
            raise nothing_seen(self.name)
        if self.spec.symmetric:
            end = max(abs(self._low), abs(self._high))
            return Range(0.0 - end, end)
        return Range(self._low, self._high)

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {"shape": self._incoming.state(), "ends": np.array([self._low, self._high], np.float64)}

    def restore(self, state: State) -> None:
        low, high = (float(value) for value in state["ends"])
        self._incoming.restore(state["shape"])
        self._low, self._high = low, high


class HistogramObserver:
    """Keeps a histogram, in which one of the searches finds the range."""

    __slots__ = ("_histogram", "_incoming", "name", "spec")

    def __init__(self, spec: ObserverSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self._incoming = Incoming(name)
        self._histogram = AdaptiveHistogram(spec.bins)

    def update(self, values: torch.Tensor) -> None:
        low, high = self._incoming.ends(values)
        self._histogram.add(values, low, high)

    def range(self) -> Range:
        if not self._incoming.seen:
            raise nothing_seen(self.name)
        found = _SEARCHES[self.spec.method](self._histogram, self.spec)
        return Range(found.low + 0.0, found.high + 0.0)  # no -0.0, which would be another number in a file

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {"shape": self._incoming.state(), **self._histogram.state()}

    def restore(self, state: State) -> None:
        self._histogram.restore(state)
        self._incoming.restore(state["shape"])


class ChannelMaxObserver:
    """Keeps the largest absolute value of each channel, for smoothing and for finding outlier channels."""

    __slots__ = ("_incoming", "_largest", "name", "spec")

    def __init__(self, spec: ObserverSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self._incoming = Incoming(name, axis=spec.axis)
        self._largest = torch.zeros(0)

    def update(self, values: torch.Tensor) -> None:
        self._incoming.check(values)
        values = values.detach()
        others = [i for i in range(values.ndim) if i != self.spec.axis % values.ndim]
        # Without a copy of the tensor, which abs() would be.
        largest = torch.maximum(values.amax(others), -values.amin(others)).abs_() if others else values.abs()
        if not math.isfinite(float(largest.max())):
            raise not_finite(self.name, float(values.min()), float(values.max()))
        self._largest = torch.maximum(self._largest, largest) if self._incoming.seen else largest
        self._incoming.accept(values)

    def per_channel(self) -> NDArray[np.float32]:
        """Give the largest absolute value of each channel, shape (channels,).

        Raises:
            UsageError: E0135, nothing was taken in.
        """
        if not self._incoming.seen:
            raise nothing_seen(self.name)
        return self._largest.numpy().copy()

    def range(self) -> Range:
        end = float(self.per_channel().max())
        return Range(0.0 - end, end)

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {"shape": self._incoming.state(), "largest": self._largest.numpy().copy()}

    def restore(self, state: State) -> None:
        largest = np.array(state["largest"], np.float32)
        if len(largest) != max(int(state["shape"][1]), 0):
            raise ValueError(f"{len(largest)} maxima for {state['shape'][1]} channels")
        self._incoming.restore(state["shape"])
        self._largest = torch.from_numpy(largest)


_SEARCHES: Mapping[Method, Callable[[AdaptiveHistogram, ObserverSpec], Range]] = MappingProxyType(
    {"percentile": percentile_range, "entropy": entropy_range, "mse": mse_range}
)
_OBSERVERS: Mapping[Method, Callable[[ObserverSpec, str], Observer]] = MappingProxyType(
    {"minmax": MinMaxObserver, "channel_max": ChannelMaxObserver, **dict.fromkeys(_SEARCHES, HistogramObserver)}
)


def make_observer(spec: ObserverSpec, name: str) -> Observer:
    """Make the observer that ``spec`` describes, for the tensor ``name``."""
    return _OBSERVERS[spec.method](spec, name)
