"""Int8 for an ONNX model that has no PyTorch form: onnxruntime's own quantiser with careful settings, then measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgekit_converters.quiet import converting
from edgekit_converters.ready.model import ReadyOnnx
from edgekit_converters.ready.quantised import Feeds, Quantised, closeness, judged

__all__ = ["quantize_ready_onnx"]

_RECURRENT = ("LSTM", "GRU", "RNN")


def quantize_ready_onnx(source: ReadyOnnx, target: Path, rows: Sequence[Feeds]) -> Quantised:
    """Write the int8 model; inputs and outputs keep their types.

    Convolutions and products with constant weights become static int8 per channel, activations uint8, which is what
    onnxruntime's x86 and ARM kernels are fast with; all else stays float. A recurrent network or one with attention
    gets dynamic int8: the static quantiser leaves LSTM weights float without a word, and breaks attention.

    Args:
        source: From ``load_ready``.
        target: Of the int8 model.
        rows: Calibration rows by input name, as ``source.contract`` has them.

    Raises:
        UsageError: There is no row (E0133).
        ConversionError: onnxruntime refuses the model (E0794).
    """
    chosen = judged(rows)
    kinds = {node.op_type for node in onnx.load(source.path).graph.node}
    recurrent = bool(kinds & set(_RECURRENT))
    attention = "Softmax" in kinds and "MatMul" in kinds
    with converting("E0794", f"'{source.path.name}' could not be quantised"):
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

        if recurrent or attention:
            quantize_dynamic(
                source.path,
                target,
                op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Gather"],
                per_channel=not recurrent,  # onnxruntime's LSTM kernel takes one scale per direction and gate block
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        else:
            quantize_static(
                source.path,
                target,
                _Rows(source, rows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    reason = (
        "it is recurrent" if recurrent else "it has attention" if attention else "it has neither loops nor attention"
    )
    return Quantised(
        how="dynamic" if recurrent or attention else "static",
        why=reason,
        sqnr_db=closeness(_run(source, source.path, chosen), _run(source, target, chosen)),
        rows=len(rows),
    )


def _feeds(source: ReadyOnnx, session: Any, rows: Sequence[Feeds]) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - ORT has no types
    """Give rows under the file's own names and in its widths of integers."""
    wide = {row.name: np.int64 for row in session.get_inputs() if row.type == "tensor(int64)"}
    for row in rows:
        yield {spec.tensor: row[spec.name].astype(wide.get(spec.tensor, spec.dtype)) for spec in source.contract.inputs}


def _run(source: ReadyOnnx, path: Path, rows: Sequence[Feeds]) -> list[Mapping[str, Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in source.contract.outputs]
    return [dict(zip(names, session.run(None, feed), strict=True)) for feed in _feeds(source, session, rows)]


class _Rows:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, source: ReadyOnnx, rows: Sequence[Feeds]) -> None:
        session = onnxruntime.InferenceSession(source.path, providers=["CPUExecutionProvider"])
        self._rows = _feeds(source, session, rows)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)
