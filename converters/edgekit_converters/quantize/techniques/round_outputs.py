"""Rounds the int8 weights of linear layers so that outputs, not single weights, come out right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, layers, parameter, runs_once, set_tensor
from edgekit_converters.quantize.measure import Row, rounded_input
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_converters.quantize.rounding import gptq
from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger

__all__ = ["round_for_outputs"]

_Inputs = tuple[str, Grid | None]  # layers that read one tensor on one grid share its moments


def round_for_outputs(graph: Graph, plan: QuantPlan, rows: Sequence[Row]) -> int:
    """Replace the weights of int8 linear layers by points of their grid, chosen by GPTQ on rounded inputs.

    The float graph then holds what int8 holds: the plan's scales stay, both files get these codes, and the float files
    keep the weights that were trained.

    Args:
        graph: Changed in place.
        plan: Of this graph.
        rows: Held in, without padding; one at a time is in memory.

    Returns:
        Number of layers that were rounded.

    Raises:
        ConversionError: The second moments are not finite or not positive (E0761).

    Source:
        Frantar et al. 2022, algorithm 1, with the scales that the plan fixed.
    """
    found: dict[str, tuple[fx.Node, LayerPlan]] = {}
    for name, kind, node in layers(graph):
        layer = plan.layer(name)
        if kind == "linear" and layer.mode is not Mode.FLOAT and layer.scheme is None and runs_once(graph, node):
            found[name] = node, layer
    moments = _moments(graph, {name: (str(node.args[0]), layer) for name, (node, layer) in found.items()}, rows)
    for node, layer in found.values():
        weight = parameter(graph, node.args[1])
        assert weight is not None
        scales = np.broadcast_to(layer.scales(weight.numpy()), len(weight)).astype(np.float32)[:, None]
        nearest = BlockwiseInteger(codes=layer.codes(weight.numpy()), scales=scales, block=weight.shape[1], bits=8)
        codes = gptq(weight.numpy(), nearest, moments[str(node.args[0]), layer.input]).weights.codes
        set_tensor(graph, node.args[1], torch.from_numpy(codes * scales))
    return len(found)


def _moments(
    graph: Graph, readers: dict[str, tuple[str, LayerPlan]], rows: Sequence[Row]
) -> dict[_Inputs, NDArray[np.float64]]:
    """Give ``X^T X / tokens`` of rounded inputs, float64 (in, in)."""
    grids: dict[str, dict[Grid | None, LayerPlan]] = {}
    for tensor, layer in readers.values():
        grids.setdefault(tensor, {})[layer.input] = layer
    sums: dict[_Inputs, Tensor] = {}
    counts = dict.fromkeys(grids, 0)

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
            value = super().run_node(n)
            for grid, layer in grids.get(n.name, {}).items():
                tokens = rounded_input(value, layer).reshape(-1, value.shape[-1])
                seen = (tokens.T @ tokens).double()
                sums[n.name, grid] = sums[n.name, grid].add_(seen) if (n.name, grid) in sums else seen
            if n.name in counts:
                counts[n.name] += value.numel() // value.shape[-1]
            return value

    with torch.no_grad():
        for row in rows:
            Watch(graph).run(*row)
    return {key: (total / counts[key[0]]).numpy() for key, total in sums.items()}
