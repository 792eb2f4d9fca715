"""Writes a planned graph into int8 files, and proves each file equal to its plan."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite
from edgekit_converters.layerwise.record import record_onnx, record_tflite
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import kernel_kinds, layer_biases, layer_weights
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_schemes import least_opset, read_onnx_codes
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.planner import Planned
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.saturation import SevenBit
from edgekit_converters.quantize.saturation_report import prove_layers, record_saturation
from edgekit_converters.quantize.schemes.proved import prove_codes
from edgekit_converters.quantize.tflite_schemes import read_tflite_codes
from edgekit_converters.quantize.tflite_static import quantize_tflite

__all__ = ["write_onnx", "write_tflite"]


def write_onnx(
    made: Planned,
    contract: ModelContract,
    target: Path,
    *,
    activations: ActivationType,
    opset: int,
    seven_bit: SevenBit = False,
) -> str:
    """Write int8 ONNX with our own Q/DQ placement.

    Beside it: what its sums can reach (``saturation.json``), and its float file with the places of its layers, which
    a comparison layer by layer needs.

    Args:
        made: The plan and the graph that it belongs to.
        contract: Names and shapes of inputs and outputs.
        target: Of the file.
        activations: Type of the codes.
        opset: ONNX opset, or the least that the plan's codes need.
        seven_bit: The weights were narrowed, so a sum that can saturate is a fault.

    Returns:
        One line: size, what products multiply, layers by mode, how much was proved, and whether sums can saturate.
    """
    plan, graph = made.plan, made.graph
    weights = layer_weights(graph)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / target.name
        export_module_onnx(graph, contract, source, opset=max(opset, least_opset(plan)))
        counts = quantize_onnx(source, target, plan, weights, activations=activations)
        record_onnx(source, target.parent, made, weights)
    found = read_onnx(target, plan, weights)
    equal = prove(plan, weights, layer_biases(graph), found) + prove_codes(plan, read_onnx_codes(target))
    proofs = prove_layers(plan, found, kernel_kinds(graph))
    said = record_saturation(proofs, target.parent, must_be_safe=bool(seven_bit))
    named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    size = target.stat().st_size
    kinds = f"{_products(plan, activations)}; layers: {named}"
    return f"{size / 1e6:.2f} MB, {kinds}; {equal} arrays and grids equal the plan's; {said}"


def _products(plan: QuantPlan, activations: ActivationType) -> str:
    """Say what the products multiply, inputs first: ``uint8 x int8``, ``measured x int4`` (a grid at each run)."""
    found = set()
    for layer in plan.layers:
        if layer.kind == "embedding" or layer.mode is Mode.FLOAT:
            continue
        inputs = {Mode.STATIC: activations, Mode.DYNAMIC: "measured", Mode.WEIGHT_ONLY: "float"}[layer.mode]
        if layer.input is not None and layer.input.bits == 16:
            inputs = "int16"
        found.add(f"{inputs} x {layer.scheme.kind if layer.scheme else 'int8'}")
    return ", ".join(sorted(found)) or "no int8 products"


def write_tflite(
    made: Planned, contract: ModelContract, target: Path, rows: Iterable[Mapping[str, NDArray[np.generic]]]
) -> str:
    """Write int8 TFLite through ai-edge-quantizer.

    Args:
        made: The plan and the graph that it belongs to.
        contract: Names and shapes of inputs and outputs.
        target: Of the file.
        rows: Calibration feeds; see ``quantize_tflite``.

    Returns:
        One line: size, and how much was proved.
    """
    weights = layer_weights(made.graph)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / target.name
        export_module_tflite(separate_affine(made.graph), contract, source)
        quantize_tflite(source, target, made.plan, weights, rows)
        record_tflite(source, target.parent, made, weights)
    equal = prove(made.plan, weights, layer_biases(made.graph), read_tflite(target, made.plan, weights))
    equal += prove_codes(made.plan, read_tflite_codes(target))
    return f"{target.stat().st_size / 1e6:.2f} MB; {equal} arrays and grids equal the plan's"
