"""ONNX Runtime 1.31's own quantiser on MiniLM: its defaults, and what its guide and reference offer.

Runs in edgekit's own environment (same versions). All start from the float32 file of ``torch.onnx.export``.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from peers.command import peer_main
from peers.ort_quantise import ATTENTION, FFN_OUT, quantise_dynamic, quantise_static
from peers.work import Quantise, Variant

__all__ = ["ROWS"]

_GUIDE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
_OPTIMIZER = "https://onnxruntime.ai/docs/performance/transformers-optimization.html"
_LINEAR = ["MatMul", "Gemm", "Gather"]  # Gather holds half of the weights: the word embedding
# The guide: U8S8 for x86-64 with VNNI, per channel for accuracy.
_U8S8 = {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}


def float_file(work: Path, sequence: int, out: Path) -> None:
    out.write_bytes((work / f"s{sequence}" / "fp32.onnx").read_bytes())


def dynamic_fused(work: Path, sequence: int, out: Path) -> None:
    """The guide's advice for transformers: fuse with the transformer optimiser, then quantise dynamically.

    The optimiser knows the graphs of the TorchScript exporter, so the model is exported anew with it.
    """
    import tempfile

    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    from peers.encoder import Encoder
    from peers.work import Rows

    encoder = Encoder(work / "model").eval()
    ids, mask = next(Rows.load(work / f"s{sequence}" / "calibration.npz").each())
    with tempfile.TemporaryDirectory() as name:
        source, fused = Path(name) / "float.onnx", Path(name) / "fused.onnx"
        torch.onnx.export(
            encoder,
            (torch.from_numpy(ids), torch.from_numpy(mask)),
            source,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            opset_version=17,
            dynamo=False,
        )
        model = optimize_model(str(source), model_type="bert", num_heads=12, hidden_size=384)
        print(model.get_fused_operator_statistics())
        model.save_model_to_file(str(fused))
        # Shapes are not inferred through fused nodes; the error message asks for this option.
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(str(fused), str(out), per_channel=True, extra_options=options)


def _row(
    name: str,
    mode: Literal["float", "static", "dynamic"],
    how: str,
    *,
    tuned: bool = False,
    page: str = _GUIDE,
) -> Variant:
    return Variant(peer="ort", name=name, engine="onnxruntime", mode=mode, tuned=tuned, how=how, page=page)


_OUT_FLOAT: Mapping[str, object] = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
_PERCENTILE: Mapping[str, object] = {"CalibPercentile": 99.999}


def _static(
    exclude: tuple[str, ...] = (ATTENTION,),
    *,
    rows: int = 128,
    method: str = "MinMax",
    extra: Mapping[str, object] | None = None,
) -> Quantise:
    options = {
        **_U8S8,
        "op_types_to_quantize": _LINEAR,
        "calibrate_method": method,
        "extra_options": dict(extra or {}),
    }
    return partial(quantise_static, options=options, exclude=exclude, rows=rows)


ROWS: Mapping[Variant, Quantise] = {
    _row("fp32", "float", "torch.onnx.export, opset 20"): float_file,
    _row("static-default", "static", "quant_pre_process, quantize_static(model, out, reader)"): quantise_static,
    _row(
        "static-u8s8", "static", "as default with QUInt8 activations, QInt8 weights, per_channel=True", tuned=True
    ): partial(quantise_static, options=_U8S8),
    _row(
        "static-linear",
        "static",
        "U8S8, per channel; op_types_to_quantize MatMul, Gemm, Gather; the attention's own MatMuls in nodes_to_exclude",
        tuned=True,
    ): _static(),
    _row(
        "static-linear-entropy",
        "static",
        "as static-linear, CalibrationMethod.Entropy, 16 rows (it keeps all activations in memory)",
        tuned=True,
    ): _static(rows=16, method="Entropy"),
    _row(
        "static-linear-percentile",
        "static",
        "as static-linear, CalibrationMethod.Percentile, CalibPercentile 99.999, 16 rows",
        tuned=True,
    ): _static(rows=16, method="Percentile", extra=_PERCENTILE),
    _row(
        "static-linear-out-float",
        "static",
        "as static-linear, OpTypesToExcludeOutputQuantization MatMul, Gemm",
        tuned=True,
    ): _static(extra=_OUT_FLOAT),
    # The guide's debugging section: find the worst layers by qdq_loss_debug and exclude them. They are FFN-out.
    _row(
        "static-linear-no-ffn-out",
        "static",
        "as static-linear, the 6 FFN-out MatMuls (worst by qdq_loss_debug) in nodes_to_exclude too",
        tuned=True,
    ): _static((ATTENTION, FFN_OUT)),
    _row(
        "static-linear-no-ffn-out-out-float",
        "static",
        "as static-linear-no-ffn-out, OpTypesToExcludeOutputQuantization MatMul, Gemm",
        tuned=True,
    ): _static((ATTENTION, FFN_OUT), extra=_OUT_FLOAT),
    _row("dynamic-default", "dynamic", "quantize_dynamic(model, out)"): quantise_dynamic,
    _row("dynamic-per-channel", "dynamic", "quantize_dynamic(per_channel=True)", tuned=True): partial(
        quantise_dynamic, options={"per_channel": True}
    ),
    _row(
        "dynamic-fused",
        "dynamic",
        "transformers.optimizer.optimize_model (bert, 12 heads), then quantize_dynamic(per_channel=True)",
        tuned=True,
        page=_OPTIMIZER,
    ): dynamic_fused,
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
