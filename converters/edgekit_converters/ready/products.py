"""Makes linear layers of matrix products with a constant, and gives layers the biases that follow them."""

from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.ready.patterns import number
from edgekit_converters.ready.spelling import add_constant

__all__ = ["absorb_biases", "products_to_linear"]

_ATEN = torch.ops.aten
_LINEAR, _CONV = _ATEN.linear.default, _ATEN.conv2d.default
_PRODUCTS = (_ATEN.mm.default, _ATEN.matmul.default)


def products_to_linear(graph: Graph) -> int:
    """Write ``x @ W``, ``W @ x`` and ``b + x @ W`` with constant W as ``aten.linear``.

    Returns:
        Number of products changed.
    """
    found = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is _ATEN.addmm.default:
            found += _from_addmm(graph, node)
        elif node.target in _PRODUCTS:
            found += _from_product(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return found


def _from_addmm(graph: Graph, node: fx.Node) -> bool:
    bias, x, weight = node.args[:3]
    held, shift = parameter(graph, weight), parameter(graph, bias)
    scaled = any(value != 1 for value in node.kwargs.values())
    if held is None or shift is None or scaled or shift.numel() not in (1, held.shape[1]):
        return False
    with graph.graph.inserting_before(node):
        turned = _constant(graph, weight, held.t())
        if shift.dim() != 1 or shift.numel() != held.shape[1]:
            bias = _constant(graph, bias, shift.reshape(-1).expand(held.shape[1]), part="bias")
        node.replace_all_uses_with(graph.graph.call_function(_LINEAR, (x, turned, bias)))
    return True


def _from_product(graph: Graph, node: fx.Node) -> bool:
    left, right = (parameter(graph, side) for side in node.args[:2])
    if right is not None and left is None and right.dim() == 2:
        with graph.graph.inserting_before(node):
            turned = _constant(graph, node.args[1], right.t())
            fresh = graph.graph.call_function(_LINEAR, (node.args[0], turned))
    elif left is not None and right is None and left.dim() == 2 and _rank(node) >= 2:
        # W @ x is (x' @ W')', and x' @ W' is a linear layer with the weight W itself.
        with graph.graph.inserting_before(node):
            weight = _constant(graph, node.args[0], left)
            flat = graph.graph.call_function(_ATEN.transpose.int, (node.args[1], -1, -2))
            product = graph.graph.call_function(_LINEAR, (flat, weight))
            fresh = graph.graph.call_function(_ATEN.transpose.int, (product, -1, -2))
    else:
        return False
    node.replace_all_uses_with(fresh)
    return True


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return 0 if value is None else int(value.dim())


def _constant(graph: Graph, source: Any, value: Tensor, *, part: str = "weight") -> fx.Node:  # noqa: ANN401 - an fx argument
    owner = str(source.target).rpartition(".")[0] or str(source.target)
    return add_constant(graph, f"{owner if owner in dict(graph.named_modules()) else 'products'}.{part}", value)


def absorb_biases(graph: Graph) -> int:
    """Make a constant that is added to a layer's output, one number per channel, the layer's bias.

    Returns:
        Number of sums that went into a layer.
    """
    found = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not _ATEN.add.Tensor or node.kwargs:
            continue
        for place in (0, 1):
            layer, shift = node.args[place], node.args[1 - place]
            if isinstance(layer, fx.Node) and layer.target in (_LINEAR, _CONV) and len(layer.users) == 1:
                fresh = _bias(graph, layer, shift)
                if fresh is not None:
                    _set_bias(graph, layer, fresh)
                    node.replace_all_uses_with(layer)
                    found += 1
                    break
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return found


def _bias(graph: Graph, layer: fx.Node, shift: Any) -> Tensor | None:  # noqa: ANN401 - an fx argument
    """Give the layer's bias with ``shift`` added; None if it is not one number per channel."""
    weight, added = parameter(graph, layer.args[1]), parameter(graph, shift)
    single = number(graph, shift)
    if weight is None or (added is None and single is None):
        return None
    channels = weight.shape[0]
    if added is None or added.numel() == 1:
        added = torch.full((channels,), float(single or 0.0))
    elif layer.target is _LINEAR:
        if added.shape[-1] != channels or added.numel() != channels:
            return None
    elif added.numel() != channels or added.dim() < 3 or added.shape[-3] != channels:
        return None
    old = parameter(graph, layer.args[2]) if len(layer.args) > 2 else None
    if old is None and len(layer.args) > 2 and layer.args[2] is not None:
        return None
    return added.reshape(-1).float() if old is None else added.reshape(-1) + old


def _set_bias(graph: Graph, layer: fx.Node, value: Tensor) -> None:
    with graph.graph.inserting_before(layer):
        bias = _constant(graph, layer.args[1], value, part="bias")
    layer.args = (*layer.args[:2], bias, *layer.args[3:])
