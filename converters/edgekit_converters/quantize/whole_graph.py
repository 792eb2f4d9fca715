"""Rewrites that a transformer needs before every one of its operators is int8; float answers do not change."""

from collections.abc import Iterator

import torch
from torch import fx

from edgekit_converters.quantize.graph import Graph, add_tensor, parameter, set_tensor

__all__ = ["VIEWS", "branch_norms", "fold_score_scale", "only_summed", "residual_tensors"]

_ATEN = torch.ops.aten
_NORM, _LINEAR, _ADD = _ATEN.layer_norm.default, _ATEN.linear.default, _ATEN.add.Tensor
# Operators that move values and compute nothing: their output stands on the grid of their input.
VIEWS = frozenset(
    {
        _ATEN.permute.default,
        _ATEN.reshape.default,
        _ATEN.select.int,
        _ATEN.slice.Tensor,
        _ATEN.transpose.int,
        _ATEN.unsqueeze.default,
        _ATEN.view.default,
    }
)


def fold_score_scale(graph: Graph) -> int:
    """Move the factor on attention scores into the query layer: one tensor less that needs a grid.

    Returns:
        Number of factors that were moved.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        product = node.args[0] if node.target is _ATEN.mul.Tensor and isinstance(node.args[1], float) else None
        if not isinstance(product, fx.Node) or product.target is not _ATEN.matmul.default or len(product.users) != 1:
            continue
        query = product.args[0]
        while isinstance(query, fx.Node) and query.target in VIEWS and len(query.users) == 1:
            query = query.args[0]
        if not isinstance(query, fx.Node) or query.target is not _LINEAR or len(query.users) != 1:
            continue
        for place in (1, 2):
            value = parameter(graph, query.args[place]) if len(query.args) > place else None
            if value is not None:
                set_tensor(graph, query.args[place], value * node.args[1])
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)
        folded += 1
    graph.recompile()
    return folded


def branch_norms(graph: Graph) -> int:
    """Give each layer norm that feeds linear layers and a residual a twin for the residual.

    Each reader then gets its values from the norm with one rounding, on a grid of its own; and the norm in front of the
    linear layers can be smoothed without a product that puts the loud channels back.

    Returns:
        Number of norms that got a twin.
    """
    changed = 0
    for norm in _norms(graph):
        readers = [user for user in norm.users if user.target is _LINEAR and user.args[0] is norm]
        others = [user for user in norm.users if user not in readers]
        gamma, beta = parameter(graph, norm.args[2]), parameter(graph, norm.args[3])
        if not readers or not others or gamma is None or beta is None:
            continue
        path = str(norm.args[2].target).rpartition(".")[0]  # type: ignore[union-attr]
        with graph.graph.inserting_before(norm):
            held = add_tensor(graph, f"{path}.residual.weight", gamma.clone())
            shift = add_tensor(graph, f"{path}.residual.bias", beta.clone())
            twin = graph.graph.call_function(_NORM, (norm.args[0], norm.args[1], held, shift, *norm.args[4:]))
        for user in others:
            user.replace_input_with(norm, twin)
        changed += 1
    graph.recompile()
    return changed


def _norms(graph: Graph) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target is _NORM and len(node.args) > 3]


def residual_tensors(graph: Graph) -> dict[str, fx.Node]:
    """Give the computed tensors that a layer norm sums up, each with that sum.

    They are the sum itself, the outputs of linear layers that are added to it, and the norm's output of the block
    before. One grid for all their channels is what breaks int8: single channels are 30 times louder than the rest.

    Returns:
        By node name; the value is the node that the layer norm reads.
    """
    found: dict[str, fx.Node] = {}
    for norm in _norms(graph):
        total = norm.args[0]
        assert isinstance(total, fx.Node)
        for node in _summands(total):
            found.setdefault(node.name, total)
    return found


def only_summed(graph: Graph) -> dict[str, fx.Node]:
    """Give ``residual_tensors`` without norms that linear layers read too: those have a say in what their grid is."""
    sums = residual_tensors(graph)
    users = {node.name: [user.name for user in node.users] for node in graph.graph.nodes}
    return {
        name: total for name, total in sums.items() if name == total.name or all(user in sums for user in users[name])
    }


def _summands(total: fx.Node) -> Iterator[fx.Node]:
    waiting = [total]
    while waiting:
        node = waiting.pop()
        if node.op != "call_function" or node.target is _ATEN.embedding.default or node.target in VIEWS:
            continue
        yield node
        if node.target is _ADD:
            waiting += [side for side in node.args if isinstance(side, fx.Node)]
