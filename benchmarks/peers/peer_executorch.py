"""ExecuTorch 1.5 with XNNPACK on MiniLM: the quantiser of its tutorial, linear layers only, dynamic, torchao.

Runs in the environment ``executorch``.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from peers.command import peer_main
from peers.encoder import Encoder
from peers.work import Quantise, Rows, Variant

__all__ = ["ROWS", "open_program"]

_PAGE = "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html"
_EXPORT = "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html"
_QUANTIZER = "executorch.backends.xnnpack.quantizer.xnnpack_quantizer"
Example = tuple[torch.Tensor, torch.Tensor]


def open_program(path: Path) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]:
    """Load a .pte file; its thread pool is cut to one thread."""
    importlib.import_module("executorch.kernels.quantized")  # operators of quantised embeddings
    importlib.import_module("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(1)  # noqa: SLF001
    program = importlib.import_module("executorch.runtime").Runtime.get().load_program(path)
    method = program.load_method("forward")

    def call(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        output = method.execute((torch.from_numpy(ids), torch.from_numpy(mask)))[0]
        return np.asarray(output.numpy(), np.float32)

    return call


def calibration(work: Path, sequence: int) -> list[Example]:
    rows = Rows.load(work / f"s{sequence}" / "calibration.npz")
    return [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in rows.each()]


def lower(
    program: torch.export.ExportedProgram, out: Path, *, partitioners: list[Any], fuse_embeddings: bool = False
) -> None:
    exir = importlib.import_module("executorch.exir")
    lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners)
    config = exir.ExecutorchBackendConfig(do_quant_fusion_and_const_prop=fuse_embeddings)
    out.write_bytes(lowered.to_executorch(config).buffer)


def partitioner() -> Any:  # noqa: ANN401 - a class of ExecuTorch
    return importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner


def float_file(work: Path, sequence: int, out: Path) -> None:
    example = calibration(work, sequence)[0]
    lower(torch.export.export(Encoder(work / "model").eval(), example), out, partitioners=[partitioner()()])


def pt2e(work: Path, sequence: int, out: Path, *, scope: Literal["global", "linear"], dynamic: bool = False) -> None:
    """Quantise in the PT2E flow of the page.

    Args:
        work: Work folder.
        sequence: Tokens per row.
        out: File to write.
        scope: All operators that the quantiser knows, or modules of type Linear.
        dynamic: Activation ranges of each inference instead of calibrated ones.
    """
    tools, flow = (
        importlib.import_module(_QUANTIZER),
        importlib.import_module("torchao.quantization.pt2e.quantize_pt2e"),
    )
    config = tools.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    quantizer = tools.XNNPACKQuantizer()
    if scope == "global":
        quantizer.set_global(config)
    else:
        quantizer.set_module_type(torch.nn.Linear, config)
    examples = calibration(work, sequence)
    module = flow.prepare_pt2e(torch.export.export(Encoder(work / "model").eval(), examples[0]).module(), quantizer)
    for example in examples if not dynamic else examples[:1]:
        module(*example)
    lower(torch.export.export(flow.convert_pt2e(module), examples[0]), out, partitioners=[partitioner()()])


def torchao_dynamic(work: Path, sequence: int, out: Path) -> None:
    """Quantise with ``quantize_``: linear layers dynamic int8, embeddings int8, which PT2E leaves float."""
    quantization = importlib.import_module("torchao.quantization")
    per_axis = importlib.import_module("torchao.quantization.granularity").PerAxis(0)
    importlib.import_module("executorch.kernels.quantized")
    model = Encoder(work / "model").eval()
    # Quantised embeddings are only lowered with an option that is off by default, and if they have no padding index,
    # which inference does not need; otherwise the program is refused ("Missing out variants").
    model.bert.embeddings.word_embeddings.padding_idx = None
    quantization.quantize_(
        model,
        quantization.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=per_axis),
        lambda module, _: isinstance(module, torch.nn.Embedding),
    )
    quantization.quantize_(
        model,
        quantization.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=per_axis),
    )
    program = torch.export.export(model, calibration(work, sequence)[0])
    lower(program, out, partitioners=[partitioner()()], fuse_embeddings=True)


def _row(
    name: str,
    mode: Literal["float", "static", "dynamic"],
    how: str,
    *,
    tuned: bool = False,
    page: str = _PAGE,
) -> Variant:
    return Variant(peer="executorch", name=name, engine="executorch", mode=mode, tuned=tuned, how=how, page=page)


ROWS: Mapping[Variant, Quantise] = {
    _row("fp32", "float", "XnnpackPartitioner", page=_EXPORT): float_file,
    _row(
        "static-default",
        "static",
        "PT2E, XNNPACKQuantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))",
    ): partial(pt2e, scope="global"),
    _row(
        "static-linear",
        "static",
        "as static-default, set_module_type(torch.nn.Linear) in place of set_global",
        tuned=True,
    ): partial(pt2e, scope="linear"),
    _row("dynamic-default", "dynamic", "as static-default, is_dynamic=True"): partial(
        pt2e, scope="global", dynamic=True
    ),
    _row(
        "dynamic-torchao",
        "dynamic",
        "quantize_: Int8DynamicActivationIntxWeightConfig, embeddings IntxWeightOnlyConfig, both per axis; "
        "do_quant_fusion_and_const_prop, padding_idx removed",
        tuned=True,
    ): torchao_dynamic,
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
