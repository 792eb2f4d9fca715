"""ONNX Runtime's quantiser as its documentation describes it; shared by the peers that call it themselves."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers.work import Rows

__all__ = ["ATTENTION", "FFN_OUT", "matmuls", "preprocess", "quantise_dynamic", "quantise_static", "reader"]

ATTENTION, FFN_OUT = "attention", "ffn_out"
Feeds = dict[str, NDArray[np.int64]]


def reader(rows: Rows) -> Any:  # noqa: ANN401 - a class of ONNX Runtime
    """Give calibration rows one by one, as the tool asks for them; it copies the reader, so no iterator is kept."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.next = 0

        def get_next(self) -> Feeds | None:
            place, self.next = self.next, self.next + 1
            if place >= len(rows.input_ids):
                return None
            row = slice(place, place + 1)
            return {"input_ids": rows.input_ids[row], "attention_mask": rows.attention_mask[row]}

    return Reader()


def matmuls(path: Path) -> Mapping[str, list[str]]:
    """Name the MatMul nodes of attention, whose second input is no weight, and those of FFN-out.

    FFN-out is the linear layer whose weight has more rows than columns: (1536, 384).
    """
    import onnx

    graph = onnx.load(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, list[str]] = {ATTENTION: [], FFN_OUT: []}
    for node in graph.node:
        if node.op_type == "MatMul":
            shape = shapes.get(node.input[1])
            if shape is None:
                found[ATTENTION].append(node.name)
            elif shape[0] > shape[1]:
                found[FFN_OUT].append(node.name)
    return found


def preprocess(source: Path, folder: Path) -> Path:
    """Pre-process as the first step of the guide says.

    Both inferences of shapes fail or give a file that does not load on this model; with
    ``skip_optimization`` and ``skip_symbolic_shape``, which the guide allows, it works.
    """
    from onnxruntime.quantization import shape_inference

    found = folder / "preprocessed.onnx"
    shape_inference.quant_pre_process(source, found, skip_optimization=True, skip_symbolic_shape=True)
    return found


def quantise_static(
    work: Path,
    sequence: int,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    exclude: Sequence[str] = (),
    rows: int = 128,
) -> None:
    """Call ``quantize_static``.

    Args:
        work: Work folder.
        sequence: Tokens per row.
        out: File to write.
        options: Arguments of the call; enum members as their names.
        exclude: Groups of MatMul nodes that stay float.
        rows: Calibration rows; the histogram methods keep every activation in memory and get fewer.
    """
    from onnxruntime import quantization

    wanted = dict(options or {})
    for name, kind in (
        ("activation_type", quantization.QuantType),
        ("weight_type", quantization.QuantType),
        ("calibrate_method", quantization.CalibrationMethod),
        ("quant_format", quantization.QuantFormat),
    ):
        if name in wanted:
            wanted[name] = kind[wanted[name]]
    place = work / f"s{sequence}"
    calibration = Rows.load(place / "calibration.npz")
    part = Rows(input_ids=calibration.input_ids[:rows], attention_mask=calibration.attention_mask[:rows])
    with tempfile.TemporaryDirectory() as folder:
        source = preprocess(place / "fp32.onnx", Path(folder))
        groups = matmuls(source)
        wanted["nodes_to_exclude"] = [name for group in exclude for name in groups[group]]
        quantization.quantize_static(str(source), str(out), reader(part), **wanted)


def quantise_dynamic(work: Path, sequence: int, out: Path, *, options: Mapping[str, Any] | None = None) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(str(work / f"s{sequence}" / "fp32.onnx"), str(out), **(options or {}))
