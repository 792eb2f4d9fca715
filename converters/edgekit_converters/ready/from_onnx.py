"""Imports an ONNX file: as a PyTorch graph where that is possible and proved, else as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import torch
from torch import Tensor, fx

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quantize.graph import Graph, trace
from edgekit_converters.ready.model import ReadyModel, ReadyOnnx
from edgekit_converters.ready.normalise import graph_outputs, normalise
from edgekit_converters.ready.onnx_file import FixedOnnx, fix_shapes, run_onnx
from edgekit_converters.ready.onnx_ops import NotInTorch
from edgekit_converters.ready.onnx_torch import OnnxModule
from edgekit_converters.ready.outputs import arrange_outputs
from edgekit_converters.ready.probe import probes, require_equal
from edgekit_runtime.errors import ConversionError

__all__ = ["load_onnx"]

T = TypeVar("T")


def load_onnx(path: Path, *, work: Path, shape: Mapping[str, tuple[int, ...]] | None) -> ReadyModel | ReadyOnnx:
    """Import a ``.onnx`` file; see ``load_ready``. Where the PyTorch form differs from ONNX Runtime it is not used.

    Raises:
        ConversionError: See ``fix_shapes``.
    """
    fixed = fix_shapes(path, work, shape)
    contract = fixed.contract
    try:
        module = OnnxModule(fixed.model)
        graph = _named(trace(_Narrow(module, fixed).eval(), contract.example()), contract)
    except (NotInTorch, ConversionError) as error:
        return _as_it_is(
            fixed, path.name, error.why.splitlines()[0] if isinstance(error, ConversionError) else str(error)
        )
    order = arrange_outputs(graph, contract.outputs, title=path.name)
    rows = probes(graph, contract)
    normal = normalise(graph, rows)
    session = onnxruntime.InferenceSession(fixed.path, providers=["CPUExecutionProvider"])
    try:
        worst = require_equal(
            lambda row: _in_order(run_onnx(session, [value.numpy() for value in row]), order),
            lambda row: graph_outputs(normal.graph, row),
            rows,
            what=f"the PyTorch form of '{path.name}'",
        )
    except ConversionError as error:
        return _as_it_is(fixed, path.name, f"{error.what}: {error.why}")
    left_out = len(contract.outputs) - len(order)
    notes = [*normal.notes, *([f"{left_out} outputs that are inputs left out"] if left_out else [])]
    changes = "; ".join(notes) or "nothing rewritten"
    return ReadyModel(
        module=normal.graph,
        contract=_own_names(contract, order),
        description=f"{path.name}: ONNX as a PyTorch graph, within {worst:.1g} of ONNX Runtime; {changes}",
        digest=fixed.digest,
    )


def _as_it_is(fixed: FixedOnnx, title: str, reason: str) -> ReadyOnnx:
    return ReadyOnnx(
        path=fixed.path,
        contract=fixed.contract,
        description=f"{title}: ONNX without a PyTorch form ({reason})",
        digest=fixed.digest,
        why_no_tflite=reason,
    )


class _Narrow(torch.nn.Module):
    """Takes int32 where the file takes int64."""

    def __init__(self, model: OnnxModule, fixed: FixedOnnx) -> None:
        super().__init__()
        self.model = model
        self._wide = [spec.name in fixed.int64_inputs for spec in fixed.contract.inputs]
        self._outputs = [np.dtype(spec.dtype) for spec in fixed.contract.outputs]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = [value.long() if wide else value for value, wide in zip(inputs, self._wide, strict=True)]
        found = self.model(*given)
        kinds = {np.dtype(np.int32): torch.int32, np.dtype(np.float32): torch.float32}
        wanted = [kinds[kind] for kind in self._outputs]
        return tuple(v if v.dtype is kind else v.to(kind) for v, kind in zip(found, wanted, strict=True))


def _named(graph: Graph, contract: ModelContract) -> Graph:
    """Give the graph's inputs the names of the contract, which rows are fed by."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(places, contract.inputs, strict=True):
        _rename(node, spec.name)
    graph.recompile()
    return graph


def _rename(node: fx.Node, name: str) -> None:
    node.target = name
    node._rename(name)  # noqa: SLF001 - torch has no public way to rename a node


def _in_order(values: Sequence[T], order: Sequence[int]) -> list[T]:
    return [values[place] for place in order]


def _own_names(contract: ModelContract, order: Sequence[int]) -> ModelContract:
    """Give the contract that files written from the graph fulfil: tensors are called as edgekit calls them."""
    return ModelContract(
        inputs=tuple(replace(spec, tensor=spec.name) for spec in contract.inputs),
        outputs=tuple(replace(spec, tensor=spec.name) for spec in _in_order(contract.outputs, order)),
    )
