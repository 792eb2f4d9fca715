"""What a layer costs in each mode, in CPU time of the real engine: one layer alone in a file, each shape once."""

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite, tflite_contract
from edgekit_converters.quantize.decisions import Format
from edgekit_converters.quantize.graph import Graph, layer_weights, layers, parameter, trace
from edgekit_converters.quantize.grid import ActivationType, Range
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan, grid_from
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_runtime.engines import Engine, open_engine
from edgekit_runtime.manifest import TensorSpec

__all__ = ["MODES", "layer_costs"]

_Shape = tuple[str, tuple[int, ...], tuple[int, ...]]  # kind, weight, input
MODES = (Mode.STATIC, Mode.DYNAMIC, Mode.FLOAT)  # from the tightest to the loosest
_ROUNDS, _WARM_UP = 40, 3
_UNIT = Range(-1.0, 1.0)
_OPSET = 20


class _One(nn.Module):
    """A single linear or convolution layer, called as the graph calls it."""

    def __init__(self, node: fx.Node, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.call: Any = node.target
        self.rest = node.args[3:]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight, self.bias, *self.rest)  # type: ignore[no-any-return]


class _Shapes(fx.Interpreter):
    """Notes the shape of each layer's input."""

    def __init__(self, graph: Graph, wanted: Iterable[fx.Node]) -> None:
        super().__init__(graph)
        self.found: dict[str, tuple[int, ...]] = {}
        self._wanted = {node.name for node in wanted}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        if n.name in self._wanted:
            (x, *_), _ = self.fetch_args_kwargs_from_env(n)
            self.found[n.name] = tuple(x.shape)
        return super().run_node(n)


def layer_costs(
    graph: Graph,
    plan: QuantPlan,
    example: Sequence[Tensor],
    *,
    formats: Sequence[Format],
    activations: ActivationType,
    only: Sequence[Mode] = MODES,
) -> dict[str, dict[Mode, float]]:
    """Measure every linear and convolution layer that is static or dynamic in the plan.

    Args:
        graph: Of the plan.
        plan: A static layer may become dynamic or float, a dynamic one float; others are left out.
        example: Inputs of full length.
        formats: Engines; the cost is the sum over them.
        activations: Type of the codes in ONNX.
        only: Modes to offer.

    Returns:
        ms by layer and mode: the least of 40 runs on one thread.
    """
    offered = {
        layer.name: [mode for mode in only if MODES.index(mode) >= MODES.index(layer.mode)]
        for layer in plan.layers
        if layer.kind != "embedding" and layer.mode in (Mode.STATIC, Mode.DYNAMIC)
    }
    nodes = {name: (kind, node) for name, kind, node in layers(graph) if offered.get(name)}
    shapes = _Shapes(graph, (node for _, node in nodes.values()))
    with torch.no_grad():
        shapes.run(*example)
    known: dict[_Shape, dict[Mode, float]] = {}
    costs = {}
    for name, (kind, node) in nodes.items():
        weight = parameter(graph, node.args[1])
        assert weight is not None
        shape = shapes.found[node.name]
        # The kernels for grids measured at each run are those of linear layers on sequences.
        no_dynamic = plan.layer(name).mode is Mode.STATIC and (kind != "linear" or len(shape) != 3)
        modes = [mode for mode in offered[name] if not (no_dynamic and mode is Mode.DYNAMIC)]
        key = (f"{kind} {modes} {node.args[3:]}", tuple(weight.shape), shape)
        if key not in known:
            known[key] = dict.fromkeys(modes, 0.0)
            bias = parameter(graph, node.args[2]) if len(node.args) > 2 else None
            layer = _One(node, weight, bias)
            # One choice needs no measuring; an offer of none would be a fault of the caller.
            for name_of_format in formats if len(modes) > 1 else ():
                for mode, took in _measured(layer, kind, shape, modes, name_of_format, activations).items():
                    known[key][mode] += took
        costs[name] = dict(known[key])
    return costs


def _measured(
    layer: _One, kind: str, shape: tuple[int, ...], modes: Sequence[Mode], form: Format, activations: ActivationType
) -> dict[Mode, float]:
    x = torch.zeros(shape)
    graph = trace(layer, (x,))
    with torch.no_grad():
        result = layer(x)
    contract = ModelContract(
        inputs=(TensorSpec(name="x", tensor="x", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="y", tensor="y", dtype="float32", shape=tuple(result.shape)),),
    )
    weights = layer_weights(graph)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / f"float.{form}"
        if form == "onnx":
            export_module_onnx(graph, contract, whole, opset=_OPSET)
        else:
            export_module_tflite(graph, contract, whole)
        engines: dict[Mode, Engine] = {}
        for mode in modes:
            path = whole
            if mode is not Mode.FLOAT:
                path = Path(folder) / f"{mode.value}.{form}"
                plan = _plan(kind, mode, next(iter(weights.values())))
                if form == "onnx":
                    quantize_onnx(whole, path, plan, weights, activations=activations)
                else:
                    quantize_tflite(whole, path, plan, weights, ())
            held = contract if form == "onnx" else tflite_contract(contract, path)
            engine = "onnxruntime" if form == "onnx" else "litert"
            engines[mode] = open_engine(engine, path.read_bytes(), held.inputs, held.outputs, 1)
    return _times(engines, {"x": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)})


def _plan(kind: str, mode: Mode, weight: np.ndarray[Any, np.dtype[np.float32]]) -> QuantPlan:
    scales = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), 1e-9) / np.float32(127)
    grid = grid_from(_UNIT) if mode is Mode.STATIC else None
    layer = LayerPlan(
        name="",
        kind="conv" if kind == "conv" else "linear",
        mode=mode,
        why="measured",
        weight_scales=tuple(float(scale) for scale in scales.astype(np.float32)),
        input=grid,
        output=grid,
    )
    return QuantPlan(layers=(layer,), techniques=(), calibration_rows=0, calibration_digest="", whole_network=False)


def _times(engines: Mapping[Mode, Engine], feeds: Mapping[str, Any]) -> dict[Mode, float]:
    """Give the least CPU time of each, in ms, the engines taking turns."""
    least = dict.fromkeys(engines, float("inf"))
    for turn in range(_WARM_UP + _ROUNDS):
        for mode, engine in engines.items():
            before = time.thread_time()
            engine.run(feeds)
            took = (time.thread_time() - before) * 1e3
            if turn >= _WARM_UP:
                least[mode] = min(least[mode], took)
    for engine in engines.values():
        engine.close()
    return least
