"""Clips the huge constants of attention masks, whose range would leave every score of a static int8 model one code."""

import math
from typing import Any

import torch
from torch import fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.ready.spelling import add_constant

__all__ = ["clip_masks"]

_ATEN = torch.ops.aten
_LIMIT, _HUGE = 50.0, 1e4  # exp(-50) is 2e-22: behind a softmax nothing is left of it
_MASKING = (
    *(_ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.add.Tensor, _ATEN.add.Scalar, _ATEN.sub.Tensor),
    *(_ATEN.masked_fill.Scalar, _ATEN.masked_fill.Tensor, _ATEN.where.self, _ATEN.where.ScalarOther),
    *(_ATEN.where.ScalarSelf, _ATEN.where.Scalar, _ATEN.full.default, _ATEN.full_like.default),
    _ATEN.scaled_dot_product_attention.default,
)


def clip_masks(graph: Graph) -> int:
    """Bring numbers and constants beyond 10,000 that take part in masking to 50, in place; the sign stays.

    Answers move where a number is no mask, so the caller compares them and keeps the old graph if they do.

    Returns:
        Number of constants changed.

    Source:
        Own measurement: static int8 of a transformer with its mask at -3.4e38 gives cosine 0.37, at -50 0.84.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in _MASKING:
            continue
        for place, argument in enumerate(node.args):
            fresh = _clipped(graph, node, argument)
            if fresh is not None:
                node.args = (*node.args[:place], fresh, *node.args[place + 1 :])
                changed += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return changed


def _clipped(graph: Graph, node: fx.Node, argument: Any) -> float | fx.Node | None:  # noqa: ANN401 - an fx argument
    if isinstance(argument, float | int) and not isinstance(argument, bool):
        return math.copysign(_LIMIT, argument) if abs(argument) > _HUGE else None
    held = parameter(graph, argument)
    if held is None or not held.is_floating_point() or not bool((held.abs() > _HUGE).any()):
        return None
    with graph.graph.inserting_before(node):
        path = str(argument.target).rpartition(".")[0]
        return add_constant(graph, f"{path or 'masks'}.clipped", held.clamp(-_LIMIT, _LIMIT))
