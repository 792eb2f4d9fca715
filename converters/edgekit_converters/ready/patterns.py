"""Finds layer norms and GELUs that an exporter took apart, and puts the operators back that the techniques know."""

import math
from typing import Any

import torch
from torch import fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.ready.spelling import add_constant

__all__ = ["fuse_gelu", "fuse_layer_norm", "number"]

_ATEN = torch.ops.aten
_ADD, _SUB, _DIV = _ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.div.Tensor
_MUL = (_ATEN.mul.Tensor, _ATEN.mul.Scalar)
_POW = (_ATEN.pow.Tensor_Scalar, _ATEN.pow.Tensor_Tensor)


def number(graph: Graph, argument: Any) -> float | None:  # noqa: ANN401 - an fx argument
    """Give the value of a scalar argument, a number or a constant of one element; None if it is neither."""
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return float(argument)
    held = parameter(graph, argument)
    return float(held.reshape(-1)[0]) if held is not None and held.numel() == 1 else None


def _is(node: Any, *targets: Any) -> bool:  # noqa: ANN401 - an fx argument
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _other(node: fx.Node, one: fx.Node) -> Any:  # noqa: ANN401 - an fx argument
    return node.args[1] if node.args[0] is one else node.args[0]


def fuse_gelu(graph: Graph) -> int:
    """Replace ``x * 0.5 * (1 + erf(x / sqrt 2))``, in any order of its products, by one operator.

    Returns:
        Number of GELUs found.
    """
    found = 0
    for erf in list(graph.graph.nodes):
        x = _erf_of(graph, erf) if _is(erf, _ATEN.erf.default) else None
        plus = _only_user(erf) if x is not None else None
        if plus is None or not _is(plus, _ADD) or number(graph, _other(plus, erf)) != 1.0:
            continue
        top = _product(graph, plus, x)
        if top is None:
            continue
        with graph.graph.inserting_before(top):
            top.replace_all_uses_with(graph.graph.call_function(_ATEN.gelu.default, (x,)))
        found += 1
    return _clean(graph, found)


def _erf_of(graph: Graph, erf: fx.Node) -> Any:  # noqa: ANN401 - an fx argument
    """Give x if the node is erf(x / sqrt 2)."""
    inner = erf.args[0]
    if _is(inner, _DIV):
        step = number(graph, inner.args[1])  # type: ignore[union-attr]
        return inner.args[0] if step is not None and math.isclose(step, math.sqrt(2), rel_tol=1e-4) else None  # type: ignore[union-attr]
    if _is(inner, *_MUL):
        assert isinstance(inner, fx.Node)
        for place in (0, 1):
            step = number(graph, inner.args[place])
            if step is not None and math.isclose(step, math.sqrt(0.5), rel_tol=1e-4):
                return inner.args[1 - place]
    return None


def _product(graph: Graph, plus: fx.Node, x: Any) -> fx.Node | None:  # noqa: ANN401 - an fx argument
    """Climb the products above ``1 + erf`` to where they make x / 2 of it."""
    top, scale, seen = plus, 1.0, 0
    while (user := _only_user(top)) is not None:
        other = _other(user, top)
        step = number(graph, other)
        if _is(user, *_MUL) and step is not None:
            scale *= step
        elif _is(user, _DIV) and user.args[0] is top and step is not None:
            scale /= step
        elif _is(user, *_MUL) and other is x:
            seen += 1
        elif _is(user, *_MUL) and _is(other, *_MUL, _DIV) and other.args[0] is x:
            inner = number(graph, other.args[1])
            if inner is None:
                return None
            scale, seen = scale / inner if _is(other, _DIV) else scale * inner, seen + 1
        else:
            return None
        top = user
        if seen == 1 and math.isclose(scale, 0.5, rel_tol=1e-6):
            return top
    return None


def fuse_layer_norm(graph: Graph) -> int:
    """Replace mean, difference, variance and quotient over the last dimension by one operator.

    Returns:
        Number of layer norms found.
    """
    found = 0
    for node in list(graph.graph.nodes):
        parts = _norm_of(graph, node)
        if parts is None:
            continue
        x, epsilon = parts
        top, gamma, beta = _affine(graph, node)
        if gamma is None:
            continue
        width = parameter(graph, gamma).shape[-1]  # type: ignore[union-attr]
        with graph.graph.inserting_before(top):
            if beta is None:
                path = str(gamma.target).rpartition(".")[0] or "norms"
                beta = add_constant(graph, f"{path}.beta", torch.zeros(width))
            new = graph.graph.call_function(_ATEN.layer_norm.default, (x, [width], gamma, beta, epsilon))
        top.replace_all_uses_with(new)
        found += 1
    return _clean(graph, found)


def _norm_of(graph: Graph, node: fx.Node) -> tuple[fx.Node, float] | None:
    """Give x and epsilon if the node is (x - mean) / sqrt(variance + epsilon)."""
    difference, total = _quotient(node)
    if not _is(difference, _SUB) or not _is(total, _ADD):
        return None
    assert isinstance(total, fx.Node)
    assert isinstance(difference, fx.Node)
    epsilon, squared = number(graph, total.args[1]), _mean_of(total.args[0])
    x, mean = difference.args[0], difference.args[1]
    if epsilon is None or squared is None or _mean_of(mean) is not x or not isinstance(x, fx.Node):
        return None
    return (x, epsilon) if _is_square(graph, squared, x, mean) else None


def _quotient(node: fx.Node) -> tuple[Any, Any]:
    """Give a and b if the node is a / sqrt(b), however it is written; None twice if it is not."""
    if _is(node, _DIV) and _is(node.args[1], _ATEN.sqrt.default):
        return node.args[0], node.args[1].args[0]  # type: ignore[union-attr]
    for place in (0, 1) if _is(node, *_MUL) else ():
        root = node.args[place]
        if _is(root, _ATEN.rsqrt.default):
            return node.args[1 - place], root.args[0]  # type: ignore[union-attr]
        if _is(root, _ATEN.reciprocal.default) and _is(root.args[0], _ATEN.sqrt.default):  # type: ignore[union-attr]
            return node.args[1 - place], root.args[0].args[0]  # type: ignore[union-attr]
    return None, None


def _mean_of(node: Any) -> fx.Node | None:  # noqa: ANN401 - an fx argument
    """Give what a mean over the last dimension is of."""
    if not _is(node, _ATEN.mean.dim) or len(node.args) < 3 or not node.args[2]:
        return None
    source = node.args[0]
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    last = -1 if value is None else value.dim() - 1
    return source if list(node.args[1]) in ([-1], [last]) else None


def _is_square(graph: Graph, node: fx.Node, x: Any, mean: Any) -> bool:  # noqa: ANN401 - fx arguments
    sides = node.args[:2] if _is(node, *_MUL) else node.args[:1]
    if _is(node, *_POW) and number(graph, node.args[1]) != 2.0:
        return False
    if not _is(node, *_MUL, *_POW, _ATEN.square.default):
        return False
    return all(_is(side, _SUB) and side.args[0] is x and side.args[1] is mean for side in sides)  # type: ignore[union-attr]


def _affine(graph: Graph, node: fx.Node) -> tuple[fx.Node, Any, Any]:
    """Give the end of a norm with its product and sum, and their constants; None where there is none."""
    product = _only_user(node)
    if product is None or not _is(product, *_MUL):
        return node, None, None
    gamma = _other(product, node)
    held = parameter(graph, gamma)
    if held is None or held.dim() != 1:
        return node, None, None
    total = _only_user(product)
    if total is not None and _is(total, _ADD):
        beta = _other(total, product)
        shift = parameter(graph, beta)
        if shift is not None and shift.shape == held.shape:
            return total, gamma, beta
    return product, gamma, None


def _clean(graph: Graph, found: int) -> int:
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return found
