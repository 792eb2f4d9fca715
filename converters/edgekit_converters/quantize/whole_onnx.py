"""Writes ONNX in which every operator stands between Q/DQ pairs, straight from the traced graph.

Writing operator by operator keeps layer norm, softmax and GELU whole; an exporter and its optimiser decompose or fuse
some of them, and each part would then need a grid that the plan has not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.quantize.whole_graph import VIEWS
from edgekit_converters.quantize.whole_plan import TensorGrid, WholePlan
from edgekit_converters.quantize.whole_simulate import grid_at, linear_codes
from edgekit_runtime.errors import ConversionError

__all__ = ["float_operators", "write_whole_onnx"]

_ATEN = torch.ops.aten
_OPSET, _IR = 21, 10  # opset 21 brought 16-bit Q/DQ
_CODES = {8: np.int8, 16: np.int16}
_SIMPLE: Mapping[Any, str] = {
    _ATEN.add.Tensor: "Add",
    _ATEN.div.Tensor: "Div",
    _ATEN.matmul.default: "MatMul",
    _ATEN.mul.Tensor: "Mul",
    _ATEN.relu.default: "Relu",
    _ATEN.tanh.default: "Tanh",
}


def write_whole_onnx(graph: Graph, plan: WholePlan, contract: ModelContract, target: Path) -> None:
    """Write the model.

    Args:
        graph: That the plan was made for.
        plan: Grids.
        contract: Names and shapes of inputs and outputs; batch 1.
        target: Of the file.

    Raises:
        ConversionError: The graph has an operator that this writer does not know (E0775), or a tensor without a grid
            (E0774).
    """
    shapes = _Shapes(graph)
    with torch.no_grad():
        shapes.run(*contract.example())
    writer = _Writer(graph, plan, shapes.values)
    for node in graph.graph.nodes:
        if node.op == "call_function" and isinstance(shapes.values.get(node.name), Tensor):
            writer.operator(node)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    for spec, node in zip(contract.outputs, output.args[0], strict=True):
        writer.result(node, spec.name)
    model = writer.model(contract)
    onnx.checker.check_model(model, full_check=True)
    target.write_bytes(model.SerializeToString(deterministic=True))


class _Shapes(fx.Interpreter):
    """Remembers what each node gives for one example."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
        value = self.values[n.name] = super().run_node(n)
        return value


class _Writer:
    """Holds the nodes and constants of the file while operators are added to it in order."""

    def __init__(self, graph: Graph, plan: WholePlan, values: Mapping[str, Any]) -> None:
        self.graph, self.plan, self.values = graph, plan, values
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._read: dict[str, str] = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX's own
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def _grid(self, name: str, grid: TensorGrid) -> list[str]:
        scale = self.constant(f"{name}.scale", np.float32(grid.scale))
        return [scale, self.constant(f"{name}.zero_point", np.array(grid.zero_point, _CODES[grid.bits]))]

    def read(self, value: fx.Node | float) -> str:
        """Give the float name under which an operator reads a tensor: behind its DequantizeLinear."""
        if not isinstance(value, fx.Node):
            number = float(value)  # a number of its own: code 1 or -1, so that it is exact
            grid = TensorGrid(scale=float(np.float32(abs(number) or 1.0)), zero_point=0)
            name = f"number.{number!r}"
            code = self.constant(f"{name}.codes", np.int8(np.sign(number)))
        elif self._is_constant(value):
            name, grid = value.name, grid_at(self.plan, value)
            held = self.values[value.name].numpy()
            low, high = grid.codes
            rounded = np.clip(np.rint(held / np.float32(grid.scale)), low, high).astype(_CODES[grid.bits])
            code = self.constant(f"{name}.codes", rounded)
        else:
            name, grid = value.name, grid_at(self.plan, value)
            code = f"{name}.q"
        if name not in self._read:
            self._read[name] = self.add("DequantizeLinear", [code, *self._grid(name, grid)], f"{name}.dq")
        return self._read[name]

    def result(self, node: fx.Node, name: str) -> None:
        """Let a tensor leave the model as float."""
        self.add("DequantizeLinear", [f"{node.name}.q", *self._grid(node.name, grid_at(self.plan, node))], name)

    def _is_constant(self, node: fx.Node) -> bool:
        if node.op != "call_function":
            return node.op == "get_attr"
        sources = [one for one in node.all_input_nodes if isinstance(self.values.get(one.name), Tensor)]
        return all(self._is_constant(one) for one in sources)

    def operator(self, node: fx.Node) -> None:
        """Add one operator and put what it gives on its grid."""
        if self._is_constant(node):
            return
        if not self.values[node.name].is_floating_point():
            self._view(node, str(node.args[0]), node.name)
            return
        self._emit(node, f"{node.name}.float")
        grid = grid_at(self.plan, node)
        self.add("QuantizeLinear", [f"{node.name}.float", *self._grid(node.name, grid)], f"{node.name}.q")

    def _emit(self, node: fx.Node, output: str) -> None:
        if node.target in _SIMPLE:
            self.add(_SIMPLE[node.target], [self.read(side) for side in node.args[:2]], output)  # type: ignore[arg-type]
            return
        special = _SPECIAL.get(node.target)
        if special is None:
            raise ConversionError(
                "E0775",
                f"no integer form of {node.target} is known",
                why="every operator must be written with integers on both sides",
                fix="set quantize.whole_network: off",
            )
        special(self, node, output)

    def _view(self, node: fx.Node, source: str, output: str) -> None:
        if node.target is _ATEN.transpose.int:
            order = list(range(self.values[node.name].dim()))
            first, second = (int(side) for side in node.args[1:3])  # type: ignore[arg-type]
            order[first], order[second] = order[second], order[first]
            self.add("Transpose", [source], output, perm=order)
        elif node.target is _ATEN.select.int:
            place = self.constant(f"{node.name}.place", np.int64(node.args[2]))  # type: ignore[arg-type]
            self.add("Gather", [source, place], output, axis=node.args[1])
        else:
            shape = np.array(self.values[node.name].shape, np.int64)
            self.add("Reshape", [source, self.constant(f"{node.name}.shape", shape)], output)

    def move(self, node: fx.Node, output: str) -> None:
        self._view(node, self.read(node.args[0]), output)  # type: ignore[arg-type]

    def cast(self, node: fx.Node, output: str) -> None:
        self.add("Cast", [str(node.args[0])], output, to=TensorProto.FLOAT)

    def lookup(self, node: fx.Node, output: str) -> None:
        self.add("Gather", [self.read(node.args[0]), str(node.args[1])], output, axis=0)  # type: ignore[arg-type]

    def subtract_from(self, node: fx.Node, output: str) -> None:
        self.add("Sub", [self.read(node.args[1]), self.read(node.args[0])], output)  # type: ignore[arg-type]

    def norm(self, node: fx.Node, output: str) -> None:
        beta = parameter(self.graph, node.args[3])
        assert beta is not None
        shift = self._bias(f"{node.name}.beta", *_wide_codes(beta))
        inputs = [self.read(node.args[0]), self.read(node.args[2]), shift]  # type: ignore[arg-type]
        self.add("LayerNormalization", inputs, output, axis=-1, epsilon=float(node.args[4]))  # type: ignore[arg-type]

    def softmax(self, node: fx.Node, output: str) -> None:
        self.add("Softmax", [self.read(node.args[0])], output, axis=node.args[1])  # type: ignore[arg-type]

    def gelu(self, node: fx.Node, output: str) -> None:
        approximate = node.kwargs.get("approximate", "none")
        self.add("Gelu", [self.read(node.args[0])], output, approximate=approximate)  # type: ignore[arg-type]

    def total(self, node: fx.Node, output: str) -> None:
        axes = self.constant(f"{node.name}.axes", np.array(node.args[1], np.int64))
        keep = int(bool(node.args[2])) if len(node.args) > 2 else 0
        self.add("ReduceSum", [self.read(node.args[0]), axes], output, keepdims=keep)  # type: ignore[arg-type]

    def linear(self, node: fx.Node, output: str) -> None:
        """Write a Gemm, which holds its bias in the accumulator; it takes matrices: all tokens are rows."""
        codes, name = linear_codes(self.graph, self.plan, node), node.name
        source, grid = node.args[0], grid_at(self.plan, node)
        assert isinstance(source, fx.Node)
        flat = self._flat(source)
        held = self.constant(f"{name}.weight", codes.weight)
        steps = self.constant(f"{name}.weight.scale", codes.scales)
        zeros = self.constant(f"{name}.weight.zero_point", np.zeros(codes.scales.shape, np.int8))
        inputs = [flat, self.add("DequantizeLinear", [held, steps, zeros], f"{name}.weight.dq", axis=0)]
        if codes.bias is not None:
            inputs.append(self._bias(f"{name}.bias", codes.bias, codes.bias_scale))
        self.add("Gemm", inputs, f"{name}.flat", transB=1)
        points = self._grid(name, grid)
        self.add("QuantizeLinear", [f"{name}.flat", *points], f"{name}.flat.q")
        self.add("DequantizeLinear", [f"{name}.flat.q", *points], f"{name}.flat.dq")
        shape = np.array(self.values[name].shape, np.int64)
        self.add("Reshape", [f"{name}.flat.dq", self.constant(f"{name}.shape", shape)], output)

    def _flat(self, source: fx.Node) -> str:
        name = f"{source.name}.rows"
        if name not in self._read:
            points = self._grid(source.name, grid_at(self.plan, source))
            width = np.array([-1, self.values[source.name].shape[-1]], np.int64)
            moved = self.add("Reshape", [self.read(source), self.constant(f"{name}.shape", width)], f"{name}.float")
            code = self.add("QuantizeLinear", [moved, *points], f"{name}.q")
            self._read[name] = self.add("DequantizeLinear", [code, *points], f"{name}.dq")
        return self._read[name]

    def _bias(self, name: str, codes: NDArray[np.int32], scale: NDArray[np.float32] | np.float32) -> str:
        held, step = self.constant(f"{name}.codes", codes), self.constant(f"{name}.scale", scale)
        zero = self.constant(f"{name}.zero_point", np.zeros(np.shape(scale), np.int32))
        return self.add("DequantizeLinear", [held, step, zero], f"{name}.dq", axis=0)

    def model(self, contract: ModelContract) -> onnx.ModelProto:
        kinds = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
        inputs, outputs = (
            [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], spec.shape) for spec in side]
            for side in (contract.inputs, contract.outputs)
        )
        graph = helper.make_graph(self._nodes, "edgekit", inputs, outputs, list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


_SPECIAL: Mapping[Any, Callable[[_Writer, fx.Node, str], None]] = {
    _ATEN.embedding.default: _Writer.lookup,
    _ATEN.gelu.default: _Writer.gelu,
    _ATEN.layer_norm.default: _Writer.norm,
    _ATEN.linear.default: _Writer.linear,
    _ATEN.rsub.Scalar: _Writer.subtract_from,
    _ATEN.softmax.int: _Writer.softmax,
    _ATEN.sum.dim_IntList: _Writer.total,
    _ATEN.to.dtype: _Writer.cast,
    **dict.fromkeys(VIEWS, _Writer.move),
}


def _wide_codes(value: Tensor) -> tuple[NDArray[np.int32], np.float32]:
    """Round a shift to 31 bits: it is added in the operator's own accumulator."""
    scale = np.float32(max(float(value.abs().max()), 1e-9) / 2**30)
    return np.rint(value.numpy().astype(np.float64) / scale).astype(np.int32), scale


def float_operators(path: Path) -> list[str]:
    """Give the names of operators in a file that read or give float which stands on no grid.

    Operators on integers, and the two ends of a Q/DQ pair, are none. The model's own outputs may be float.
    """
    model = onnx.load(path)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    leaves = {value.name for value in model.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    floats = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        given = [makers[name].op_type if name in makers else "" for name in node.input if name in floats]
        taken = [one.op_type for name in node.output if name in floats for one in readers.get(name, [])]
        loose = any(name in leaves for name in node.output)
        if loose or any(kind != "DequantizeLinear" for kind in given) or any(k != "QuantizeLinear" for k in taken):
            found.append(node.name)
    return found
