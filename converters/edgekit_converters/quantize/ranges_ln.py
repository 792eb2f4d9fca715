"""Chooses ranges of residual tensors by the error behind the next layer norm, where the network reads them.

A sentence encoder lets one channel of one token grow to 190 while all others stay below 7. The layer norm behind it
hides most of that, so a range that is chosen by the error of the tensor itself keeps the outlier and loses the rest.
Tensors are chosen in order of execution, each on values that the integers before it gave: what is cut from a summand is
then not cut from the sum once more.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import Row
from edgekit_converters.quantize.whole_graph import only_summed
from edgekit_converters.quantize.whole_plan import TensorGrid, WholePlan, grid_between
from edgekit_converters.quantize.whole_simulate import IntegerRun

__all__ = ["best_range", "float_sums", "norm_aware_grids"]

_ATEN = torch.ops.aten
_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12, 0.09, 0.07, 0.05)  # of the measured limit
_ROUNDS = 2  # over the summands of one sum


def norm_aware_grids(
    graph: Graph, plan: WholePlan, ranges: Mapping[str, Range], rows: Iterable[Row]
) -> dict[str, TensorGrid]:
    """Give a grid for each residual tensor that is only summed up; see ``only_summed``.

    Args:
        graph: Traced, in float.
        plan: Grids of all tensors.
        ranges: Measured minimum and maximum by node name.
        rows: Held-in rows; their tensors are kept in memory.
    """
    sums = only_summed(graph)
    groups: dict[str, list[str]] = {}
    for name, total in sums.items():
        groups.setdefault(total.name, []).append(name)
    given = list(rows)
    wanted = float_sums(graph, set(groups), given)
    runs = _runs(graph, plan, given, unrounded=set(sums))
    found: dict[str, TensorGrid] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        for run in runs:
            run.env[node] = run.run_node(node)
        if node.name in groups:
            block = _Block(total=node, values=_gather(runs, node, set(sums)), read=_reader(graph, node))
            chosen = _choose(block, {name: ranges[name] for name in groups[node.name]}, wanted[node.name])
            for run in runs:
                values = {one: run.env[one] for one in block.values}
                run.env[node] = _summed(node, values, chosen)
            found |= chosen
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A sum that layer norms read.

    Attributes:
        total: The sum.
        values: What is summed up, before it is rounded, all rows as one matrix; by node.
        read: The layer norm.
    """

    total: fx.Node
    values: Mapping[fx.Node, Tensor]
    read: Callable[[Tensor], Tensor]


def _choose(block: _Block, ranges: Mapping[str, Range], total: Tensor) -> dict[str, TensorGrid]:
    wanted = block.read(total)
    best = dict(ranges)
    for _ in range(_ROUNDS):
        for name, seen in ranges.items():

            def error(tried: Range, name: str = name) -> float:
                grids = {key: grid_between(one.low, one.high) for key, one in {**best, name: tried}.items()}
                given = block.read(_summed(block.total, block.values, grids))
                return float((given - wanted).square().mean())

            best[name] = best_range(seen, error)
    return {name: grid_between(one.low, one.high) for name, one in best.items()}


def best_range(seen: Range, error: Callable[[Range], float]) -> Range:
    """Cut either side of a range, or both at once, as long as the error falls; each turn tries every share."""
    best, least = seen, error(seen)
    while True:
        before = least
        for share in _SHARES:
            low, high = seen.low * share, seen.high * share
            for tried in (Range(low, best.high), Range(best.low, high), Range(low, high)):
                found = error(tried)
                if found < least:
                    best, least = tried, found
        if least == before:
            return best


def _summed(node: fx.Node, values: Mapping[fx.Node, Tensor], grids: Mapping[str, TensorGrid]) -> Tensor:
    """Round what is summed up, and every sum."""
    if node in values:
        value = values[node]
    else:
        left, right = (_summed(side, values, grids) for side in node.args[:2])  # type: ignore[arg-type]
        value = left + right
    grid = grids.get(node.name)
    return value if grid is None else grid.apply(value)


def _leaves(node: fx.Node, residual: set[str]) -> list[fx.Node]:
    if node.name in residual and node.target is _ATEN.add.Tensor:
        return [leaf for side in node.args[:2] for leaf in _leaves(side, residual)]  # type: ignore[arg-type]
    return [node]


def _gather(runs: list[IntegerRun], total: fx.Node, residual: set[str]) -> dict[fx.Node, Tensor]:
    found = {}
    for leaf in _leaves(total, residual):
        parts = [torch.broadcast_to(run.env[leaf], run.env[total].shape) for run in runs]
        found[leaf] = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    return found


def _reader(graph: Graph, total: fx.Node) -> Callable[[Tensor], Tensor]:
    """Give the layer norm that reads a sum; of twins, the one for the residual, whose channels have their own size."""
    norms = [user for user in total.users if user.target is _ATEN.layer_norm.default]
    smoothed = [norm for norm in norms if any(user.target is _ATEN.linear.default for user in norm.users)]
    norm = next((one for one in norms if one not in smoothed), norms[0])
    gamma, beta = parameter(graph, norm.args[2]), parameter(graph, norm.args[3])
    epsilon = float(norm.args[4]) if len(norm.args) > 4 else 1e-5  # type: ignore[arg-type]
    return lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def _runs(graph: Graph, plan: WholePlan, rows: Iterable[Row], *, unrounded: set[str]) -> list[IntegerRun]:
    first = IntegerRun(graph, plan, unrounded=unrounded)
    runs = []
    for row in rows:
        run = copy.copy(first)  # the rounded weights are shared
        run.env, run.args_iter = {}, iter(row)
        runs.append(run)
    return runs


def float_sums(graph: Graph, names: set[str], rows: Iterable[Row]) -> dict[str, Tensor]:
    """Give tensors by node name, all tokens of all rows as one matrix (tokens, channels)."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    class Keep(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
            value = super().run_node(n)
            if n.name in found:
                found[n.name].append(value.reshape(-1, value.shape[-1]))
            return value

    run = Keep(graph)
    with torch.no_grad():
        for row in rows:
            run.run(*row)
    return {name: torch.cat(values) for name, values in found.items()}
