"""Runs a float graph over rows and shows chosen tensors on the way; everything else runs as without a watcher."""

from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.rows import Row
from edgekit_runtime.errors import ConversionError

__all__ = ["watch"]


def watch(
    graph: fx.GraphModule, rows: Iterable[Row], names: Collection[str], look: Callable[[str, Tensor], None]
) -> Iterator[int]:
    """Run one row after the other; give the number of each, counted from 0, when it is done.

    The calls of ``look`` are written into a copy of the graph, which shares the weights: an interpreter that asks at
    every node takes a quarter longer on a small transformer.

    Args:
        graph: Left as it is.
        rows: One is held at a time.
        names: Of the nodes whose tensors are shown.
        look: Takes the name and the tensor, which it must neither keep nor change.

    Raises:
        ConversionError: ``look`` refused a tensor, and the row is told; or the model cannot run a row (E0736).
    """
    run = _with_calls(graph, names, look)
    for number, row in enumerate(rows):
        try:
            with torch.no_grad():
                run(*row)
        except ConversionError as error:
            what = f"{error.what}; it is row {number}, counted from 0"
            raise ConversionError(error.code, what, why=error.why, fix=error.fix) from error
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ConversionError(
                "E0736",
                f"the model cannot run calibration row {number}, counted from 0",
                why=str(error).strip().partition("\n")[0],
                fix="check the row: token ids must be in the vocabulary, sentences no longer than the model takes",
            ) from error
        yield number


def _with_calls(
    graph: fx.GraphModule, names: Collection[str], look: Callable[[str, Tensor], None]
) -> Callable[..., object]:
    copied = fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    result = copied.graph_copy(graph.graph, places)
    for old, new in places.items():
        if old.name in names:
            with copied.inserting_after(new):
                copied.call_function(look, (old.name, new))
    copied.output(result)
    return fx.GraphModule(graph, copied)
