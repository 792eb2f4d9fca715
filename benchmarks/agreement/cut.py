"""Cuts one int8 layer out of a whole file, so that each engine can compute it alone on given codes."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.plan import Grid
from edgekit_converters.quantize.tflite_graph import TfliteGraph, TfliteLayer
from edgekit_runtime.engines.onnxruntime import adds_in_16_bits

__all__ = ["OnnxCut", "TfliteCut", "cut_onnx", "cut_tflite"]

Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxCut:
    """A layer between two tensors of an ONNX file.

    Attributes:
        model: From codes to codes, or to float32 where the file leaves the layer's output float.
        unsigned: Codes are uint8; 128 is added to what the plan says.
        gives_codes: The output is quantised in the file.
        relu: A ReLU or ReLU6 belongs to the layer.
    """

    model: bytes
    unsigned: bool
    gives_codes: bool
    relu: bool

    def run(self, codes: Codes, grid: Grid) -> Codes:
        """Compute with ONNX Runtime's optimised kernels.

        Args:
            codes: Int8 input codes.
            grid: Of the output; float outputs are quantised with it here.
        """
        session = self._session()
        given = (codes.astype(np.int16) + 128).astype(np.uint8) if self.unsigned else codes
        out = session.run(None, {session.get_inputs()[0].name: given})[0]
        if self.gives_codes:
            return (out.astype(np.int16) - (128 if self.unsigned else 0)).astype(np.int8)  # type: ignore[no-any-return]
        steps = np.rint(out / np.float32(grid.scale)) + grid.zero_point
        return steps.clip(-128, 127).astype(np.int8)  # type: ignore[no-any-return]

    def kernels(self) -> str:
        """Name the operators that ONNX Runtime makes of the layer: proof that it computes in integers."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            self._session(optimised=path)
            return ", ".join(node.op_type for node in onnx.load(path).graph.node)

    def _session(self, *, optimised: Path | None = None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        if adds_in_16_bits():
            options.add_session_config_entry("session.x64quantprecision", "1")
        return onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])


def cut_onnx(model: onnx.ModelProto, node: onnx.NodeProto) -> OnnxCut:
    """Cut from the codes that a layer reads to the codes behind its bias and ReLU, or to float where there are none.

    Args:
        model: The whole file.
        node: A ``MatMul``, ``Gemm`` or ``Conv`` behind DequantizeLinear.
    """
    makers = {name: each for each in model.graph.node for name in each.output}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    start = makers[node.input[0]]
    assert start.op_type == "DequantizeLinear"
    end = str(node.output[0])
    if node.op_type == "MatMul":
        end = _only(model, end, ("Add",), constant=held) or end
    active = _only(model, end, ("Relu", "Clip"), constant=None)
    end = active or end
    quantised = next(
        (each for each in model.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == end), None
    )
    end = end if quantised is None else str(quantised.output[0])
    nodes: list[onnx.NodeProto] = []
    _collect(makers, end, str(start.input[0]), nodes)
    used = {name for each in nodes for name in each.input}
    zero = numpy_helper.to_array(held[start.input[2]])
    kind = TensorProto.UINT8 if zero.dtype == np.uint8 else TensorProto.INT8
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(start.input[0], kind, None)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT if quantised is None else kind, None)],
        [held[name] for name in held if name in used],
    )
    cut = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return OnnxCut(
        model=cut.SerializeToString(),
        unsigned=kind == TensorProto.UINT8,
        gives_codes=quantised is not None,
        relu=active is not None,
    )


def _only(
    model: onnx.ModelProto, tensor: str, kinds: tuple[str, ...], *, constant: Mapping[str, object] | None
) -> str | None:
    """Give the output of the only reader of a tensor if it is of a kind, and, if asked, adds a constant."""
    readers = [each for each in model.graph.node if tensor in each.input]
    if len(readers) != 1 or readers[0].op_type not in kinds:
        return None
    if constant is not None and not any(name in constant for name in readers[0].input):
        return None
    return str(readers[0].output[0])


def _collect(makers: Mapping[str, onnx.NodeProto], tensor: str, start: str, found: list[onnx.NodeProto]) -> None:
    """List the nodes between two tensors in order of execution."""
    node = makers.get(tensor)
    if tensor == start or node is None or node in found:
        return
    for name in node.input:
        _collect(makers, name, start, found)
    found.append(node)


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteCut:
    """One operator of a TFLite file, int8 to int8.

    Attributes:
        model: The file.
        shape: Of its input.
    """

    model: bytes
    shape: tuple[int, ...]

    def run(self, codes: Codes, *, zero_point: int) -> Codes:
        """Compute with XNNPACK.

        Args:
            codes: Int8, (N, ..., inputs) of a linear layer, or (N, C, H, W); N rows, one after another.
            zero_point: Of the input; fills what the file pads with an operator of its own.
        """
        interpreter = Interpreter(model_content=self.model, num_threads=1)
        interpreter.allocate_tensors()
        given, gives = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        image = codes.ndim == 4
        rows = []
        for row in codes:
            interpreter.set_tensor(given["index"], self._as_taken(row, image=image, zero_point=zero_point))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(gives["index"]))
        if image:
            return np.concatenate(rows).transpose(0, 3, 1, 2)
        return np.stack([row.reshape(*codes.shape[1:-1], -1) for row in rows])

    def kernels(self) -> str:
        """Name what computes the layer: ``DELEGATE`` is XNNPACK."""
        interpreter = Interpreter(model_content=self.model, num_threads=1)
        interpreter.allocate_tensors()
        return ", ".join(sorted({str(row["op_name"]) for row in interpreter._get_ops_details()}))  # noqa: SLF001

    def _as_taken(self, row: Codes, *, image: bool, zero_point: int) -> Codes:
        if not image:
            return row.reshape(self.shape)
        held = row.transpose(1, 2, 0)[None]
        sides = [(wanted - size) // 2 for wanted, size in zip(self.shape, held.shape, strict=True)]
        return np.pad(held, [(side, side) for side in sides], constant_values=zero_point)


def cut_tflite(path: Path, layer: TfliteLayer) -> TfliteCut:
    """Cut one operator out of a file."""
    whole = TfliteGraph(path)
    content = path.read_bytes()
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph: Any = model.subgraphs[0]
    operator = next(each for each in graph.operators if int(each.outputs[0]) == layer.output)
    inputs = [int(index) for index in operator.inputs]
    order = [*(index for index in inputs if index >= 0), layer.output]
    buffers = [schema.BufferT()]
    for index in order:
        tensor = graph.tensors[index]
        if index in inputs[1:]:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(whole.constant(index)).tobytes(), np.uint8)
            tensor.buffer = len(buffers)
            buffers.append(buffer)
        else:
            tensor.buffer = 0
    shape = tuple(int(size) for size in graph.tensors[layer.input].shape)
    graph.tensors = [graph.tensors[index] for index in order]
    operator.inputs = [order.index(index) if index >= 0 else -1 for index in inputs]
    operator.outputs = [len(order) - 1]
    operator.opcodeIndex, model.operatorCodes = 0, [model.operatorCodes[operator.opcodeIndex]]
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [len(order) - 1]
    model.subgraphs, model.buffers = [graph], buffers
    model.signatureDefs, model.metadata, model.metadataBuffer = None, None, None
    return TfliteCut(model=_packed(model), shape=shape)


def _packed(model: Any) -> bytes:  # noqa: ANN401 - a generated class
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
