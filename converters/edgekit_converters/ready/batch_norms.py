"""Folds batch norms into the layer before them, or writes them as a product and a sum where there is none."""

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.ready.spelling import add_constant

__all__ = ["fold_batch_norms"]

_ATEN = torch.ops.aten
_NORM, _CONV, _LINEAR = _ATEN.batch_norm.default, _ATEN.conv2d.default, _ATEN.linear.default


def fold_batch_norms(graph: Graph) -> int:
    """Fold in place: ``y = x * g + (beta - mean * g)`` with ``g = gamma / sqrt(variance + epsilon)``.

    Returns:
        Number of batch norms.

    Source:
        Ioffe and Szegedy 2015, section 3.1, at inference.
    """
    found = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not _NORM or node.args[5]:
            continue
        mean, variance = (parameter(graph, place) for place in node.args[3:5])
        if mean is None or variance is None:
            continue
        gamma, beta = (parameter(graph, place) for place in node.args[1:3])
        step = (torch.ones_like(mean) if gamma is None else gamma) / torch.sqrt(variance + node.args[7])
        shift = (torch.zeros_like(mean) if beta is None else beta) - mean * step
        before = node.args[0]
        fits = before.op == "call_function" and before.target in (_CONV, _LINEAR) and len(before.users) == 1
        weight = parameter(graph, before.args[1]) if fits else None
        plain = before.target is _CONV or _rank(before) == 2  # a norm reads dimension 1
        if weight is not None and plain:
            _into(graph, before, weight, step, shift)
            node.replace_all_uses_with(before)
        else:
            _apart(graph, node, step, shift)
        found += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return found


def _into(graph: Graph, layer: fx.Node, weight: Tensor, step: Tensor, shift: Tensor) -> None:
    old = parameter(graph, layer.args[2]) if len(layer.args) > 2 else None
    path = str(layer.args[1].target).rpartition(".")[0] or layer.name  # type: ignore[union-attr]
    with graph.graph.inserting_before(layer):
        scaled = weight * step.reshape([-1] + [1] * (weight.dim() - 1))
        fresh = add_constant(graph, f"{path}.weight", scaled)
        bias = add_constant(graph, f"{path}.bias", shift if old is None else old * step + shift)
    layer.args = (layer.args[0], fresh, bias, *layer.args[3:])


def _apart(graph: Graph, node: fx.Node, step: Tensor, shift: Tensor) -> None:
    shape = [1, -1] + [1] * (max(_rank(node), 2) - 2)
    with graph.graph.inserting_before(node):
        factor = add_constant(graph, f"{node.name}.factor", step.reshape(shape))
        term = add_constant(graph, f"{node.name}.term", shift.reshape(shape))
        product = graph.graph.call_function(_ATEN.mul.Tensor, (node.args[0], factor))
        node.replace_all_uses_with(graph.graph.call_function(_ATEN.add.Tensor, (product, term)))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return 0 if value is None else int(value.dim())
