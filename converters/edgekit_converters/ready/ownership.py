"""Gives every layer constants of its own under a path of its own; the plan knows layers by path."""

import torch
from torch import fx

from edgekit_converters.quantize.graph import Graph, layer_name, layers, parameter
from edgekit_converters.ready.spelling import add_constant

__all__ = ["name_layers", "unshare_constants"]

_ATEN = torch.ops.aten
_OWNERS = (_ATEN.linear.default, _ATEN.conv2d.default, _ATEN.embedding.default, _ATEN.layer_norm.default)


def unshare_constants(graph: Graph) -> int:
    """Copy constants that several layers or norms read.

    Exporters store equal constants once, so that all layer norms that kept gamma 1 read one tensor; a technique that
    scales the gamma of one norm would scale all of them.

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
        if len(places) < 2:
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


def name_layers(graph: Graph) -> int:
    """Give each layer's weight a path that no other layer has.

    Returns:
        Number of layers that had no such path.
    """
    taken: set[str] = set()
    changed = 0
    for _, kind, node in list(layers(graph)):
        place = 0 if kind == "embedding" else 1
        owner = layer_name(node)
        number, path = 2, owner or node.name
        while path in taken:
            path, number = f"{owner or node.name}_{number}", number + 1
        taken.add(path)
        if path == owner:
            continue
        held = parameter(graph, node.args[place])
        assert held is not None
        with graph.graph.inserting_before(node):
            fresh = add_constant(graph, f"{path}.weight", held.clone())
        node.args = (*node.args[:place], fresh, *node.args[place + 1 :])
        changed += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return changed
