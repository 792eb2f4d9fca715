"""Chooses the outputs of a foreign graph that are worth keeping, in the order that a plan is judged by."""

from collections.abc import Sequence

from torch import fx

from edgekit_converters.quantize.graph import Graph
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["arrange_outputs"]


def arrange_outputs(graph: Graph, specs: Sequence[TensorSpec], *, title: str) -> list[int]:
    """Drop outputs that are inputs handed through, and put float outputs first: a plan is judged by the first.

    Args:
        graph: Changed in place; gives a tuple.
        specs: Of its outputs.
        title: Name of the model, for errors.

    Returns:
        Places of the kept outputs in their new order.

    Raises:
        ConversionError: No output is left that is computed in float (E0788).
    """
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    given = end.args[0]
    kept = [place for place in range(len(specs)) if not _handed_through(given[place])]
    order = sorted(kept, key=lambda place: specs[place].dtype != "float32")
    if not order or specs[order[0]].dtype != "float32":
        raise ConversionError(
            "E0788",
            f"'{title}' computes no float output",
            why="int8 is judged by how near it stays to a float answer",
            fix="export the model so that it gives its logits or scores",
        )
    end.args = (tuple(given[place] for place in order),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return order


def _handed_through(node: fx.Node) -> bool:
    while node.op == "call_function" and "to" in str(node.target).split(".")[1:2]:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return node.op == "placeholder"
