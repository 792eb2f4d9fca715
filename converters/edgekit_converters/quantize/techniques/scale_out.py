"""Lets a linear layer with one huge output channel give int8: channels are evened out before the grid."""

import torch

from edgekit_converters.quantize.graph import Graph, add_tensor, layers, parameter, runs_once, set_tensor
from edgekit_converters.quantize.measure import Measured

__all__ = ["scale_outputs"]


def scale_outputs(graph: Graph, seen: dict[str, Measured], *, uneven: float = 8.0) -> int:
    """Divide the rows of uneven linear layers by the peak of their channel and multiply behind them.

    The product is written with a factor of shape (1, 1, C): the TFLite converter folds a factor of shape (C,) back into
    the weights, which undoes this without a word.

    Args:
        graph: Changed in place.
        seen: From ``measure`` on this graph.
        uneven: Layers whose largest channel peak is more than this many times the median are changed.

    Returns:
        Number of layers that were changed.

    Source:
        Bondarenko et al. 2021, section 4 (per-embedding-group activation ranges), as a rewrite of the float graph.
    """
    changed = 0
    for _, kind, node in list(layers(graph)):
        if kind != "linear" or node.name not in seen or len(node.users) == 0 or not runs_once(graph, node):
            continue
        peaks = seen[node.name].peaks.clamp(min=1e-3)
        weight, bias = parameter(graph, node.args[1]), parameter(graph, node.args[2] if len(node.args) > 2 else None)
        if weight is None or bias is None or float(peaks.max() / peaks.median()) <= uneven:
            continue
        if any(user.op == "output" for user in node.users):
            continue
        set_tensor(graph, node.args[1], weight / peaks[:, None])
        set_tensor(graph, node.args[2], bias / peaks)
        path = str(node.args[1].target).rpartition(".")[0]  # type: ignore[union-attr]
        with graph.graph.inserting_after(node):
            factor = add_tensor(graph, f"{path}.scale_out.factor", peaks.reshape(1, 1, -1))
        with graph.graph.inserting_after(factor):
            product = graph.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))
        node.replace_all_uses_with(product, delete_user_cb=lambda user, product=product: user is not product)  # type: ignore[misc]
        changed += 1
    graph.recompile()
    return changed
