"""Gives every layer constants of its own under a path of its own; the plan knows layers by path."""

import re
from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, layer_name, layers, parameter
from edgekit_converters.ready.spelling import add_constant

__all__ = ["name_layers", "unshare_constants"]

_ATEN = torch.ops.aten
_OURS = re.compile(r"_\d+$|_folded$|^value$")  # parts that a rewrite has named
_WEIGHTED = (_ATEN.linear.default, _ATEN.conv2d.default)
_OWNERS = (_ATEN.linear.default, _ATEN.conv2d.default, _ATEN.embedding.default, _ATEN.layer_norm.default)


def unshare_constants(graph: Graph) -> int:
    """Copy constants that several layers or norms read.

    Exporters store equal constants once, so that all layer norms that kept gamma 1 read one tensor; a technique that
    scales the gamma of one norm would scale all of them. A layer that runs several times, as each step of a recurrent
    network does, keeps its one weight and bias: techniques know that.

    Returns:
        Number of copies.
    """
    uses: dict[str, list[tuple[fx.Node, int]]] = {}
    for node in graph.graph.nodes:
        for place, argument in enumerate(node.args) if node.op == "call_function" else ():
            if isinstance(argument, fx.Node) and argument.op == "get_attr":
                uses.setdefault(str(argument.target), []).append((node, place))
    copies = 0
    for target, places in uses.items():
        owners = [place for place in places if place[0].target in _OWNERS]
        if len(places) < 2 or (len(owners) == len(places) and len({_layer(*place) for place in places}) == 1):
            continue
        for node, place in owners[1:] if len(owners) == len(places) else owners:
            held = parameter(graph, node.args[place])
            assert held is not None
            with graph.graph.inserting_before(node):
                path = target if "." in target else f"shared.{target}"
                fresh = add_constant(graph, path, held.clone())
            node.args = (*node.args[:place], fresh, *node.args[place + 1 :])
            copies += 1
    graph.recompile()
    return copies


def _layer(node: fx.Node, place: int) -> object:
    """Give what calls of one layer have in common: operator, weight, and the place of the constant."""
    weighted = node.target in _WEIGHTED
    return (node.target, str(node.args[1].target), place) if weighted else node  # type: ignore[union-attr]


def name_layers(graph: Graph) -> int:
    """Give each layer's weight the name ``weight`` under a path that no other layer has.

    Returns:
        Number of layers that had no such path.
    """
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    taken: set[str] = set()
    named: dict[str, fx.Node] = {}  # a layer that runs several times gets one name
    changed = 0
    for _, kind, node in list(layers(graph)):
        place = 0 if kind == "embedding" else 1
        weight: Any = node.args[place]
        if weight.target in named:
            node.args = (*node.args[:place], named[weight.target], *node.args[place + 1 :])
            continue
        owner, _, part = str(weight.target).rpartition(".")
        if owner and layer_name(node) not in taken and not _OURS.search(part):
            taken.add(layer_name(node))
            named[weight.target] = weight
            continue
        number, path = 2, owner or node.name
        while path in taken or f"{path}.weight" in used:
            path, number = f"{owner or node.name}_{number}", number + 1
        taken.add(path)
        held = parameter(graph, node.args[place])
        assert held is not None
        with graph.graph.inserting_before(node):
            fresh = _weight(graph, path, held)
        node.args = (*node.args[:place], fresh, *node.args[place + 1 :])
        named[weight.target] = fresh
        changed += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return changed


def _weight(graph: Graph, path: str, value: Tensor) -> fx.Node:
    """Put a weight at a path; what a rewrite has left there unread makes way."""
    owner = dict(graph.named_modules()).get(path)
    if owner is not None:
        owner._parameters.pop("weight", None)  # noqa: SLF001 - deleting an attribute fails where there is none
    return add_constant(graph, f"{path}.weight", value.clone())
