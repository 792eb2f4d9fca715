"""Brings a traced network into the one form that plan, techniques and writers know: no batch norms, no 1-D kernels."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, add_tensor, parameter, set_tensor

__all__ = ["canonicalise"]

_ATEN = torch.ops.aten
_NORM, _CONV1D, _CONV2D = _ATEN.batch_norm.default, _ATEN.conv1d.default, _ATEN.conv2d.default
_DECOMPOSED_NORM = _ATEN._native_batch_norm_legit_no_training.default  # noqa: SLF001 - the operator's own name
_CHANNELS_FIRST = (_CONV1D, _CONV2D, _ATEN.linear.default)  # of their weights
_RELU6 = (_ATEN.relu6.default, _ATEN.relu6_.default)  # nn.ReLU6 is a hardtanh, its function is not
_HARD_SIGMOID = (_ATEN.hardsigmoid.default, _ATEN.hardsigmoid_.default)
_ELEMENTWISE = (_ATEN.relu.default, _ATEN.relu_.default, _ATEN.hardtanh.default)


def canonicalise(graph: Graph) -> Graph:
    """Fold batch norms into the layers before them, write 1-D convolutions as 2-D ones, and hard sigmoids as ReLU6.

    Both converters do the like on their own, each in its own way; the plan needs to know the weights that end up in the
    files.

    Args:
        graph: From ``trace``; changed in place.

    Returns:
        The same graph, with the same float answers up to rounding.
    """
    for node in list(graph.graph.nodes):
        if node.target is _DECOMPOSED_NORM:
            _respell(graph, node)
    for node in list(graph.graph.nodes):
        if node.target is _NORM:
            _fold(graph, node)
        elif node.target in _RELU6:
            node.target, node.args = _ATEN.hardtanh.default, (node.args[0], 0.0, 6.0)
    for node in list(graph.graph.nodes):
        if node.target is _CONV1D:
            _raise(graph, node)
        elif node.target in _HARD_SIGMOID:
            _write_out(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _respell(graph: Graph, norm: fx.Node) -> None:
    """Write a batch norm that gives statistics, too, as the plain one; writing out a recurrent network makes these."""
    *given, momentum, epsilon = norm.args
    users = list(norm.users)
    if len(users) != 1 or users[0].target is not operator.getitem or users[0].args[1] != 0:
        return
    with graph.graph.inserting_before(norm):
        plain = graph.graph.call_function(_NORM, (*given, False, momentum, epsilon, False))
    users[0].replace_all_uses_with(plain)
    for node in (users[0], norm):
        graph.graph.erase_node(node)


def _fold(graph: Graph, norm: fx.Node) -> None:
    """Fold ``y = gamma * (x - mean) / sqrt(var + eps) + beta`` into the layer that makes x and feeds nothing else."""
    layer = norm.args[0]
    if not (isinstance(layer, fx.Node) and layer.target in _CHANNELS_FIRST and len(layer.users) == 1):
        return
    weight = parameter(graph, layer.args[1])
    mean, variance = parameter(graph, norm.args[3]), parameter(graph, norm.args[4])
    if weight is None or mean is None or variance is None or bool(norm.args[5]):
        return
    gamma, beta = parameter(graph, norm.args[1]), parameter(graph, norm.args[2])
    # In float64, as one rounding is less than three.
    slope = (1.0 if gamma is None else gamma.double()) / (variance.double() + float(norm.args[7])).sqrt()  # type: ignore[arg-type]
    old = parameter(graph, layer.args[2]) if len(layer.args) > 2 else None
    shift = ((0.0 if old is None else old.double()) - mean.double()) * slope + (0.0 if beta is None else beta.double())
    set_tensor(graph, layer.args[1], (weight.double() * slope.reshape([-1] + [1] * (weight.dim() - 1))).float())
    _set_bias(graph, layer, shift.float())
    norm.replace_all_uses_with(layer)
    graph.graph.erase_node(norm)


def _set_bias(graph: Graph, layer: fx.Node, value: Tensor) -> None:
    if len(layer.args) > 2 and layer.args[2] is not None:
        set_tensor(graph, layer.args[2], value)
        return
    owner = str(layer.args[1].target).rpartition(".")[0]  # type: ignore[union-attr]
    with graph.graph.inserting_before(layer):
        held = add_tensor(graph, f"{owner}.bias" if owner else "bias", value)
    layer.args = (*layer.args[:2], held, *layer.args[3:])


def _raise(graph: Graph, node: fx.Node) -> None:
    """Write ``conv1d`` as unsqueeze, ``conv2d``, its activation, squeeze; two in a row stay 2-D in between."""
    weight = parameter(graph, node.args[1])
    if weight is None:
        return
    set_tensor(graph, node.args[1], weight.unsqueeze(2))
    defaults: tuple[Any, ...] = (None, 1, 0, 1, 1)
    given: list[Any] = [*node.args[2:], *defaults[len(node.args) - 2 :]]
    bias, stride, padding, dilation, groups = given
    with graph.graph.inserting_before(node):
        wide = _unsqueezed(graph, node.args[0])
        conv = graph.graph.call_function(
            _CONV2D,
            (
                wide,
                node.args[1],
                bias,
                [1, _single(stride)],
                [0, _single(padding)],
                [1, _single(dilation)],
                groups,
            ),
        )
        flat = graph.graph.call_function(_ATEN.squeeze.dim, (conv, 2))
    node.replace_all_uses_with(flat)
    graph.graph.erase_node(node)
    _sink(graph, flat)


def _unsqueezed(graph: Graph, source: object) -> fx.Node:
    assert isinstance(source, fx.Node)
    if source.target is _ATEN.squeeze.dim and source.args[1] == 2:
        before = source.args[0]
        assert isinstance(before, fx.Node)
        return before
    return graph.graph.call_function(_ATEN.unsqueeze.default, (source, 2))


def _sink(graph: Graph, flat: fx.Node) -> None:
    """Move a squeeze behind the activation that both engines fuse into the convolution."""
    users = list(flat.users)
    if len(users) != 1 or users[0].target not in _ELEMENTWISE:
        return
    active = users[0]
    active.replace_input_with(flat, flat.args[0])  # type: ignore[arg-type]
    with graph.graph.inserting_after(active):
        lower = graph.graph.call_function(_ATEN.squeeze.dim, (active, 2))
    active.replace_all_uses_with(lower, delete_user_cb=lambda user: user is not lower)
    graph.graph.erase_node(flat)


def _write_out(graph: Graph, node: fx.Node) -> None:
    """Write ``hardsigmoid(layer(x))`` as ``relu6(layer(x) + 3) / 6`` with the 3 in the bias, where TFLite puts it."""
    layer = node.args[0]
    if not (isinstance(layer, fx.Node) and layer.target in (_CONV2D, _ATEN.linear.default) and len(layer.users) == 1):
        return
    weight = parameter(graph, layer.args[1])
    if weight is None:
        return
    old = parameter(graph, layer.args[2]) if len(layer.args) > 2 else None
    _set_bias(graph, layer, (torch.zeros(len(weight)) if old is None else old) + 3.0)
    with graph.graph.inserting_before(node):
        cut = graph.graph.call_function(_ATEN.hardtanh.default, (layer, 0.0, 6.0))
        gate = graph.graph.call_function(_ATEN.mul.Tensor, (cut, 1.0 / 6.0))
    node.replace_all_uses_with(gate)
    graph.graph.erase_node(node)


def _single(value: object) -> int:
    found = value[0] if isinstance(value, (list, tuple)) else value
    assert isinstance(found, int), "a padding of 'same' is resolved by torch.export"
    return found
