"""Writes a planned graph into int8 files, and proves each file equal to its plan."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_biases, layer_weights
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.planner import Planned
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_static import quantize_tflite

__all__ = ["write_onnx", "write_tflite"]


def write_onnx(made: Planned, contract: ModelContract, target: Path, *, activations: ActivationType, opset: int) -> str:
    """Write int8 ONNX with our own Q/DQ placement.

    Args:
        made: The plan and the graph that it belongs to.
        contract: Names and shapes of inputs and outputs.
        target: Of the file.
        activations: Type of the codes.
        opset: ONNX opset.

    Returns:
        One line: size, kernels, layers by mode, and how much was proved.
    """
    weights = layer_weights(made.graph)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / target.name
        export_module_onnx(made.graph, contract, source, opset=opset)
        counts = quantize_onnx(source, target, made.plan, weights, activations=activations)
    equal = prove(made.plan, weights, layer_biases(made.graph), read_onnx(target, made.plan, weights))
    named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    kind = "U8S8" if activations == "uint8" else "S8S8"
    size = target.stat().st_size
    return f"{size / 1e6:.2f} MB, {kind}; layers: {named}; {equal} arrays and grids equal the plan's"


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
    equal = prove(made.plan, weights, layer_biases(made.graph), read_tflite(target, made.plan, weights))
    return f"{target.stat().st_size / 1e6:.2f} MB; {equal} arrays and grids equal the plan's"
