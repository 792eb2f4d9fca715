"""Chooses ranges of residual tensors by the error behind the next layer norm, where the network reads them.

A sentence encoder lets one channel of one token grow to 190 while all others stay below 7. The layer norm behind it
hides most of that, so a range that is chosen by the error of the tensor itself keeps the outlier and loses the rest.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import Row
from edgekit_converters.quantize.whole_graph import residual_tensors
from edgekit_converters.quantize.whole_plan import grid_between

__all__ = ["best_range", "norm_aware_ranges"]

_NORM = torch.ops.aten.layer_norm.default
_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12, 0.09, 0.07, 0.05)  # of the measured limit


def norm_aware_ranges(graph: Graph, ranges: Mapping[str, Range], rows: Iterable[Row]) -> dict[str, Range]:
    """Give a range for each residual tensor; see ``residual_tensors``.

    Args:
        graph: Traced, in float.
        ranges: Measured minimum and maximum by node name.
        rows: Held-in rows; their residual tensors are kept in memory.
    """
    sums = residual_tensors(graph)
    kept = _keep(graph, set(sums) | {total.name for total in sums.values()}, rows)
    found = {}
    for name, total in sums.items():
        value, whole = kept[name], kept[total.name]
        read = _reader(graph, total)
        wanted = read(whole)

        def error(seen: Range) -> float:
            rounded = grid_between(seen.low, seen.high).apply(value)  # noqa: B023 - called within this turn
            return float((read(whole + (rounded - value)) - wanted).square().mean())  # noqa: B023

        found[name] = best_range(ranges[name], error)
    return found


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


def _reader(graph: Graph, total: fx.Node) -> Callable[[Tensor], Tensor]:
    """Give the layer norm that reads a sum; of twins, the one before linear layers, whose channels are evened out."""
    norms = [user for user in total.users if user.target is _NORM]
    linear = torch.ops.aten.linear.default
    norm = next((one for one in norms if any(user.target is linear for user in one.users)), norms[0])
    gamma, beta = parameter(graph, norm.args[2]), parameter(graph, norm.args[3])
    assert gamma is not None
    assert beta is not None
    epsilon = norm.args[4] if len(norm.args) > 4 else 1e-5
    return lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, float(epsilon))  # type: ignore[arg-type]


def _keep(graph: Graph, names: set[str], rows: Iterable[Row]) -> dict[str, Tensor]:
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
