"""Spells operators as the plan reads them: one name for each kind of convolution, norm and clamp; constants folded."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit_converters.quantize.graph import Graph, parameter, set_tensor

__all__ = ["add_constant", "fold_constants", "plain_operators"]

_ATEN = torch.ops.aten
_CONV2D, _CONV1D = _ATEN.conv2d.default, _ATEN.conv1d.default
_GROWTH_BYTES = 1 << 20  # a constant that grows by more than this when folded stays computed
# In place or not: the respelling of the functional form comes later in the graph's order.
_SUNK = (
    *(_ATEN.batch_norm.default, _ATEN.relu.default, _ATEN.relu_.default),
    *(_ATEN.hardtanh.default, _ATEN.hardtanh_.default, _ATEN.relu6.default, _ATEN.relu6_.default),
)
_NOTHING_DONE = (
    *(_ATEN.alias.default, _ATEN.detach.default, _ATEN.detach_.default, _ATEN.clone.default),
    *(_ATEN.contiguous.default, _ATEN.lift_fresh_copy.default, _ATEN.dropout.default, _ATEN.feature_dropout.default),
    *(_ATEN.dropout_.default, _ATEN.native_dropout.default),
)
# operator -> the same without a second result, and how many arguments it shares
_FIRST_OF: Mapping[Any, Any] = MappingProxyType(
    {
        _ATEN.native_layer_norm.default: _ATEN.layer_norm.default,
        _ATEN._native_batch_norm_legit_no_training.default: _ATEN.batch_norm.default,  # noqa: SLF001
    }
)


def add_constant(graph: Graph, path: str, value: Tensor) -> fx.Node:
    """Add a constant under a free path; insert at the graph's current insertion point."""
    owner_path, _, part = path.rpartition(".")
    owner: nn.Module = graph
    for step in owner_path.split("."):
        if step not in owner._modules:  # noqa: SLF001 - torch has no public test for a child
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    number, free = 2, part
    while hasattr(owner, free):
        free, number = f"{part}_{number}", number + 1
    if value.is_floating_point():
        owner.register_parameter(free, nn.Parameter(value.contiguous(), requires_grad=False))
    else:
        owner.register_buffer(free, value.contiguous())
    return graph.graph.get_attr(f"{owner_path}.{free}")


def plain_operators(graph: Graph) -> int:
    """Respell operators in place.

    Returns:
        Number of nodes changed.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _NOTHING_DONE:
            _drop(node)
        elif not _respell(graph, node):
            continue
        changed += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return changed


def _drop(node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if node.target is _ATEN.native_dropout.default:
        for user in list(node.users):
            user.replace_all_uses_with(source)
            node.graph.erase_node(user)
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)  # a dropout counts as random, so nobody else would take it out


def _respell(graph: Graph, node: fx.Node) -> bool:
    functional = _functional(node.target)
    if functional is not None:
        node.target = functional
    rule = _RULES.get(node.target)
    return bool(rule and rule(graph, node)) or functional is not None


def _functional(target: Any) -> Any:  # noqa: ANN401 - an operator
    """Give the operator that does not write into its input, e.g. ``relu`` for ``relu_``; None if it is one already."""
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the type has no public name
        return None
    packet = target.overloadpacket.__name__
    if not packet.endswith("_") or packet.endswith("__"):
        return None
    plain = getattr(_ATEN, packet[:-1], None)
    return getattr(plain, target._overloadname, None)  # noqa: SLF001 - it has no public name


def _with_defaults(node: fx.Node) -> list[Any]:
    """Give all arguments by position, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # noqa: SLF001 - torch's own field
    given = list(node.args)
    return given + [node.kwargs.get(row.name, row.default_value) for row in schema[len(given) :]]


def _convolution(graph: Graph, node: fx.Node) -> bool:
    x, weight, bias, steps, padding, holes, transposed, _, groups = _with_defaults(node)
    if transposed or len(steps) > 2:
        return False
    node.target, node.kwargs = (_CONV2D if len(steps) == 2 else _CONV1D), {}
    node.args = (x, weight, bias, steps, padding, holes, groups)
    return len(steps) == 2 or _conv1d(graph, node)


def _conv_named_padding(graph: Graph, node: fx.Node) -> bool:
    x, weight, bias, steps, padding, holes, groups = _with_defaults(node)
    held = parameter(graph, weight)
    if held is None:
        return False
    steps, holes = (list(values) * 2 if len(values) == 1 else list(values) for values in (steps, holes))
    totals = [hole * (size - 1) if padding == "same" else 0 for hole, size in zip(holes, held.shape[2:], strict=True)]
    if any(total % 2 for total in totals):
        return False
    node.target, node.kwargs = _CONV2D, {}
    node.args = (x, weight, bias, steps, [total // 2 for total in totals], holes, groups)
    return True


def _conv1d(graph: Graph, node: fx.Node) -> bool:
    """Write a convolution over one dimension as one over (1, length)."""
    x, weight, bias, steps, padding, holes, groups = _with_defaults(node)
    held = parameter(graph, weight)
    if held is None or len(weight.users) > 1:
        return False
    set_tensor(graph, weight, held.unsqueeze(2))
    wide = [[1, *steps], [0, *padding], [1, *holes]]
    with graph.graph.inserting_before(node):
        flat = _unsqueezed(graph, x)
        conv = graph.graph.call_function(_CONV2D, (flat, weight, bias, *wide, groups))
        done = graph.graph.call_function(_ATEN.squeeze.dim, (conv, 2))
    node.replace_all_uses_with(done)
    graph.graph.erase_node(node)
    _sink(graph, done)
    return True


def _unsqueezed(graph: Graph, source: fx.Node) -> fx.Node:
    """Give ``source`` with a dimension 2 of size 1; the second of two convolutions reads the first as it is."""
    if source.target is _ATEN.squeeze.dim and source.args[1] == 2:
        before = source.args[0]
        assert isinstance(before, fx.Node)
        return before
    return graph.graph.call_function(_ATEN.unsqueeze.default, (source, 2))


def _sink(graph: Graph, flat: fx.Node) -> None:
    """Move a squeeze behind what both engines fuse into the convolution: a batch norm, and an activation after it."""
    while len(flat.users) == 1 and next(iter(flat.users)).target in _SUNK:
        after = next(iter(flat.users))
        after.replace_input_with(flat, flat.args[0])  # type: ignore[arg-type]
        with graph.graph.inserting_after(after):
            lower = graph.graph.call_function(_ATEN.squeeze.dim, (after, 2))
        after.replace_all_uses_with(lower, delete_user_cb=lambda user, lower=lower: user is not lower)  # type: ignore[misc]
        graph.graph.erase_node(flat)
        flat = lower


def _first_of(_: Graph, node: fx.Node) -> bool:
    """Write a norm with statistics among its results as one that gives the result alone."""
    arguments = _with_defaults(node)
    if node.target is _ATEN.native_layer_norm.default:
        fresh: tuple[Any, ...] = (*arguments[:5],)
    else:
        fresh = (*arguments[:5], False, *arguments[5:7], False)
    for user in list(node.users):
        if user.target.__name__ == "getitem" and user.args[1] == 0:  # type: ignore[union-attr]
            user.replace_all_uses_with(node)
        elif user.users:
            return False
    node.target, node.args, node.kwargs = _FIRST_OF[node.target], fresh, {}
    return True


def _clamp(_: Graph, node: fx.Node) -> bool:
    x, low, high = (*_with_defaults(node), None)[:3]
    if low == 0 and high is None:
        node.target, node.args = _ATEN.relu.default, (x,)
    elif (low, high) == (0, 6):
        node.target, node.args = _ATEN.hardtanh.default, (x, 0.0, 6.0)
    else:
        return False
    node.kwargs = {}
    return True


def _hard_sigmoid(graph: Graph, node: fx.Node) -> bool:
    """Write it as the TFLite converter does, which would put the 3 into a bias that the plan knows without it."""
    with graph.graph.inserting_before(node):
        shifted = graph.graph.call_function(_ATEN.add.Tensor, (node.args[0], 3.0))
        clipped = graph.graph.call_function(_ATEN.hardtanh.default, (shifted, 0.0, 6.0))
        node.replace_all_uses_with(graph.graph.call_function(_ATEN.mul.Tensor, (clipped, 1 / 6)))
    return True


def _reshape(_: Graph, node: fx.Node) -> bool:
    node.target = _ATEN.reshape.default  # a view wants strides that a layer written otherwise need not give
    return True


def _softmax(_: Graph, node: fx.Node) -> bool:
    node.target, node.args = _ATEN.softmax.int, node.args[:2]
    return True


def _relu6(_: Graph, node: fx.Node) -> bool:
    node.target, node.args, node.kwargs = _ATEN.hardtanh.default, (node.args[0], 0.0, 6.0), {}
    return True


_RULES: Mapping[Any, Callable[[Graph, fx.Node], bool]] = MappingProxyType(
    {
        _ATEN.convolution.default: _convolution,
        _ATEN.conv2d.padding: _conv_named_padding,
        _CONV1D: _conv1d,
        _ATEN.native_layer_norm.default: _first_of,
        _ATEN._native_batch_norm_legit_no_training.default: _first_of,  # noqa: SLF001
        _ATEN.clamp.default: _clamp,
        _ATEN.clamp_min.default: _clamp,
        _ATEN.relu6.default: _relu6,
        _ATEN.hardsigmoid.default: _hard_sigmoid,
        _ATEN.view.default: _reshape,
        _ATEN._unsafe_view.default: _reshape,  # noqa: SLF001
        _ATEN._softmax.default: _softmax,  # noqa: SLF001
    }
)


def fold_constants(graph: Graph) -> int:
    """Compute in advance what depends on constants alone.

    Returns:
        Number of nodes that became constants.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        sources = node.all_input_nodes
        known = node.op == "call_function" and all(source.op == "get_attr" for source in sources)
        if not known or not _is_pure(node):
            continue
        held = [parameter(graph, source) for source in sources]
        values = dict(zip(sources, held, strict=True))
        arguments, named = (fx.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
        result = node.target(*arguments, **named)
        given = sum(value.nbytes for value in held if value is not None)
        if not isinstance(result, Tensor) or result.nbytes > given + _GROWTH_BYTES:
            continue
        base = str(sources[0].target) if sources else f"constants.{node.name}"
        owner, _, part = base.rpartition(".")
        with graph.graph.inserting_before(node):
            fresh = add_constant(graph, f"{owner or 'constants'}.{part}_folded", result.detach())
        node.replace_all_uses_with(fresh)
        folded += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the type has no public name
        return False
    tags = torch.Tag.nondeterministic_seeded in target.tags
    return not tags and not target._schema.is_mutable and target.namespace in ("aten", "prims")  # noqa: SLF001
