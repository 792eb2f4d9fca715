"""Runs the quantisation graph: in float to measure ranges, and with rounded layers to predict what int8 will cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.graph import layer_name, layers, parameter
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_runtime.errors import ConversionError

__all__ = ["Measured", "Row", "after_activation", "as_rows", "measure", "outputs", "simulate"]

Row = Sequence[Tensor]
_FUSED = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default, torch.ops.aten.hardtanh.default)


@dataclass(slots=True)
class Measured:
    """What calibration saw of one tensor.

    Attributes:
        range: Smallest and largest value.
        peaks: Largest absolute value of each channel (the last dimension), float32 (channels,).
    """

    range: Range
    peaks: Tensor


class _Run(fx.Interpreter):
    """An interpreter that shows each value to a hook, which may replace it."""

    def __init__(self, graph: fx.GraphModule, hook: Callable[[fx.Node, Any], Any]) -> None:
        super().__init__(graph)
        self._hook = hook

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        return self._hook(n, super().run_node(n))


def as_rows(graph: fx.GraphModule, feeds: Iterable[Mapping[str, NDArray[np.generic]]], *, trim: bool) -> Sequence[Row]:
    """Turn feeds by input name into graph inputs; with ``trim`` padding is cut off by ``attention_mask``."""
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    rows: list[Row] = []
    for feed in feeds:
        values = [np.asarray(feed[name]) for name in names]
        if trim and "attention_mask" in feed:
            length = max(2, int(np.flatnonzero(feed["attention_mask"][0]).max(initial=1)) + 1)
            values = [value[:, :length] for value in values]
        rows.append(tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in values))
    return rows


def after_activation(node: fx.Node) -> fx.Node:
    """Give the node where a layer's output grid lies: behind a ReLU or ReLU6 that both engines fuse into it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in _FUSED else node


def measure(graph: fx.GraphModule, rows: Iterable[Row]) -> dict[str, Measured]:
    """Measure the inputs and outputs of all linear and convolution layers; one row in memory at a time.

    Returns:
        By the name of the node that makes the tensor.

    Raises:
        ConversionError: A value is not finite (E0730).
    """
    wanted = set()
    for _, kind, node in layers(graph):
        if kind != "embedding":
            wanted |= {str(node.args[0]), after_activation(node).name}
    seen: dict[str, Measured] = {}

    def look(node: fx.Node, value: Any) -> Any:  # noqa: ANN401 - whatever a graph computes
        if node.name in wanted:
            low, high = (float(side) for side in torch.aminmax(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ConversionError(
                    "E0730",
                    f"tensor {node.name} is not finite during calibration ({low} to {high})",
                    fix="check the calibration rows and the trained weights",
                )
            peaks = value.abs().reshape(-1, value.shape[-1]).amax(0)
            old = seen.get(node.name)
            if old is None:
                seen[node.name] = Measured(Range(low, high), peaks)
            else:
                old.range = old.range.merge(Range(low, high))
                same = old.peaks.shape == peaks.shape
                old.peaks = torch.maximum(old.peaks, peaks) if same else old.peaks
        return value

    run = _Run(graph, look)
    with torch.no_grad():
        for row in rows:
            run.run(*row)
    return seen


def outputs(graph: fx.GraphModule, rows: Iterable[Row]) -> NDArray[np.float64]:
    """Give the first output of each row in float, stacked: (rows, ...)."""
    return _stack(_Run(graph, lambda _, value: value), rows)


def simulate(
    graph: fx.GraphModule, plan: QuantPlan, rows: Iterable[Row], *, linear_outputs: bool = True
) -> NDArray[np.float64]:
    """Give the outputs that the plan's int8 model is expected to have: (rows, ...).

    Static layers round input, weight and output; dynamic ones round the weight and, per tensor, the input. This is
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
    weights = {name: _rounded_weight(graph, graph.graph, name, layer) for name, layer in found.items()}

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
                    arguments[0] = _rounded_input(arguments[0], layer)
                value = n.target(*arguments, **named)  # type: ignore[operator]
            return _on_grid(value, ends[n.name]) if n.name in ends else value

    return _stack(Rounded(graph), rows)


def _rounded_weight(graph: fx.GraphModule, owner: fx.Graph, name: str, layer: LayerPlan) -> Tensor:
    node = next(node for node in owner.nodes if node.name == name)
    weight = parameter(graph, node.args[0 if layer.kind == "embedding" else 1])
    assert weight is not None, layer_name(node)
    scale = torch.from_numpy(layer.scales(weight.numpy())).reshape([-1] + [1] * (weight.dim() - 1))
    return torch.from_numpy(layer.codes(weight.numpy())).float() * scale


def _rounded_input(x: Tensor, layer: LayerPlan) -> Tensor:
    if layer.input is not None:
        return _on_grid(x, layer.input)
    low, high = (float(side) for side in torch.aminmax(x))  # dynamic: the grid of this very tensor
    scale = max((max(high, 0.0) - min(low, 0.0)) / 255.0, 1e-9)
    return _on_grid(x, Grid(low=low, high=high, scale=scale, zero_point=round(-128 - min(low, 0.0) / scale)))


def _on_grid(x: Tensor, grid: Grid) -> Tensor:
    codes = (x / grid.scale).round_().add_(grid.zero_point).clamp_(-128, 127)
    return codes.sub_(grid.zero_point).mul_(grid.scale)


def _stack(run: fx.Interpreter, rows: Iterable[Row]) -> NDArray[np.float64]:
    found = []
    with torch.no_grad():
        for row in rows:
            value = run.run(*row)
            found.append((value[0] if isinstance(value, tuple) else value).numpy().astype(np.float64))
    return np.concatenate(found)
