"""Takes the mean error that rounded weights and inputs leave in each output channel out of the bias."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, layers, parameter, runs_once, set_tensor
from edgekit_converters.quantize.measure import Row, rounded_input, rounded_weight
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan

__all__ = ["correct_biases"]


def correct_biases(graph: Graph, plan: QuantPlan, rows: Sequence[Row]) -> int:
    """Subtract from each bias the mean over rows and positions of (rounded layer - float layer), on float inputs.

    This changes the float graph, on purpose and by less than a step of the output: the plan belongs to the corrected
    graph, both int8 files are written from it, and the float files are not.

    Args:
        graph: Changed in place.
        plan: Of this graph.
        rows: Held in; not those that the result is judged on, which it would fit.

    Returns:
        Number of layers that were corrected: those with a bias and int8 weights.

    Source:
        Nagel et al. 2019, section 4.2, measured as in Nagel et al. 2021, section 3.2.2 (empirical bias correction).
        Each layer meets float inputs here, so that an error that comes from before is corrected once, where it arises.
    """
    by_name = {layer.name: layer for layer in plan.layers}
    found: dict[str, _Layer] = {}
    for name, kind, node in layers(graph):
        planned = by_name[name]
        bias = parameter(graph, node.args[2]) if len(node.args) > 2 else None
        if kind != "embedding" and planned.mode is not Mode.FLOAT and bias is not None and runs_once(graph, node):
            found[node.name] = _Layer(planned, rounded_weight(graph, graph.graph, node.name, planned), node)
    run = _Compare(graph, found)
    with torch.no_grad():
        for row in rows:
            run.run(*row)
    for layer in found.values():
        bias = parameter(graph, layer.node.args[2])
        assert bias is not None
        if layer.count:
            set_tensor(graph, layer.node.args[2], (bias.double() - layer.error / layer.count).float())
    return len(found)


class _Layer:
    """One layer and the sum of its errors.

    Attributes:
        error: Float64 (channels,).
        count: Values per channel.
    """

    def __init__(self, plan: LayerPlan, weight: Tensor, node: fx.Node) -> None:
        self.plan, self.weight, self.node = plan, weight, node
        self.error, self.count = torch.zeros(len(weight), dtype=torch.float64), 0


class _Compare(fx.Interpreter):
    """Runs in float, and each layer a second time with rounded weights and input."""

    def __init__(self, graph: Graph, found: dict[str, _Layer]) -> None:
        super().__init__(graph)
        self._found = found

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        value = super().run_node(n)
        layer = self._found.get(n.name)
        if layer is not None:
            given, named = self.fetch_args_kwargs_from_env(n)
            rounded = n.target(rounded_input(given[0], layer.plan), layer.weight, *given[2:], **named)  # type: ignore[operator]
            error = (rounded - value).double()
            channels = 1 if layer.plan.kind == "conv" else error.dim() - 1
            others = [i for i in range(error.dim()) if i != channels]
            layer.error += error.sum(others)
            layer.count += error.numel() // error.shape[channels]
        return value
