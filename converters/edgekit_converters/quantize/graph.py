"""The student as a graph of PyTorch operators that can be rewritten, calibrated and exported from one place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions

from edgekit_converters.quiet import converting

__all__ = [
    "Graph",
    "add_tensor",
    "after_activation",
    "kernel_kind",
    "kernel_kinds",
    "layer_biases",
    "layer_name",
    "layer_weights",
    "layers",
    "load_graph",
    "parameter",
    "runs_once",
    "save_graph",
    "set_tensor",
    "trace",
]

Graph = fx.GraphModule
_LINEAR, _CONV, _EMBEDDING = (
    torch.ops.aten.linear.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.embedding.default,
)
_KINDS = {_LINEAR: "linear", _CONV: "conv", _EMBEDDING: "embedding"}
_FUSED = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default, torch.ops.aten.hardtanh.default)
# Written out step by step, so that their products are linear layers; both converters do so, too.
_RECURRENT = (
    torch.ops.aten.lstm.input,
    torch.ops.aten.gru.input,
    torch.ops.aten.rnn_tanh.input,
    torch.ops.aten.rnn_relu.input,
)
_PROGRAM = "graph.pt2"
_WRAPPER = "model."  # what `exportable` puts around an image model


def trace(module: nn.Module, example: tuple[Tensor, ...], *, longest: int = 0) -> Graph:
    """Turn a module into a plain graph of ATen operators.

    Args:
        module: In evaluation mode, batch norms folded.
        example: Inputs with batch 1.
        longest: If above 2, dimension 1 of every input may have any size from 2 to this, so that calibration can run on
            real tokens without padding.

    Raises:
        ConversionError: ``torch.export`` refuses the module (E0765).
    """
    free = None
    if longest > 2:
        length = torch.export.Dim("length", min=2, max=longest)
        free = tuple({1: length} for _ in example)
        size = max(2, longest // 2)  # fresh tensors: a view would bind its stride
        example = tuple(torch.ones(value.shape[0], size, dtype=value.dtype) for value in example)
    with torch.no_grad(), converting("E0765", "the model could not be traced for quantisation"):
        program = torch.export.export(module.eval(), example, dynamic_shapes=free)
        if any(node.target in _RECURRENT for node in program.graph.nodes):
            program = program.run_decompositions(get_decompositions(_RECURRENT))
    return _plain(program.module())


def _plain(module: nn.Module) -> Graph:
    """Drop guards, asserts and the calling convention of torch.export."""
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.target == "_guards_fn" or "_assert" in str(node.target):
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    plain = fx.GraphModule(module, graph)
    plain.graph.eliminate_dead_code()
    plain.recompile()
    for weight in plain.parameters():
        weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return plain.eval()  # a graph has one mode; the flag keeps exporters from warning


def save_graph(graph: Graph, example: tuple[Tensor, ...], folder: Path) -> None:
    """Write the graph with fixed shapes as an exported program."""
    with torch.no_grad(), converting("E0765", "the quantisation graph could not be saved"):
        torch.export.save(torch.export.export(graph, example), folder / _PROGRAM)


def load_graph(folder: Path) -> Graph:
    """Read what ``save_graph`` wrote."""
    return _plain(torch.export.load(folder / _PROGRAM).module())


def layers(graph: Graph) -> Iterator[tuple[str, str, fx.Node]]:
    """Give name, kind (``linear``, ``conv``, ``embedding``) and node of each layer with weights, as they run."""
    for node in graph.graph.nodes:
        kind = _KINDS.get(node.target) if node.op == "call_function" else None
        if kind is not None and _weight_node(node).op == "get_attr":
            yield layer_name(node), kind, node


def _weight_node(node: fx.Node) -> fx.Node:
    found = node.args[0 if node.target is _EMBEDDING else 1]
    assert isinstance(found, fx.Node)
    return found


def layer_name(node: fx.Node) -> str:
    """Give the PyTorch module path of a layer's node, e.g. ``layers.0.ffn_in``.

    A module with several weights, as a recurrent one, adds the weight's own name: ``gru.weight_hh_l0``.
    """
    owner, _, weight = str(_weight_node(node).target).rpartition(".")
    return (owner if weight == "weight" else f"{owner}.{weight}".strip(".")).removeprefix(_WRAPPER)


def runs_once(graph: Graph, node: fx.Node) -> bool:
    """Tell whether no other call reads a layer's weight, so that a technique may change it for this one."""
    weight = _weight_node(node).target
    readers = [
        user for held in graph.graph.nodes if held.op == "get_attr" and held.target == weight for user in held.users
    ]
    return len(readers) == 1


def kernel_kind(node: fx.Node, weight: Tensor) -> Literal["linear", "conv", "depthwise"]:
    """Tell which kernel sums a layer: ``depthwise`` has as many groups as input and as output channels."""
    if node.target is not _CONV:
        return "linear"
    groups = node.args[6] if len(node.args) > 6 else 1
    return "depthwise" if groups == len(weight) > 1 and weight.shape[1] == 1 else "conv"


def kernel_kinds(graph: Graph) -> dict[str, Literal["linear", "conv", "depthwise"]]:
    """Give the kernel of each linear and convolution layer by name."""
    found = {}
    for name, kind, node in layers(graph):
        weight = parameter(graph, node.args[1])
        if kind != "embedding" and weight is not None:
            found[name] = kernel_kind(node, weight)
    return found


def after_activation(node: fx.Node) -> fx.Node:
    """Give the node where a layer's output grid lies: behind a ReLU or ReLU6 that both engines fuse into it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in _FUSED else node


def parameter(graph: Graph, argument: Any) -> Tensor | None:  # noqa: ANN401 - an fx argument
    """Give the tensor behind a constant argument, or None if there is none."""
    if not (isinstance(argument, fx.Node) and argument.op == "get_attr"):
        return None
    owner, _, name = str(argument.target).rpartition(".")
    value = getattr(graph.get_submodule(owner), name)
    assert isinstance(value, Tensor)
    return value.detach()


def set_tensor(graph: Graph, argument: Any, value: Tensor) -> None:  # noqa: ANN401 - an fx argument
    """Replace the tensor behind a constant argument."""
    assert isinstance(argument, fx.Node)
    owner, _, name = str(argument.target).rpartition(".")
    setattr(graph.get_submodule(owner), name, nn.Parameter(value.contiguous(), requires_grad=False))


def add_tensor(graph: Graph, path: str, value: Tensor) -> fx.Node:
    """Add a constant under a module path of its own; insert at the graph's current insertion point."""
    owner, _, name = path.rpartition(".")
    if owner and owner not in dict(graph.named_modules()):
        graph.add_submodule(owner, nn.Module())
    graph.get_submodule(owner).register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))
    return graph.graph.get_attr(path)


def layer_weights(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Give the float weights by layer, channels in dimension 0, in order of execution."""
    found = {}
    for name, kind, node in layers(graph):
        weight = parameter(graph, node.args[0 if kind == "embedding" else 1])
        assert weight is not None
        found[name] = weight.numpy()
    return found


def layer_biases(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Give the float biases by layer; layers without one are absent."""
    found = {}
    for name, kind, node in layers(graph):
        bias = parameter(graph, node.args[2]) if kind != "embedding" and len(node.args) > 2 else None
        if bias is not None:
            found[name] = bias.numpy()
    return found
