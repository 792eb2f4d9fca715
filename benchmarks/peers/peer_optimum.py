"""optimum-onnx 0.1 on MiniLM: presets as in its guide, then excluded nodes, preprocessors and the optimiser.

Runs in the environment ``optimum``. It exports the model itself; its file also takes token types.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from peers.command import peer_main
from peers.ort_quantise import ATTENTION, FFN_OUT, matmuls
from peers.work import Quantise, Rows, Variant

__all__ = ["ROWS"]

_GUIDE = "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization"
_OPTIMISE = "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/optimization"
_EXAMPLE = "https://github.com/huggingface/optimum-onnx (examples/onnxruntime/quantization, run_glue.py)"
_LINEAR = ["MatMul", "Gemm", "Gather"]


def export(work: Path, folder: Path, *, optimised: bool = False) -> Path:
    """Export to ONNX, at choice with the optimiser's level O2 (fused attention, LayerNorm, GELU)."""
    from optimum.onnxruntime import AutoOptimizationConfig, ORTModelForFeatureExtraction, ORTOptimizer

    model = ORTModelForFeatureExtraction.from_pretrained(work / "model", export=True)
    model.save_pretrained(folder / "float")
    if not optimised:
        return folder / "float"
    optimiser = ORTOptimizer.from_pretrained(model)
    optimiser.optimize(save_dir=folder / "optimised", optimization_config=AutoOptimizationConfig.O2())
    return folder / "optimised"


def only_onnx(folder: Path) -> Path:
    (found,) = folder.glob("*.onnx")
    return found


def float_file(work: Path, _: int, out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        out.write_bytes(only_onnx(export(work, Path(name))).read_bytes())


def dataset(work: Path, sequence: int) -> Any:  # noqa: ANN401 - a class of `datasets`
    import numpy as np
    from datasets import Dataset

    rows = Rows.load(work / f"s{sequence}" / "calibration.npz")
    return Dataset.from_dict(
        {
            "input_ids": rows.input_ids.tolist(),
            "attention_mask": rows.attention_mask.tolist(),
            "token_type_ids": np.zeros_like(rows.input_ids).tolist(),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to call ``AutoQuantizationConfig``.

    Attributes:
        preset: Its method.
        static: With ranges from min-max calibration.
        per_channel: Weights.
        linear: Linear layers and embedding only, instead of the preset's operators.
        exclude: Groups of MatMul nodes that stay float.
        preprocess: Exclude what the example for static quantisation of BERT excludes.
        optimised: Quantise the graph after ``ORTOptimizer`` O2.
    """

    preset: Literal["arm64", "avx512_vnni"] = "avx512_vnni"
    static: bool
    per_channel: bool = True
    linear: bool = False
    exclude: tuple[str, ...] = ()
    preprocess: bool = False
    optimised: bool = False


def quantise(settings: Settings, work: Path, sequence: int, out: Path) -> None:
    """Export and quantise."""
    from optimum.onnxruntime import AutoCalibrationConfig, AutoQuantizationConfig, ORTQuantizer

    with tempfile.TemporaryDirectory() as name:
        source = export(work, Path(name), optimised=settings.optimised)
        groups = matmuls(only_onnx(source))
        options: dict[str, Any] = {"operators_to_quantize": _LINEAR} if settings.linear else {}
        if settings.exclude:
            options["nodes_to_exclude"] = [node for group in settings.exclude for node in groups[group]]
        make: Callable[..., Any] = getattr(AutoQuantizationConfig, settings.preset)
        config = make(is_static=settings.static, per_channel=settings.per_channel, **options)
        quantizer = ORTQuantizer.from_pretrained(source)
        ranges = None
        if settings.static:
            rows = dataset(work, sequence)
            ranges = quantizer.fit(
                dataset=rows,
                calibration_config=AutoCalibrationConfig.minmax(rows),
                operators_to_quantize=config.operators_to_quantize,
            )
        quantizer.quantize(
            save_dir=Path(name) / "int8",
            quantization_config=config,
            calibration_tensors_range=ranges,
            preprocessor=_preprocessor() if settings.preprocess else None,
        )
        out.write_bytes(only_onnx(Path(name) / "int8").read_bytes())


def _preprocessor() -> Any:  # noqa: ANN401 - a class of optimum
    from optimum.onnxruntime.preprocessors import QuantizationPreprocessor
    from optimum.onnxruntime.preprocessors.passes import (
        ExcludeGeLUNodes,
        ExcludeLayerNormNodes,
        ExcludeNodeAfter,
        ExcludeNodeFollowedBy,
    )

    found = QuantizationPreprocessor()
    found.register_pass(ExcludeLayerNormNodes())
    found.register_pass(ExcludeGeLUNodes())
    found.register_pass(ExcludeNodeAfter("Add", "Add"))
    found.register_pass(ExcludeNodeAfter("Gather", "Add"))
    found.register_pass(ExcludeNodeFollowedBy("Add", "Softmax"))
    return found


def _row(
    name: str,
    mode: Literal["float", "static", "dynamic"],
    how: str,
    *,
    tuned: bool = False,
    page: str = _GUIDE,
) -> Variant:
    return Variant(peer="optimum", name=name, engine="onnxruntime", mode=mode, tuned=tuned, how=how, page=page)


def _with(**settings: Any) -> Quantise:  # noqa: ANN401 - checked by Settings
    return partial(quantise, Settings(**settings))


ROWS: Mapping[Variant, Quantise] = {
    _row("fp32", "float", "ORTModelForFeatureExtraction(export=True)"): float_file,
    _row("static-default", "static", "arm64(is_static=True, per_channel=False), min-max, as the guide"): _with(
        preset="arm64", static=True, per_channel=False
    ),
    _row("static-vnni", "static", "avx512_vnni(is_static=True, per_channel=True)", tuned=True): _with(static=True),
    _row(
        "static-example",
        "static",
        "as static-vnni, QuantizationPreprocessor with the example's passes: LayerNorm, GELU, Add after Add, Add after "
        "Gather and Add before Softmax excluded",
        tuned=True,
        page=_EXAMPLE,
    ): _with(static=True, preprocess=True),
    _row(
        "static-linear",
        "static",
        "as static-vnni, operators_to_quantize MatMul, Gemm, Gather; the attention's own MatMuls in nodes_to_exclude",
        tuned=True,
    ): _with(static=True, linear=True, exclude=(ATTENTION,)),
    _row(
        "static-linear-no-ffn-out",
        "static",
        "as static-linear, the 6 FFN-out MatMuls in nodes_to_exclude too",
        tuned=True,
    ): _with(static=True, linear=True, exclude=(ATTENTION, FFN_OUT)),
    _row("dynamic-default", "dynamic", "avx512_vnni(is_static=False, per_channel=False), as the guide"): _with(
        static=False, per_channel=False
    ),
    _row("dynamic-arm64", "dynamic", "arm64(is_static=False, per_channel=True)", tuned=True): _with(
        preset="arm64", static=False
    ),
    _row("dynamic-per-channel", "dynamic", "avx512_vnni(is_static=False, per_channel=True)", tuned=True): _with(
        static=False
    ),
    _row(
        "dynamic-o2",
        "dynamic",
        "ORTOptimizer with AutoOptimizationConfig.O2(), then as dynamic-per-channel",
        tuned=True,
        page=_OPTIMISE,
    ): _with(static=False, optimised=True),
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
