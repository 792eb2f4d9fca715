"""Gives tensors that must stand on one grid one range: calls of the same layer, and both ends of what moves values."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from edgekit_converters.quantize.graph import Graph, layers
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import Measured, Row, after_activation

__all__ = ["tie_ranges"]

_ATEN = torch.ops.aten
# Their results are values of their inputs, or means of neighbours: LiteRT's kernels give no other grid to the output.
_SAME_SCALE = (
    _ATEN.avg_pool1d.default,
    _ATEN.avg_pool2d.default,
    _ATEN.cat.default,
    _ATEN.chunk.default,
    _ATEN.flatten.using_ints,
    _ATEN.max_pool1d.default,
    _ATEN.max_pool2d.default,
    _ATEN.pad.default,
    _ATEN.permute.default,
    _ATEN.reshape.default,
    _ATEN.select.int,
    _ATEN.slice.Tensor,
    _ATEN.split.Tensor,
    _ATEN.squeeze.dim,
    _ATEN.transpose.int,
    _ATEN.unbind.int,
    _ATEN.unsqueeze.default,
    _ATEN.view.default,
)
_GET = "getitem"


def tie_ranges(graph: Graph, seen: dict[str, Measured], rows: Iterable[Row], *, whole_network: bool) -> None:
    """Widen the ranges of tied tensors to the range that holds all of them.

    A layer that is called several times, as in each step of a recurrent network, has one grid for its inputs and one
    for its outputs. In a network that is int8 throughout, what only moves values keeps their grid, as LiteRT needs it:
    a concatenation, for one, then has one grid for all of its inputs. Those that no layer reads or writes are measured
    here.

    Args:
        graph: That was measured.
        seen: From ``measure``; changed in place.
        rows: That it was measured on.
        whole_network: Every operator runs in int8.
    """
    groups = _groups_of(graph, whole_network=whole_network)
    tied: dict[str, list[str]] = {}
    for node in graph.graph.nodes:
        tied.setdefault(groups.first(node.name), []).append(node.name)
    alike = [names for names in tied.values() if len(names) > 1 and any(name in seen for name in names)]
    ranges = {name: measured.range for name, measured in seen.items()}
    others = {name for names in alike for name in names if name not in seen}
    ranges |= _Ranges(graph, others).over(rows) if others else {}
    for names in alike:
        found = [ranges[name] for name in names if name in ranges]
        whole = found[0]
        for one in found[1:]:
            whole = whole.merge(one)
        for name in names:
            if name in seen:
                seen[name].range = whole


def _groups_of(graph: Graph, *, whole_network: bool) -> "_Groups":
    groups = _Groups()
    calls: dict[str, list[fx.Node]] = {}
    for name, kind, node in layers(graph):
        if kind != "embedding":
            calls.setdefault(name, []).append(node)
    for nodes in calls.values():
        groups.join(str(node.args[0]) for node in nodes)
        groups.join(after_activation(node).name for node in nodes)
    for node in graph.graph.nodes if whole_network else ():
        if node.target in _SAME_SCALE or _GET in str(node.target):
            groups.join([node.name, *(source.name for source in node.all_input_nodes)])
    return groups


class _Ranges(fx.Interpreter):
    """Measures smallest and largest values by node."""

    def __init__(self, graph: Graph, wanted: set[str]) -> None:
        super().__init__(graph)
        self._wanted, self._found = wanted, dict[str, Range]()

    def over(self, rows: Iterable[Row]) -> dict[str, Range]:
        with torch.no_grad():
            for row in rows:
                self.run(*row)
        return self._found

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        value = super().run_node(n)
        if n.name in self._wanted and isinstance(value, torch.Tensor) and value.is_floating_point():
            low, high = (float(side) for side in torch.aminmax(value))
            seen = Range(low, high)
            self._found[n.name] = self._found[n.name].merge(seen) if n.name in self._found else seen
        return value


class _Groups:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def first(self, name: str) -> str:
        while name in self._above:
            name = self._above[name]
        return name

    def join(self, names: Iterable[str]) -> None:
        found = sorted({self.first(name) for name in names})
        for name in found[1:]:
            self._above[name] = found[0]
