"""Writes a quantisation plan into a TFLite file through ai-edge-quantizer, which decides none of its grids."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_converters.quantize.tflite_graph import TfliteGraph, TfliteLayer
from edgekit_converters.quantize.tflite_schemes import stamp_tflite
from edgekit_converters.quiet import converting
from edgekit_runtime.errors import ConversionError

__all__ = ["quantize_tflite"]

_SIGNATURE = "serving_default"
_WEIGHT_CODES = 127
# Their outputs have the grid of their inputs, or the other way round: what they compute is values of the input.
_SAME_SCALE = (
    *("AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D", "PAD", "RESHAPE", "SLICE", "SPLIT", "SQUEEZE"),
    *("STRIDED_SLICE", "TRANSPOSE", "UNPACK", "EXPAND_DIMS"),
)
Feeds = Mapping[str, NDArray[np.generic]]


def quantize_tflite(
    source: Path, target: Path, plan: QuantPlan, weights: Mapping[str, NDArray[np.float32]], rows: Iterable[Feeds]
) -> None:
    """Write the int8 model.

    Args:
        source: Float32 TFLite, converted from the graph that the plan was made for.
        target: Of the int8 model.
        plan: Modes and grids.
        weights: Float weights by layer, channels first.
        rows: Feeds by input name. Read only for a ``whole_network`` plan: operators that PyTorch does not have, such as
            the parts of a decomposed activation, are measured on the TFLite graph itself.

    Raises:
        ConversionError: ai-edge-quantizer refuses the model, a range is not finite, or a layer is not in the file.
    """
    with converting("E0731", "the TFLite model could not be quantised"):
        graph = TfliteGraph(source)
        found = graph.match(weights)
        ranges: dict[str, Any] = _calibrate(source, rows) if plan.whole_network else {}
        _check(ranges)
        planned: set[int] = set()
        for layer in plan.layers:
            for place in found[layer.name] if layer.kind != "embedding" else ():
                if layer.is_int8:
                    _inject_weight(ranges, graph, place, layer)
                if layer.mode is Mode.STATIC:
                    assert layer.input is not None
                    assert layer.output is not None
                    _inject(ranges, graph, place.input, layer.input)
                    _inject(ranges, graph, place.output, layer.output)
                    planned |= {place.input, place.output}
        if plan.whole_network:
            _spread(ranges, graph, planned)
        from ai_edge_quantizer import quantizer

        if any(layer.is_int8 for layer in plan.layers):
            job = quantizer.Quantizer(str(source), _recipe(plan, graph, found))
            job.quantize(ranges).export_model(str(target), overwrite=True)
        else:
            shutil.copyfile(source, target)
        stamp_tflite(target, plan, weights)


def _inject(ranges: dict[str, Any], graph: TfliteGraph, tensor: int, grid: Grid) -> None:
    """Set a tensor's range to the ends of its grid, in float64: scale and zero point come back to the bit."""
    rank = [1] * graph.rank(tensor)
    low, high = grid.limits
    ranges[graph.name(tensor)] = {"min": np.full(rank, low), "max": np.full(rank, high)}


def _inject_weight(ranges: dict[str, Any], graph: TfliteGraph, place: TfliteLayer, layer: LayerPlan) -> None:
    """Set the ends of a weight's codes, which the library would put at its largest weight: a plan may be narrower."""
    ends = np.array(layer.weight_scales, np.float32).astype(np.float64) * _WEIGHT_CODES
    axis = graph.rank(place.weight) - 1 if place.operator == "DEPTHWISE_CONV_2D" else 0
    ends = ends.reshape([-1 if i == axis else 1 for i in range(graph.rank(place.weight))])
    ranges[graph.name(place.weight)] = {"min": -ends, "max": ends}


def _spread(ranges: dict[str, Any], graph: TfliteGraph, planned: set[int]) -> None:
    """Give the plan's grids to all tensors that must share them; the planner has tied their ranges likewise."""
    groups = [
        {tensor for tensor in (*inputs, *outputs) if tensor >= 0 and not graph.is_constant(tensor)}
        for name, inputs, outputs in graph.operators()
        if name in _SAME_SCALE
    ]
    planned = set(planned)
    before = -1
    while before != len(planned):
        before = len(planned)
        for group in groups:
            known = sorted(group & planned)
            for tensor in sorted(group - planned) if known else ():
                held = ranges[graph.name(known[0])]
                rank = [1] * graph.rank(tensor)
                ranges[graph.name(tensor)] = {side: np.full(rank, held[side].flat[0]) for side in ("min", "max")}
                planned.add(tensor)


def _calibrate(source: Path, rows: Iterable[Feeds]) -> dict[str, Any]:
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    everything = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    # The library's default is a moving average, which forgets rare large values: 9 times the error on a CNN.
    measure = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    measure.calibrate({_SIGNATURE: [dict(row) for row in rows]}, everything._recipe_manager)  # noqa: SLF001
    return dict(measure.get_model_qsvs())


def _check(ranges: Mapping[str, Any]) -> None:
    for name, seen in ranges.items():
        for side in ("min", "max"):
            if side in seen and not np.isfinite(seen[side]).all():
                raise ConversionError(
                    "E0730",
                    f"tensor {name} is not finite during calibration",
                    fix="check the calibration rows and the trained weights",
                )


def _recipe(plan: QuantPlan, graph: TfliteGraph, found: Mapping[str, list[TfliteLayer]]) -> Any:  # noqa: ANN401 - the library's own type
    """Name every layer of the plan by its output tensor; later rows of the library's recipe win."""
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    operators = qtyping.TFLOperationName
    untouched = algorithm_manager.AlgorithmName.NO_QUANTIZE
    book = recipe_manager.RecipeManager()
    if plan.whole_network:
        bits = max((layer.input.bits for layer in plan.layers if layer.input is not None), default=8)
        book.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=bits, weight_num_bits=8)
        for side in (operators.INPUT, operators.OUTPUT):
            book.add_quantization_config(".*", side, algorithm_key=untouched)
    for layer, place in ((one, call) for one in plan.layers for call in found[one.name]):
        pattern = f"^{re.escape(graph.name(place.output))};?$"
        name = operators[place.operator]
        if not layer.is_int8:
            book.add_quantization_config(pattern, name, algorithm_key=untouched)
        elif layer.mode is Mode.DYNAMIC or layer.kind == "embedding":
            # A lookup has no activations to quantise; weight-only would turn the whole table into float at start.
            book.add_dynamic_config(pattern, name, num_bits=8)
        else:
            assert layer.input is not None
            book.add_static_config(pattern, name, activation_num_bits=layer.input.bits, weight_num_bits=8)
    return book.get_quantization_recipe()
