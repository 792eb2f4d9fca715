"""Evens out the channels between two layers, which share one grid however unlike their ranges are."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, add_tensor, layers, parameter, runs_once, set_tensor
from edgekit_converters.quantize.measure import Measured

__all__ = ["equalise", "equalise_relu6"]

_ATEN = torch.ops.aten
_CONV, _LINEAR, _RELU6, _RELU = _ATEN.conv2d.default, _ATEN.linear.default, _ATEN.hardtanh.default, _ATEN.relu.default
# f(s * x) = s * f(x) for s above 0, channel by channel.
_PASSES = (_RELU, _ATEN.relu_.default, _ATEN.dropout.default)
_POOLS = (
    _ATEN.avg_pool2d.default,
    _ATEN.max_pool2d.default,
    _ATEN.adaptive_avg_pool2d.default,
    _ATEN.flatten.using_ints,
)
_ROUNDS = 20  # pairs share layers; twenty sweeps leave less than a per mille to even out
_LEAST = 1e-6


def equalise(graph: Graph, seen: dict[str, Measured]) -> int:
    """Divide each channel between two layers by ``s`` in the first and multiply it in all that read it.

    ``s = sqrt(r1 / r2)``, with r1 and r2 the largest absolute weight that writes and that reads the channel, so that
    both become equal. Exact in float because ReLU, pooling and the like let a positive factor through.

    Args:
        graph: Batch norms folded; changed in place.
        seen: Not needed: the weights say it all.

    Returns:
        Number of layers whose outputs were rescaled.

    Source:
        Nagel et al. 2019, data-free quantisation, section 4.1 and eq. 11.
    """
    del seen
    return _equalise(graph, through_relu6=False)


def equalise_relu6(graph: Graph, seen: dict[str, Measured]) -> int:
    """As ``equalise``, also through ReLU6, which becomes a ReLU and a minimum with ``6 / s`` per channel.

    Exact whatever the input; the price is an operator more for each ReLU6.
    """
    del seen
    return _equalise(graph, through_relu6=True)


def _equalise(graph: Graph, *, through_relu6: bool) -> int:
    pairs: list[tuple[fx.Node, list[fx.Node], list[fx.Node]]] = []
    for _, kind, node in layers(graph):
        if kind == "embedding" or not runs_once(graph, node):
            continue
        caps: list[fx.Node] = []
        readers = _readers(graph, node, caps, channels=len(_weight(graph, node)), image=kind == "conv")
        if readers and (not caps or through_relu6):
            pairs.append((node, readers, caps))
    if through_relu6 and not any(caps for _, _, caps in pairs):
        return 0
    total = {node.name: torch.ones(len(_weight(graph, node))) for node, _, _ in pairs}
    for _ in range(_ROUNDS):
        for node, readers, _ in pairs:
            total[node.name] *= _even_out(graph, node, readers)
    for node, _, caps in pairs:
        for cap in caps:
            _replace_relu6(graph, cap, 6.0 / total[node.name])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(pairs)


def _weight(graph: Graph, node: fx.Node) -> Tensor:
    weight = parameter(graph, node.args[1])
    assert weight is not None
    return weight


def _readers(graph: Graph, node: fx.Node, caps: list[fx.Node], *, channels: int, image: bool) -> list[fx.Node] | None:
    """Give the layers that read a tensor, collecting each ReLU6 on the way; None if anything else reads it."""
    found: list[fx.Node] = []
    for user in node.users:
        if user.target in (_CONV, _LINEAR) and user.args[0] is node:
            if not (runs_once(graph, user) and _reads(graph, user, channels)):
                return None
            found.append(user)
            continue
        is_cap = user.target is _RELU6 and tuple(user.args[1:]) == (0.0, 6.0)
        if not (is_cap or user.target in _PASSES or (image and _pools(user))):
            return None
        if is_cap:
            caps.append(user)
        deeper = _readers(graph, user, caps, channels=channels, image=image)
        if deeper is None:
            return None
        found += deeper
    return found or None


def _pools(node: fx.Node) -> bool:
    """Tell whether a node combines positions of (N, C, H, W) and never channels."""
    if node.target is _ATEN.mean.dim:
        dims = node.args[1]
        return isinstance(dims, Sequence) and all(dim in (2, 3, -1, -2) for dim in dims)
    if node.target in (_ATEN.squeeze.dim, _ATEN.unsqueeze.default):
        return bool(node.args[1] == 2)
    return node.target in _POOLS


def _reads(graph: Graph, node: fx.Node, channels: int) -> bool:
    """Tell whether input channels are those of the writer; a flattened image with positions has more of them."""
    weight = parameter(graph, node.args[1])
    return weight is not None and int(weight.shape[1]) * _groups(node) == channels


def _groups(node: fx.Node) -> int:
    groups = node.args[6] if node.target is _CONV and len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return groups


def _by_input(weight: Tensor, groups: int) -> Tensor:
    """Give a view (groups, out / groups, in / groups, ...), whose dimensions 0 and 2 count the input channels."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def _even_out(graph: Graph, node: fx.Node, readers: list[fx.Node]) -> Tensor:
    weight = _weight(graph, node)
    writes = weight.abs().flatten(1).amax(1).clamp(min=_LEAST)
    reads = torch.full_like(writes, _LEAST)
    for reader in readers:
        parts = _by_input(_weight(graph, reader), _groups(reader)).abs()
        reads = torch.maximum(
            reads, parts.flatten(3).amax(3).amax(1).flatten() if parts.dim() > 3 else parts.amax(1).flatten()
        )
    factor = (writes / reads).sqrt()
    set_tensor(graph, node.args[1], weight / factor.reshape([-1] + [1] * (weight.dim() - 1)))
    bias = parameter(graph, node.args[2]) if len(node.args) > 2 else None
    if bias is not None:
        set_tensor(graph, node.args[2], bias / factor)
    for reader in readers:
        held, groups = _weight(graph, reader), _groups(reader)
        parts = _by_input(held, groups) * factor.reshape(groups, 1, -1, *[1] * (held.dim() - 2))
        set_tensor(graph, reader.args[1], parts.reshape(held.shape))
    return factor


def _replace_relu6(graph: Graph, node: fx.Node, cap: Tensor) -> None:
    with graph.graph.inserting_before(node):
        positive = graph.graph.call_function(_RELU, (node.args[0],))
        held = add_tensor(graph, f"caps.{node.name}", cap.reshape(1, -1, 1, 1))
        capped = graph.graph.call_function(_ATEN.minimum.default, (positive, held))
    node.replace_all_uses_with(capped)
    graph.graph.erase_node(node)
