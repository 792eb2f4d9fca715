"""Predicts what a network gives whose every operator reads and gives integers, before any file is written."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.quantize.grid import bias_codes, weight_grid
from edgekit_converters.quantize.measure import Row, stack_outputs
from edgekit_converters.quantize.whole_graph import VIEWS
from edgekit_converters.quantize.whole_plan import TensorGrid, WholePlan
from edgekit_runtime.errors import ConversionError

__all__ = ["IntegerRun", "LinearCodes", "grid_at", "linear_codes", "simulate_whole"]

_LINEAR = torch.ops.aten.linear.default


class LinearCodes:
    """A linear layer in integers.

    Attributes:
        weight: int8 codes (channels, inputs).
        scales: Float32 (channels,).
        bias: int32 codes on ``bias_scale``, or None.
        bias_scale: Float32 (channels,): input scale times weight scale.
    """

    __slots__ = ("bias", "bias_scale", "scales", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, source: TensorGrid) -> None:
        self.weight, self.scales = weight_grid(weight.numpy(), axis=0)
        held = np.zeros(len(weight), np.float32) if bias is None else bias.numpy()
        codes, self.bias_scale = bias_codes(held, activation_scale=np.float32(source.scale), weight_scale=self.scales)
        self.bias: NDArray[np.int32] | None = None if bias is None else codes


def grid_at(plan: WholePlan, node: fx.Node) -> TensorGrid:
    """Give the grid that a tensor stands on; views stand on that of their input.

    Raises:
        ConversionError: The plan has none (E0774).
    """
    source = node
    while source.target in VIEWS and isinstance(source.args[0], fx.Node):
        source = source.args[0]
    found = plan.tensors.get(source.name)
    if found is None:
        raise ConversionError(
            "E0774",
            f"tensor {source.name} ({source.target}) has no grid",
            why="the plan was made for another graph",
            fix="build again",
        )
    return found


def linear_codes(graph: Graph, plan: WholePlan, node: fx.Node) -> LinearCodes:
    """Give a linear layer's integers."""
    weight = parameter(graph, node.args[1])
    assert weight is not None
    assert isinstance(node.args[0], fx.Node)
    bias = parameter(graph, node.args[2]) if len(node.args) > 2 else None
    return LinearCodes(weight, bias, grid_at(plan, node.args[0]))


class IntegerRun(fx.Interpreter):
    """An interpreter that rounds every tensor to its grid as it is made; ``unrounded`` ones stay float."""

    def __init__(self, graph: Graph, plan: WholePlan, *, unrounded: Collection[str] = ()) -> None:
        super().__init__(graph)
        self._tensors = {name: grid for name, grid in plan.tensors.items() if name not in unrounded}
        self._linear: dict[str, tuple[Tensor, Tensor | None]] = {}
        for node in graph.graph.nodes:
            if node.target is _LINEAR:
                codes = linear_codes(graph, plan, node)
                weight = torch.from_numpy(codes.weight * codes.scales[:, None])
                bias = (
                    None if codes.bias is None else torch.from_numpy((codes.bias * codes.bias_scale).astype(np.float32))
                )
                self._linear[node.name] = weight, bias

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        if n.name in self._linear:
            (x, *_), _ = self.fetch_args_kwargs_from_env(n)
            value = torch.nn.functional.linear(x, *self._linear[n.name])
        else:
            value = super().run_node(n)
        grid = self._tensors.get(n.name)
        return value if grid is None else grid.apply(value)


def simulate_whole(graph: Graph, plan: WholePlan, rows: Iterable[Row]) -> NDArray[np.float64]:
    """Give the first output of each row of the integer network, stacked: (rows, ...).

    Layer norm, softmax and GELU compute exactly between their integer inputs and outputs, as NPUs have them; what they
    give is then rounded once.

    Raises:
        ConversionError: A tensor that a linear layer reads has no grid (E0774).
    """
    return stack_outputs(IntegerRun(graph, plan), rows)
