"""Olive 0.13 on MiniLM: its quantisation passes at their defaults, its BERT example's chain, and tuned op types.

Runs in the environment ``olive``, through ``olive.workflows.run`` with the configuration that ``olive run --config``
takes. ``olive quantize`` is no way in: its static implementation is refused for an .onnx file without a hub data set.
"""

import importlib
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from peers.command import peer_main
from peers.ort_quantise import ATTENTION, FFN_OUT, matmuls
from peers.work import Quantise, Rows, Variant

__all__ = ["ROWS"]

_PASSES = "https://microsoft.github.io/Olive/reference/pass.html"
_GUIDE = "https://microsoft.github.io/Olive/features/quantization.html"
_EXAMPLE = "https://github.com/microsoft/Olive (examples/bert, bert_ptq_cpu.json)"
_Config = dict[str, Any]
_DATA = "minilm_rows"
_FUSE: _Config = {
    "type": "OrtTransformersOptimization",
    "model_type": "bert",
    "num_heads": 12,
    "hidden_size": 384,
    "float16": False,
}


class CalibrationRows:
    """The calibration rows in the form that Olive's data loader takes."""

    def __init__(self, path: Path, *, token_types: bool) -> None:
        self.rows = Rows.load(path)
        self.token_types = token_types

    def __len__(self) -> int:
        return len(self.rows.input_ids)

    def __getitem__(self, index: int) -> tuple[dict[str, NDArray[np.int64]], int]:
        found = {"input_ids": self.rows.input_ids[index], "attention_mask": self.rows.attention_mask[index]}
        if self.token_types:
            found["token_type_ids"] = np.zeros_like(found["input_ids"])
        return found, 0


def run(work: Path, sequence: int, out: Path, *, model: _Config, passes: Mapping[str, _Config], types: bool) -> None:
    """Run a workflow and fetch the .onnx file that it leaves.

    Args:
        work: Work folder.
        sequence: Tokens per row.
        out: File to write.
        model: ``input_model`` of the configuration.
        passes: By name; those that calibrate name the data configuration ``calibration``.
        types: The model also takes token types.
    """
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    registry = importlib.import_module("olive.data.registry").Registry
    path = work / f"s{sequence}" / "calibration.npz"
    registry.register_dataset(_DATA)(lambda **_: CalibrationRows(path, token_types=types))
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "input_model": model,
            "systems": {
                "local": {
                    "type": "LocalSystem",
                    "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
                }
            },
            "data_configs": [
                {
                    "name": "calibration",
                    "type": "DataContainer",
                    "load_dataset_config": {"type": _DATA},
                    "dataloader_config": {"batch_size": 1},
                }
            ],
            "passes": dict(passes),
            "target": "local",
            "output_dir": str(Path(folder) / "out"),
            "cache_dir": str(Path(folder) / "cache"),
        }
        importlib.import_module("olive.workflows").run(config)
        found = list((Path(folder) / "out").rglob("*.onnx"))
        if len(found) != 1 or found[0].with_name(found[0].name + ".data").exists():
            raise FileNotFoundError(f"wanted one .onnx file without external data; got {[file.name for file in found]}")
        out.write_bytes(found[0].read_bytes())


def from_onnx(work: Path, sequence: int, out: Path, *, quantise: _Config, exclude: tuple[str, ...] = ()) -> None:
    """Quantise the float32 file that ONNX Runtime's rows start from."""
    source = work / f"s{sequence}" / "fp32.onnx"
    groups = matmuls(source)
    if exclude:
        quantise = {**quantise, "nodes_to_exclude": [name for group in exclude for name in groups[group]]}
    model = {"type": "ONNXModel", "model_path": str(source.resolve())}
    run(work, sequence, out, model=model, passes={"quantise": quantise}, types=False)


def from_folder(work: Path, sequence: int, out: Path, *, passes: Mapping[str, _Config]) -> None:
    """Let Olive convert the model too: the chain of its BERT example."""
    model = {
        "type": "HfModel",
        "model_path": str((work / "model").resolve()),
        "task": "feature-extraction",
        "load_kwargs": {"attn_implementation": "eager"},
    }
    convert = {"convert": {"type": "OnnxConversion", "target_opset": 17}}
    run(work, sequence, out, model=model, passes={**convert, **passes}, types=True)


def _row(
    name: str,
    mode: Literal["float", "static", "dynamic"],
    how: str,
    *,
    tuned: bool = False,
    page: str = _PASSES,
) -> Variant:
    return Variant(peer="olive", name=name, engine="onnxruntime", mode=mode, tuned=tuned, how=how, page=page)


_STATIC: _Config = {"type": "OnnxStaticQuantization", "data_config": "calibration"}
_DYNAMIC: _Config = {"type": "OnnxDynamicQuantization"}
# uint8 activations and per-channel weights as ONNX Runtime's guide, to which the parameters' tips point, has them for
# x86-64. `prepare_qdq_config` is for a fully quantised model; without it the op types alone decide.
_LINEAR: _Config = {
    **_STATIC,
    "activation_type": "uint8",
    "per_channel": True,
    "prepare_qdq_config": False,
    "quant_preprocess": False,
    "op_types_to_quantize": ["MatMul", "Gemm", "Gather"],
}
_OUT_FLOAT: _Config = {"extra_options": {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}}

ROWS: Mapping[Variant, Quantise] = {
    _row("fp32-fused", "float", "OnnxConversion, OrtTransformersOptimization", page=_EXAMPLE): partial(
        from_folder, passes={"fuse": _FUSE}
    ),
    _row("static-default", "static", "OnnxStaticQuantization(data_config)", page=_GUIDE): partial(
        from_onnx, quantise=_STATIC
    ),
    _row(
        "static-example",
        "static",
        "OnnxConversion, OrtTransformersOptimization(bert), OnnxQuantization(data_config)",
        tuned=True,
        page=_EXAMPLE,
    ): partial(
        from_folder,
        passes={"fuse": _FUSE, "quantise": {"type": "OnnxQuantization", "data_config": "calibration"}},
    ),
    _row(
        "static-linear",
        "static",
        "OnnxStaticQuantization: activation_type uint8, per_channel, no prepare_qdq_config; op_types_to_quantize "
        "MatMul, Gemm, Gather; the attention's own MatMuls in nodes_to_exclude",
        tuned=True,
    ): partial(from_onnx, quantise=_LINEAR, exclude=(ATTENTION,)),
    _row(
        "static-linear-out-float",
        "static",
        "as static-linear, extra_options OpTypesToExcludeOutputQuantization MatMul, Gemm",
        tuned=True,
    ): partial(from_onnx, quantise={**_LINEAR, **_OUT_FLOAT}, exclude=(ATTENTION,)),
    _row(
        "static-linear-no-ffn-out",
        "static",
        "as static-linear, the 6 FFN-out MatMuls in nodes_to_exclude too",
        tuned=True,
    ): partial(from_onnx, quantise=_LINEAR, exclude=(ATTENTION, FFN_OUT)),
    _row("dynamic-default", "dynamic", "OnnxDynamicQuantization", page=_GUIDE): partial(from_onnx, quantise=_DYNAMIC),
    _row("dynamic-per-channel", "dynamic", "OnnxDynamicQuantization, per channel", tuned=True): partial(
        from_onnx, quantise={**_DYNAMIC, "per_channel": True}
    ),
    _row(
        "dynamic-fused",
        "dynamic",
        "OnnxConversion, OrtTransformersOptimization(bert), OnnxDynamicQuantization(per_channel)",
        tuned=True,
        page=_EXAMPLE,
    ): partial(from_folder, passes={"fuse": _FUSE, "quantise": {**_DYNAMIC, "per_channel": True}}),
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
