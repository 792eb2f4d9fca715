"""Runs the quantisation graph: in float, and with rounded layers to predict what int8 will cost."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.rows import Row, as_rows
from edgekit_converters.quantize.calibration.run import Checkpoint, Measured, measure
from edgekit_converters.quantize.graph import after_activation, layer_name, layers, parameter
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan

__all__ = [
    "Checkpoint",
    "Measured",
    "Row",
    "after_activation",
    "as_rows",
    "measure",
    "outputs",
    "rounded_input",
    "rounded_weight",
    "simulate",
]


def outputs(graph: fx.GraphModule, rows: Iterable[Row]) -> NDArray[np.float64]:
    """Give the first output of each row in float, stacked: (rows, ...)."""
    return stack_outputs(fx.Interpreter(graph), rows)


def simulate(
    graph: fx.GraphModule, plan: QuantPlan, rows: Iterable[Row], *, linear_outputs: bool = True
) -> NDArray[np.float64]:
    """Give the outputs that the plan's int8 model is expected to have: (rows, ...).

    Static layers round input, weight and output; dynamic ones round the weight and, per tensor, the input; coded ones
    decode their codes, and round each token of their input unless they are weight-only. This is
    LiteRT's arithmetic; ONNX Runtime leaves the outputs of linear layers float (``linear_outputs=False``).
    """
    by_name = {layer.name: layer for layer in plan.layers}
    ends: dict[str, Grid] = {}
    found = {}
    for name, _, node in layers(graph):
        layer = by_name[name]
        if layer.mode is not Mode.FLOAT:
            found[node.name] = layer
            if layer.output is not None and (linear_outputs or layer.kind != "linear"):
                ends[after_activation(node).name] = layer.output
    weights = {name: rounded_weight(graph, graph.graph, name, layer) for name, layer in found.items()}

    class Rounded(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
            layer = found.get(n.name)
            if layer is None:
                value = super().run_node(n)
            else:
                given, named = self.fetch_args_kwargs_from_env(n)
                arguments: list[Any] = list(given)
                place = 0 if layer.kind == "embedding" else 1
                arguments[place] = weights[n.name]
                if layer.kind != "embedding":
                    arguments[0] = rounded_input(arguments[0], layer)
                value = n.target(*arguments, **named)  # type: ignore[operator]
            return _on_grid(value, ends[n.name]) if n.name in ends else value

    return stack_outputs(Rounded(graph), rows)


def rounded_weight(graph: fx.GraphModule, owner: fx.Graph, name: str, layer: LayerPlan) -> Tensor:
    """Give the weight of a node as the files hold it, decoded to float32."""
    if layer.is_coded:
        return torch.from_numpy(layer.held.dequantise())
    node = next(node for node in owner.nodes if node.name == name)
    weight = parameter(graph, node.args[0 if layer.kind == "embedding" else 1])
    assert weight is not None, layer_name(node)
    scale = torch.from_numpy(layer.scales(weight.numpy())).reshape([-1] + [1] * (weight.dim() - 1))
    return torch.from_numpy(layer.codes(weight.numpy())).float() * scale


def rounded_input(x: Tensor, layer: LayerPlan) -> Tensor:
    """Give a layer's input on the grid that it is rounded to."""
    if layer.mode is Mode.WEIGHT_ONLY:
        return x
    if layer.is_coded:  # LiteRT gives each token a grid of its own; ONNX Runtime's steps are finer still
        return _on_own_grids(x)
    if layer.input is not None:
        return _on_grid(x, layer.input)
    low, high = (float(side) for side in torch.aminmax(x))  # dynamic: the grid of this very tensor
    scale = max((max(high, 0.0) - min(low, 0.0)) / 255.0, 1e-9)
    return _on_grid(x, Grid(low=low, high=high, scale=scale, zero_point=round(-128 - min(low, 0.0) / scale)))


def _on_own_grids(x: Tensor) -> Tensor:
    """Round each row of the last dimension on a symmetric int8 grid that just holds it."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127.0
    return (x / scale).round_().mul_(scale)


def _on_grid(x: Tensor, grid: Grid) -> Tensor:
    codes = (x / grid.scale).round_().add_(grid.zero_point).clamp_(*grid.codes)
    return codes.sub_(grid.zero_point).mul_(grid.scale)


def stack_outputs(run: fx.Interpreter, rows: Iterable[Row]) -> NDArray[np.float64]:
    """Give the first output of each row, stacked: float64 (rows, ...)."""
    found = []
    with torch.no_grad():
        for row in rows:
            value = run.run(*row)
            found.append((value[0] if isinstance(value, tuple) else value).numpy().astype(np.float64))
    return np.concatenate(found)
