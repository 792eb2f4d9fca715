"""Turns an ONNX graph of fixed shapes into a PyTorch module, so that one plan serves ONNX and TFLite."""

import ast
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit_converters.export.onnx import SCOPES
from edgekit_converters.ready.onnx_ops import OPERATORS, Call, NotInTorch

__all__ = ["OnnxModule", "unknown_operators"]

_SCALARS = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})  # operators that take a number where ONNX has a tensor
_PARTS = ("weight", "bias")
_PLAIN_DOMAINS = ("", "ai.onnx")


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """Name the operators of a graph that ``OnnxModule`` does not know, sorted."""
    found = set()
    for node in model.graph.node:
        plain = node.domain in _PLAIN_DOMAINS
        if not plain or node.op_type not in OPERATORS:
            found.add(node.op_type if plain else f"{node.domain}.{node.op_type}")
    return sorted(found)


class OnnxModule(nn.Module):
    """Computes an ONNX graph with PyTorch operators; made to be traced.

    Args:
        model: With fixed shapes and folded constants.

    Raises:
        NotInTorch: An operator is unknown.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        unknown = unknown_operators(model)
        if unknown:
            raise NotInTorch(f"operators without a counterpart: {', '.join(unknown)}")
        graph = model.graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._inputs = [value.name for value in graph.input if value.name not in self._constants]
        self._outputs = [value.name for value in graph.output]
        self._calls = [_call(node, self._constants) for node in graph.node]
        self._paths: dict[str, str] = {}
        taken: set[str] = set()
        for node in graph.node:
            self._hold(node, taken)
        for name in self._constants:
            if name not in self._paths:
                self._keep(name, _free(f"constants.{_clean(name)}", taken), "value")

    def _hold(self, node: onnx.NodeProto, taken: set[str]) -> None:
        """Keep a layer's weights under a module path that says where they come from."""
        names = [name if name in self._constants and name not in self._paths else "" for name in node.input]
        weights = [name for name in names if name and self._constants[name].ndim >= 1]
        floats = [name for name in weights if np.issubdtype(self._constants[name].dtype, np.floating)]
        if not floats or node.op_type in _SCALARS:
            return
        path = _free(_layer_path(node, floats[0]), taken)
        for place, name in enumerate(floats):
            self._keep(name, path, _PARTS[place] if place < len(_PARTS) else f"part{place}")

    def _keep(self, name: str, path: str, part: str) -> None:
        value = torch.from_numpy(np.array(self._constants[name]))
        owner: nn.Module = self
        for step in path.split("."):
            if step not in owner._modules:  # noqa: SLF001 - torch has no public test for a child
                owner.add_module(step, nn.Module())
            owner = owner.get_submodule(step)
        if value.is_floating_point():
            owner.register_parameter(part, nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(part, value)
        self._paths[name] = f"{path}.{part}"

    def _constant(self, call: Call, name: str) -> Any:  # noqa: ANN401 - a tensor or a number
        value = self._constants[name]
        if call.kind in _SCALARS and value.ndim == 0:
            return value.item()
        owner, _, part = self._paths[name].rpartition(".")
        return getattr(self.get_submodule(owner), part)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the graph's outputs from its inputs, both in the graph's order."""
        values: dict[str, Any] = dict(zip(self._inputs, inputs, strict=True))
        for call in self._calls:
            given = [
                None if not name else values[name] if name in values else self._constant(call, name)
                for name in call.inputs
            ]
            while given and given[-1] is None:
                given.pop()
            result = OPERATORS[call.kind](call, *given)
            values.update(zip(call.outputs, result if isinstance(result, tuple) else (result,), strict=False))
        return tuple(values[name] for name in self._outputs)


def _call(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> Call:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    if "value" in attributes and node.op_type != "Pad":
        raise NotInTorch(f"{node.op_type} with an attribute tensor")
    return Call(
        kind=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        constants={name: constants[name] for name in node.input if name in constants},
    )


def _layer_path(node: onnx.NodeProto, weight: str) -> str:
    """Give a layer's path: from its weight's name, its module path, or its own name, whichever says most."""
    if weight.endswith(".weight"):
        return _clean(weight.removesuffix(".weight"))
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = [scope for scope in ast.literal_eval(entry.value) if scope]
            if len(scopes) > 1:
                return _clean(scopes[-2])
    name = node.name.removesuffix(f"/{node.op_type}") or weight
    return _clean(name) or node.op_type.lower()


def _clean(name: str) -> str:
    """Give a name as a module path: letters, digits, underscores and single dots."""
    taken_by_torch = {*_PARTS, "value", *dir(nn.Module)}
    steps = [re.sub(r"\W+", "_", step).strip("_") for step in re.split(r"[./:]+", name)]
    return ".".join(f"{step}_" if step in taken_by_torch else step for step in steps if step) or "layer"


def _free(path: str, taken: set[str]) -> str:
    """Give the path, or the path with a number if another layer has it."""
    number, free = 2, path
    while free in taken:
        free, number = f"{path}_{number}", number + 1
    taken.add(free)
    return free
