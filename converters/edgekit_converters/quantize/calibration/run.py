"""Calibration: one pass of rows through the float graph, an observer at every tensor that gets a grid."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.observers import ChannelMaxObserver, Observer, make_observer
from edgekit_converters.quantize.calibration.rows import Row, rows_digest
from edgekit_converters.quantize.calibration.spec import ObserverSpec, RangeMethod
from edgekit_converters.quantize.calibration.state_file import load_state, save_state
from edgekit_converters.quantize.calibration.watch import watch
from edgekit_converters.quantize.graph import after_activation, layers, parameter
from edgekit_converters.quantize.grid import Range
from edgekit_runtime.errors import ConversionError, UsageError

__all__ = ["Checkpoint", "Measured", "measure"]


@dataclass(slots=True)
class Measured:
    """What calibration saw of one tensor.

    Attributes:
        range: That the grid is made from: smallest and largest value, or narrower if the method clips.
        peaks: Largest absolute value of each channel, float32 (channels,): dimension 1 at convolutions, the last one
            elsewhere. Empty if they were not asked for.
    """

    range: Range
    peaks: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a calibration that was killed goes on from.

    Attributes:
        folder: Holds one file a calibration, named after its rows, graph and method; made when the first is written.
        every_s: Seconds between two writes; a calibration that is faster than that writes nothing.
    """

    folder: Path
    every_s: float = 20.0


def measure(
    graph: fx.GraphModule,
    rows: Iterable[Row],
    *,
    ranges: RangeMethod = "minmax",
    gridded: Callable[[str], bool] | None = None,
    peaks: bool = True,
    resume: Checkpoint | None = None,
) -> dict[str, Measured]:
    """Measure the inputs and outputs of linear and convolution layers; one row in memory at a time.

    The result depends on the rows alone: not on their order, nor on how often the run was killed and resumed.

    Args:
        graph: Left as it is.
        rows: Any number, from ``as_rows``; a sequence if ``resume`` is given.
        ranges: How a range is chosen from the values.
        gridded: Whether a layer, by name, needs ranges; None = all do. Fewer cost less.
        peaks: Measure channels too.
        resume: Go on from there; None = start at the first row and write nothing.

    Returns:
        By the name of the node that makes the tensor.

    Raises:
        ConversionError: A value is not finite (E0740), or the model cannot run a row (E0736).
        UsageError: There is no row (E0135), or ``rows`` cannot be read twice for ``resume`` (E0134).
    """
    axes = _tensors(graph, gridded)
    specs = {name: ObserverSpec(method=ranges) for name in axes}
    if peaks:
        specs |= {_channels(name): ObserverSpec(method="channel_max", axis=axis) for name, axis in axes.items()}
    if resume is None:
        observers: Mapping[str, Observer] = {name: make_observer(spec, name) for name, spec in specs.items()}
        for _ in watch(graph, rows, axes, _look(observers)):
            pass
    else:
        if not isinstance(rows, Sequence):
            raise UsageError("E0134", "rows cannot be read twice, which resuming needs", fix="give rows from as_rows")
        observers = _resumed(graph, rows, axes, specs, resume)
    return {
        name: Measured(observers[name].range(), _peaks(observers[_channels(name)]) if peaks else torch.zeros(0))
        for name in axes
    }


def _tensors(graph: fx.GraphModule, gridded: Callable[[str], bool] | None) -> dict[str, int]:
    """Give the tensors to watch and their channel dimensions."""
    found: dict[str, int] = {}
    for name, kind, node in layers(graph):
        if kind != "embedding" and (gridded is None or gridded(name)):
            for tensor in (str(node.args[0]), after_activation(node).name):
                if kind == "linear" or tensor not in found:
                    found[tensor] = -1 if kind == "linear" else 1
    return found


def _channels(name: str) -> str:
    return f"{name} by channel"


def _look(observers: Mapping[str, Observer]) -> Callable[[str, Tensor], None]:
    pairs = {name: (one, observers.get(_channels(name))) for name, one in observers.items()}

    def look(name: str, values: Tensor) -> None:
        whole, channels = pairs[name]
        whole.update(values)
        if channels is not None:
            channels.update(values)

    return look


def _peaks(observer: Observer) -> Tensor:
    assert isinstance(observer, ChannelMaxObserver)
    return torch.from_numpy(observer.per_channel())


def _resumed(
    graph: fx.GraphModule,
    rows: Sequence[Row],
    axes: Mapping[str, int],
    specs: Mapping[str, ObserverSpec],
    resume: Checkpoint,
) -> Mapping[str, Observer]:
    """Run the rows that no state file has seen, and write one from time to time."""
    fingerprint = _fingerprint(graph, rows, specs)
    path = resume.folder / f"{fingerprint[:32]}.npz"
    observers, done = _start(path, specs, fingerprint)
    written, last = bool(done), time.monotonic()

    def save(number: int) -> None:
        resume.folder.mkdir(parents=True, exist_ok=True)
        save_state(path, observers, rows_done=number, fingerprint=fingerprint)

    for number in watch(graph, islice(rows, done, None), axes, _look(observers)):
        if time.monotonic() - last >= resume.every_s:
            save(done + number + 1)
            written, last = True, time.monotonic()
    if written and done < len(rows):  # the next start need not run even the last rows
        save(len(rows))
    return observers


def _start(path: Path, specs: Mapping[str, ObserverSpec], fingerprint: str) -> tuple[Mapping[str, Observer], int]:
    """Give the observers of the state file, or new ones: a file that cannot be read only saves no time."""
    if path.is_file():
        try:
            state = load_state(path, specs, fingerprint=fingerprint)
        except ConversionError:
            path.unlink(missing_ok=True)
        else:
            return state.observers, state.rows_done
    return {name: make_observer(spec, name) for name, spec in specs.items()}, 0


def _fingerprint(graph: fx.GraphModule, rows: Sequence[Row], specs: Mapping[str, ObserverSpec]) -> str:
    """Give a digest of all that the ranges depend on: rows, operators, weights, settings, and PyTorch's kernels."""
    digest = hashlib.sha256(f"{torch.__version__}\n{rows_digest(graph, rows)}\n{graph.graph}\n{specs}\n".encode())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = parameter(graph, node)
            assert value is not None
            digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
