"""ONNX Runtime's ``SmoothQuant`` option on MiniLM. It calls neural-compressor 2, which needs numpy below 2.

Runs in the environment ``smoothquant``.
"""

from collections.abc import Mapping
from functools import partial

from peers.command import peer_main
from peers.ort_quantise import ATTENTION, quantise_static
from peers.work import Quantise, Variant

__all__ = ["ROWS"]

_PAGE = "onnxruntime.quantization.quantize_static, reference of extra_options"


def _row(name: str, how: str) -> Variant:
    return Variant(peer="ort", name=name, engine="onnxruntime", mode="static", tuned=True, how=how, page=_PAGE)


def _smooth(alpha: float, **extra: object) -> Quantise:
    options = {
        "activation_type": "QUInt8",
        "weight_type": "QInt8",
        "per_channel": True,
        "op_types_to_quantize": ["MatMul", "Gemm", "Gather"],
        # Folding scales into the layer before is right only where all readers of that layer are smoothed alike.
        "extra_options": {"SmoothQuant": True, "SmoothQuantAlpha": alpha, "SmoothQuantFolding": False, **extra},
    }
    return partial(quantise_static, options=options, exclude=(ATTENTION,))


ROWS: Mapping[Variant, Quantise] = {
    _row("static-smoothquant", "as static-linear, SmoothQuant, SmoothQuantAlpha 0.5, no folding"): _smooth(0.5),
    _row(
        "static-smoothquant-out-float", "as static-linear-out-float, SmoothQuant, SmoothQuantAlpha 0.7, no folding"
    ): _smooth(0.7, OpTypesToExcludeOutputQuantization=["MatMul", "Gemm"]),
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
