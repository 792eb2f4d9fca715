"""A small view of an ONNX graph for rewriting: who makes a tensor, who reads it, which weights it holds."""

import ast
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit_converters.export.onnx import SCOPES

__all__ = ["GraphEditor", "module_path"]


def module_path(node: onnx.NodeProto) -> str:
    """Give the PyTorch module that a node comes from, e.g. ``layers.0.ffn_out``; empty when the file does not say."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = [scope for scope in ast.literal_eval(entry.value) if scope]
            modules = scopes[:-1]  # the last scope is the operator itself
            return modules[-1].removeprefix("model.") if modules else ""
    return ""


class GraphEditor:
    """Adds nodes and weights to a graph and rewires inputs; ``finish`` puts the nodes in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self._weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self._new: list[onnx.NodeProto] = []

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes that were there from the start, in order."""
        return list(self.graph.node)

    def weight(self, name: str) -> NDArray[np.generic] | None:
        """Give a constant by name, or None if the tensor is computed."""
        tensor = self._weights.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Give the original nodes that read ``tensor``."""
        return [node for node in self.graph.node if tensor in node.input]

    def is_output(self, tensor: str) -> bool:
        """Tell whether ``tensor`` leaves the graph."""
        return any(value.name == tensor for value in self.graph.output)

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """Add a constant, or find it again under the same name."""
        if name not in self._weights:
            tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
            self.graph.initializer.append(tensor)
            self._weights[name] = tensor
        return name

    def add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int) -> None:
        """Add a node; its name is that of its first output."""
        self._new.append(helper.make_node(kind, list(inputs), list(outputs), name=f"{outputs[0]}.node", **attributes))

    def fold_transposes(self) -> None:
        """Hold transposed weights as constants; an exporter leaves the transpose of one that many nodes read."""
        for node in self.nodes:
            value = self.weight(node.input[0]) if node.op_type == "Transpose" else None
            if value is not None:
                order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
                self.constant(str(node.output[0]), np.transpose(value, order))
                self.graph.node.remove(node)

    def replace(self, node: onnx.NodeProto) -> None:
        """Take an original node out; the caller has added what makes its outputs."""
        self.graph.node.remove(node)

    def finish(self) -> onnx.ModelProto:
        """Sort the nodes, drop unused weights, and check the model.

        Raises:
            onnx.checker.ValidationError: The rewritten graph is not valid ONNX.
        """
        waiting = [*self.graph.node, *self._new]
        ready = {"", *self._weights, *(value.name for value in self.graph.input)}
        ordered: list[onnx.NodeProto] = []
        while waiting:
            later = []
            for node in waiting:
                if all(name in ready for name in node.input):
                    ordered.append(node)
                    ready.update(node.output)
                else:
                    later.append(node)
            assert len(later) < len(waiting), "the rewritten graph has a cycle"
            waiting = later
        del self.graph.node[:]
        self.graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input} | {value.name for value in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]
        onnx.checker.check_model(self.model, full_check=True)
        return self.model
