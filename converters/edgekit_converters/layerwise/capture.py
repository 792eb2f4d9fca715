"""Runs a network in pieces that fit into the RAM they may take, and keeps the tensors that are asked for on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit_converters.layerwise.network import Array, Network, Step
from edgekit_runtime.errors import UsageError

__all__ = ["Piece", "Store", "capture", "pieces"]

_COPIES = 5  # of a constant: as read, twice while the piece is written, in the engine, and repacked for its kernels


@dataclass(slots=True)
class Store:
    """Tensors of several rows on disk, one file each, read back row by row; nothing is mapped into memory.

    Attributes:
        folder: Of the files.
        seen: Type, shape of a row and number of rows by tensor.
    """

    folder: Path
    seen: dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int]] = field(default_factory=dict)
    _files: dict[str, Path] = field(default_factory=dict)

    def put(self, tensor: str, value: Array) -> None:
        """Append a row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._files.setdefault(tensor, self.folder / f"{len(self._files)}.raw")
        _, _, rows = self.seen.get(tensor, (value.dtype, value.shape, 0))
        with path.open("ab") as stream:
            stream.write(np.ascontiguousarray(value).data if value.size else b"")
        self.seen[tensor] = (value.dtype, value.shape, rows + 1)

    def get(self, tensor: str, row: int) -> Array:
        """Read a row."""
        dtype, shape, rows = self.seen[tensor]
        assert 0 <= row < rows
        count = int(np.prod(shape, dtype=np.int64))
        found: Array = np.fromfile(self._files[tensor], dtype, count, offset=row * count * dtype.itemsize)
        return found.reshape(shape)

    def drop(self, tensor: str) -> None:
        """Forget a tensor and free its file."""
        if tensor in self.seen:
            del self.seen[tensor]
            self._files[tensor].unlink()

    def clear(self) -> None:
        """Forget all tensors."""
        for tensor in list(self.seen):
            self.drop(tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Operators that follow one another.

    Attributes:
        inputs: What they read of the model's inputs and of earlier pieces.
        outputs: What is asked for, and what later pieces read.
        spent: Tensors that nobody reads after this piece.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    spent: tuple[str, ...]


def pieces(network: Network, wanted: Sequence[str], *, budget_bytes: int) -> list[Piece]:
    """Split a network so that a piece's constants, their copies and what is captured in it stay below a budget.

    Raises:
        UsageError: One operator alone takes more (E0178).
    """
    steps = _needed(network.steps, wanted)
    last_read = {tensor: number for number, step in enumerate(steps) for tensor in step.reads}
    asked = frozenset(wanted)
    groups: list[list[int]] = []
    held = 0
    for number, step in enumerate(steps):
        cost = _COPIES * step.constant_bytes + 2 * sum(network.size(tensor) for tensor in step.makes)
        if cost > budget_bytes:
            raise UsageError(
                "E0178",
                f"--max-ram leaves {budget_bytes / 1e6:.0f} MB for one operator, {step.kind} needs {cost / 1e6:.0f}",
                why=f"it has {step.constant_bytes / 1e6:.0f} MB of constants, which are copied {_COPIES} times",
                fix="allow more with --max-ram",
            )
        if not groups or held + cost > budget_bytes:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += cost
    found = []
    for group in groups:
        made = {tensor for number in group for tensor in steps[number].makes}
        reads = dict.fromkeys(tensor for number in group for tensor in steps[number].reads)
        end = group[-1]
        outputs = [
            tensor
            for number in group
            for tensor in steps[number].makes
            if tensor in asked or last_read.get(tensor, -1) > end
        ]
        inputs = [tensor for tensor in reads if tensor not in made]
        spent = [tensor for tensor in inputs if last_read[tensor] <= end and tensor not in asked]
        found.append(Piece(inputs=tuple(inputs), outputs=tuple(outputs), spent=tuple(spent)))
    return [piece for piece in found if piece.outputs]


def _needed(steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    """Leave out what no wanted tensor depends on."""
    alive, kept = set(wanted), []
    for step in reversed(steps):
        if alive.intersection(step.makes):
            alive.update(step.reads)
            kept.append(step)
    return kept[::-1]


def capture(
    network: Network,
    rows: Sequence[Mapping[str, Array]],
    wanted: Sequence[str],
    store: Store,
    *,
    budget_bytes: int,
) -> None:
    """Run rows through a network, piece by piece, and put the wanted tensors into ``store``.

    Args:
        network: To run.
        rows: Model inputs by tensor.
        wanted: Tensors; model inputs may be among them.
        store: Where they go.
        budget_bytes: RAM that one piece may take, see ``pieces``.
    """
    given = set(network.inputs)
    for tensor in dict.fromkeys(wanted):
        if tensor in given:
            for row in rows:
                store.put(tensor, row[tensor])
    for piece in pieces(network, wanted, budget_bytes=budget_bytes):
        part = network.part(piece.inputs, piece.outputs)
        for number, row in enumerate(rows):
            values = [row[name] if name in given else store.get(name, number) for name in piece.inputs]
            for name, value in _pairs(piece.outputs, part.run(values)):
                store.put(name, value)
        part.close()
        for tensor in piece.spent:
            store.drop(tensor)


def _pairs(names: Sequence[str], values: list[Array]) -> Iterator[tuple[str, Array]]:
    yield from zip(names, values, strict=True)
