"""What both formats have in common here: steps in order, tensors with grids, and parts that can be run alone."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import ConversionError

__all__ = ["Array", "Network", "Part", "Slice", "Step", "TensorGrid", "cut", "refused"]

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGrid:
    """Scale and zero point as a file holds them for one activation.

    Attributes:
        scale: Width of a step, in the tensor's unit.
        zero_point: Code of 0.
        dtype: Of the codes.
    """

    scale: float
    zero_point: int
    dtype: str

    @property
    def codes(self) -> tuple[int, int]:
        """Smallest and largest code."""
        ends = np.iinfo(self.dtype)
        return int(ends.min), int(ends.max)

    @property
    def limits(self) -> tuple[float, float]:
        """Values of the outermost codes."""
        low, high = self.codes
        return self.scale * (low - self.zero_point), self.scale * (high - self.zero_point)

    @property
    def signed_zero(self) -> int:
        """The zero point of the same grid with int8 codes, as a plan names it."""
        return self.zero_point - 128 if self.dtype == "uint8" else self.zero_point

    def quantise(self, values: Array) -> Array:
        """``clip(rint(x / scale) + zero_point)``; a NaN becomes the zero point, for there is no code for it."""
        low, high = self.codes
        steps = np.rint(values.astype(np.float32) / np.float32(self.scale)) + np.float32(self.zero_point)
        known = np.where(np.isnan(steps), np.float32(self.zero_point), steps)
        found: Array = known.clip(low, high).astype(self.dtype)
        return found

    def dequantise(self, codes: Array) -> NDArray[np.float32]:
        """``(q - zero_point) * scale``, float32."""
        values: NDArray[np.float32] = (codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return values

    def at_ends(self, codes: Array) -> NDArray[np.bool_]:
        """Tell which codes lie at an end of the grid; an end that is the code of 0 cuts nothing off."""
        low, high = self.codes
        found: NDArray[np.bool_] = np.zeros(codes.shape, np.bool_)
        if self.zero_point != low:
            found |= codes == low
        if self.zero_point != high:
            found |= codes == high
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator.

    Attributes:
        kind: Its name in the format.
        reads: Computed tensors that it reads; constants are left out.
        makes: Tensors that it makes.
        constant_bytes: Size of the constants that it reads.
    """

    kind: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    constant_bytes: int


def refused(outputs: Sequence[str], error: Exception) -> ConversionError:
    """Give the error for a piece that an engine cannot load or run: a damaged file, or an operator it does not know."""
    return ConversionError(
        "E0728",
        f"the engine refuses the part of the model that gives {outputs[0]}",
        why=str(error).strip()[:400],
        fix="check that the whole model runs: edgekit run; if it does, report the model",
    )


class Part(Protocol):
    """A piece of a network that was loaded into its engine."""

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Run once: inputs in the order of the cut, outputs likewise; the arrays belong to the caller."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class Network(Protocol):
    """A model file, float or int8, whose tensors are named by strings."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model takes."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it gives."""
        ...

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operators in order of execution."""
        ...

    @property
    def channels_last(self) -> bool:
        """Whether images are (N, H, W, C)."""
        ...

    def size(self, tensor: str) -> int:
        """Bytes of a tensor for one row."""
        ...

    def grid(self, tensor: str) -> TensorGrid | None:
        """Give the grid that a tensor's codes stand on; None for a float one."""
        ...

    def read_grid(self, tensor: str) -> TensorGrid | None:
        """Give the grid that the readers of a tensor put it on first; None where they take float."""
        ...

    def shown(self, tensor: str) -> str:
        """Give the tensor to look at in place of one that exists only inside a fused kernel."""
        ...

    def weights(self, inputs: Collection[str], output: str) -> NDArray[np.float32] | None:
        """Give the weights between tensors in float, as PyTorch holds them; None if there is no one layer between.

        Linear: (out, in); convolution: (out, in / groups, height, width).
        """
        ...

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Part:
        """Load the operators between tensors into the engine, one thread."""
        ...

    def part_bytes(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Give the same operators as a model file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The operators between tensors.

    Attributes:
        steps: Their numbers in order of execution.
        inputs: Those of the given tensors that they really read, in the given order.
        missing: Model inputs that they read besides.
    """

    steps: tuple[int, ...]
    inputs: tuple[str, ...]
    missing: tuple[str, ...]


def cut(network: Network, outputs: Iterable[str], stops: Collection[str]) -> Slice:
    """Find the operators that make ``outputs`` from ``stops``; a target that is a stop itself is still computed."""
    makers = {tensor: number for number, step in enumerate(network.steps) for tensor in step.makes}
    taken: set[int] = set()
    met: set[str] = set()
    free: set[str] = set()
    waiting = [makers[tensor] for tensor in outputs if tensor in makers]
    while waiting:
        number = waiting.pop()
        if number in taken:
            continue
        taken.add(number)
        for tensor in network.steps[number].reads:
            if tensor in stops:
                met.add(tensor)
            elif tensor in makers:
                waiting.append(makers[tensor])
            else:
                free.add(tensor)
    return Slice(
        steps=tuple(sorted(taken)),
        inputs=tuple(tensor for tensor in stops if tensor in met),
        missing=tuple(tensor for tensor in network.inputs if tensor in free),
    )
