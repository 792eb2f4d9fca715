"""Tries GPTQ or AdaRound on a plan's 4-bit layers, and keeps the codes only if the simulated model comes closer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, layer_weights, layers
from edgekit_converters.quantize.measure import Row, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan, Technique
from edgekit_converters.quantize.rounding import adaround, gptq
from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.choose import with_codes
from edgekit_runtime.statistics import sqnr_db

__all__ = ["round_weights", "second_moments"]

_GAIN_DB = 0.1  # as for every technique: less is noise of the rows
_SOURCES = {
    "gptq": ("GPTQ rounding", "Frantar et al. 2022, algorithm 1"),
    "adaround": ("AdaRound rounding", "Nagel et al. 2020, section 3"),
}


def round_weights(
    graph: Graph, plan: QuantPlan, rows: Sequence[Row], judged: Sequence[Row], *, method: Literal["gptq", "adaround"]
) -> QuantPlan:
    """Choose the codes of 4-bit linear layers by the error of the layer's output.

    Args:
        graph: The plan's float graph.
        plan: With codes rounded to nearest.
        rows: Calibration rows, for the second moments of the inputs.
        judged: Held-in rows that decide.
        method: Which of the two.

    Returns:
        The plan with a verdict among its techniques, and with the new codes if they were kept.

    Raises:
        ConversionError: The second moments are not finite or not positive (E0761).
    """
    moments, weights = second_moments(graph, plan, rows), layer_weights(graph)
    changed = tuple(_rounded(layer, weights[layer.name], moments.get(layer.name), method) for layer in plan.layers)
    tried, reference = replace(plan, layers=changed), outputs(graph, judged)
    before, after = (sqnr_db(reference, simulate(graph, one, judged)) for one in (plan, tried))
    name, source = _SOURCES[method]
    verdict = Technique(
        name=name,
        source=source,
        sqnr_before_db=round(before, 2),
        sqnr_after_db=round(after, 2),
        kept=after > before + _GAIN_DB,
    )
    return replace(tried if verdict.kept else plan, techniques=(*plan.techniques, verdict))


def _rounded(
    layer: LayerPlan,
    weight: NDArray[np.float32],
    moments: NDArray[np.float64] | None,
    method: Literal["gptq", "adaround"],
) -> LayerPlan:
    nearest, scheme = layer.coded, layer.scheme
    if moments is None or scheme is None or not isinstance(nearest, BlockwiseInteger):
        return layer
    found = (gptq if method == "gptq" else adaround)(weight, nearest, moments)
    return with_codes(layer, found.weights, kind=scheme.kind, block=scheme.block, rounding=method)


def second_moments(graph: Graph, plan: QuantPlan, rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Give ``X^T X / tokens`` of the inputs of each 4-bit linear layer, float64 (in, in); readers of one tensor share.

    Args:
        graph: Runs in float.
        plan: Tells which layers count.
        rows: Inputs of the graph, without padding; one at a time is in memory.
    """
    readers = {}
    for name, kind, node in layers(graph):
        layer = plan.layer(name)
        if kind == "linear" and layer.mode is not Mode.FLOAT and isinstance(layer.coded, BlockwiseInteger):
            readers[name] = str(node.args[0])
    wanted = set(readers.values())
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(wanted, 0)

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
            value = super().run_node(n)
            if n.name in wanted:
                tokens = value.reshape(-1, value.shape[-1]).double()
                seen = tokens.T @ tokens
                sums[n.name] = sums[n.name].add_(seen) if n.name in sums else seen
                counts[n.name] += len(tokens)
            return value

    with torch.no_grad():
        for row in rows:
            Watch(graph).run(*row)
    means = {tensor: (total / counts[tensor]).numpy() for tensor, total in sums.items()}
    return {name: means[tensor] for name, tensor in readers.items()}
