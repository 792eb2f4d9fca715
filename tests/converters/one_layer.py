"""Real files of one int8 layer each, ONNX and TFLite, and the engines that run them on given codes."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as tflite
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.quantize.integer_reference import Geometry, IntegerLayer, accumulate

CASES = ("linear", "conv", "strided", "grouped", "depthwise")
_SHAPES = {
    # weight, geometry, side of the image
    "linear": ((48, 96), Geometry(), 0),
    "conv": ((24, 12, 3, 3), Geometry(padding=(1, 1, 1, 1)), 12),
    "strided": ((24, 12, 3, 3), Geometry(stride=(2, 2), padding=(0, 0, 1, 1)), 16),
    "grouped": ((24, 8, 3, 3), Geometry(padding=(1, 1, 1, 1), groups=2), 12),
    "depthwise": ((32, 1, 3, 3), Geometry(padding=(1, 1, 1, 1), groups=32), 12),
}


def layer_of(case: str, *, relu: bool, seed: int) -> tuple[IntegerLayer, np.ndarray]:
    """Draw a layer whose outputs fill their range, and codes for it."""
    rng = np.random.default_rng([seed, relu, CASES.index(case)])
    shape, geometry, side = _SHAPES[case]
    codes = (rng.normal(size=shape) * 40).round().clip(-127, 127).astype(np.int8)
    inputs = (64 if case == "linear" else 4, shape[1] * geometry.groups, *((side, side) if side else ()))
    x = rng.integers(-128, 128, inputs).astype(np.int8)
    layer = IntegerLayer(
        weight=codes,
        weight_scales=np.exp(rng.normal(size=len(codes)) * 0.3 - 6).astype(np.float32),
        bias=rng.integers(-9000, 9000, len(codes)).astype(np.int32),
        input_scale=np.float32(rng.uniform(0.01, 0.1)),
        input_zero_point=int(rng.integers(-60, 60)),
        output_scale=np.float32(1),
        output_zero_point=-128 if relu else int(rng.integers(-40, 40)),
        relu=relu,
        geometry=geometry,
    )
    real = accumulate(x, layer) * (layer.input_scale * layer.weight_scales).reshape((-1,) + (1,) * (x.ndim - 2))
    return replace(layer, output_scale=np.float32(real.std() * (2.5 if relu else 5) / 255)), x


def onnx_file(layer: IntegerLayer, *, signed: bool = False) -> bytes:
    """Write float -> Q/DQ -> layer -> Q/DQ -> float; onnxruntime fuses it into one integer operator."""
    kind, shift = (np.int8, 0) if signed else (np.uint8, 128)
    values = {
        "xs": layer.input_scale,
        "xz": kind(layer.input_zero_point + shift),
        "ws": layer.weight_scales,
        "bs": layer.input_scale * layer.weight_scales,
        "b": layer.bias,
        "wz": np.zeros(layer.weight_scales.shape, np.int8),  # without zero points Gemm stays float, without a word
        "bz": np.zeros(layer.weight_scales.shape, np.int32),
        "ys": layer.output_scale,
        "yz": kind(layer.output_zero_point + shift),
    }
    linear = layer.weight.ndim == 2
    values["w"] = np.ascontiguousarray(layer.weight.T) if linear else layer.weight
    at = layer.geometry
    options = {} if linear else {"strides": at.stride, "pads": at.padding, "group": at.groups}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=int(linear)),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Gemm" if linear else "Conv", ["xd", "wd", "bd"], ["r" if layer.relu else "f"], **options),
        *([helper.make_node("Relu", ["r"], ["f"])] if layer.relu else []),
        helper.make_node("QuantizeLinear", ["f", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return onnx_model(nodes, TensorProto.FLOAT, {"y": TensorProto.FLOAT}, layer.weight.ndim, values)


def onnx_model(nodes, takes: int, gives: dict[str, int], rank: int, values) -> bytes:
    free = [None] * rank
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in gives.items()]
    graph = helper.make_graph(nodes, "one", [helper.make_tensor_value_info("x", takes, free)], outputs, constants)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()


def onnx_session(
    model: bytes, *, optimised: bool, signed: bool = False, exact: bool = True, written: str = ""
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if exact and not signed:  # without VNNI, 16-bit sums would saturate; int8 activations take kernels that do not
        options.add_session_config_entry("session.x64quantprecision", "1")
    if signed:  # else the session makes unsigned activations of them
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if written:
        options.optimized_model_filepath = written
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(
    layer: IntegerLayer, x: np.ndarray, *, optimised: bool, signed: bool = False, exact: bool = True
) -> np.ndarray:
    session = onnx_session(onnx_file(layer, signed=signed), optimised=optimised, signed=signed, exact=exact)
    values = (x.astype(np.float32) - layer.input_zero_point) * layer.input_scale
    out = session.run(None, {"x": values})[0]
    return (np.rint(out / layer.output_scale) + layer.output_zero_point).astype(np.int8)


def fused_operators(layer: IntegerLayer, folder, *, signed: bool = False) -> set[str]:
    path = folder / "fused.onnx"
    onnx_session(onnx_file(layer, signed=signed), optimised=True, signed=signed, written=str(path))
    return {node.op_type for node in onnx.load(path).graph.node}


def _tensor(
    model, graph, name: str, shape, kind: int, *, data=None, scales, zero_point: int = 0, axis: int = 0
) -> None:
    tensor = tflite.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
    if data is not None:
        buffer = tflite.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    steps = np.atleast_1d(np.asarray(scales, np.float32))
    tensor.quantization = tflite.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = steps, [zero_point] * len(steps)
    tensor.quantization.quantizedDimension = axis
    graph.tensors.append(tensor)


def _operator(layer: IntegerLayer, case: str) -> tuple[int, int, object, np.ndarray, int]:
    """Give operator, kind of its options, options, weights in TFLite's order, and their channel dimension."""
    active = tflite.ActivationFunctionType.RELU if layer.relu else tflite.ActivationFunctionType.NONE
    code, union = tflite.BuiltinOperator, tflite.BuiltinOptions
    if case == "linear":
        options = tflite.FullyConnectedOptionsT()
        options.fusedActivationFunction = active
        return code.FULLY_CONNECTED, union.FullyConnectedOptions, options, layer.weight, 0
    options = tflite.DepthwiseConv2DOptionsT() if case == "depthwise" else tflite.Conv2DOptionsT()
    options.padding, options.fusedActivationFunction = tflite.Padding.SAME, active
    options.strideH, options.strideW = layer.geometry.stride
    options.dilationHFactor = options.dilationWFactor = 1
    if case == "depthwise":
        options.depthMultiplier = 1
        held = layer.weight.transpose(1, 2, 3, 0)
        return code.DEPTHWISE_CONV_2D, union.DepthwiseConv2DOptions, options, held, 3
    return code.CONV_2D, union.Conv2DOptions, options, layer.weight.transpose(0, 2, 3, 1), 0


def tflite_file(layer: IntegerLayer, case: str, inputs, outputs) -> bytes:
    """Write int8 -> layer -> int8, channels last."""
    import flatbuffers

    model, graph = tflite.ModelT(), tflite.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [tflite.BufferT()], []
    code, union, options, weight, axis = _operator(layer, case)
    int8, int32 = tflite.TensorType.INT8, tflite.TensorType.INT32
    _tensor(model, graph, "x", inputs, int8, scales=layer.input_scale, zero_point=layer.input_zero_point)
    _tensor(model, graph, "w", weight.shape, int8, data=weight, scales=layer.weight_scales, axis=axis)
    steps = layer.input_scale * layer.weight_scales
    _tensor(model, graph, "b", layer.bias.shape, int32, data=layer.bias, scales=steps)
    _tensor(model, graph, "y", outputs, int8, scales=layer.output_scale, zero_point=layer.output_zero_point)
    operator, kind = tflite.OperatorT(), tflite.OperatorCodeT()
    kind.builtinCode = kind.deprecatedBuiltinCode = code
    kind.version = 5 if case == "linear" else 3
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType, operator.builtinOptions = union, options
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    model.subgraphs, model.operatorCodes = [graph], [kind]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def run_tflite(layer: IntegerLayer, case: str, x: np.ndarray, resolver: str) -> np.ndarray:
    image = x.ndim == 4
    held = x.transpose(0, 2, 3, 1) if image else x
    shape = accumulate(x, layer).shape
    outputs = (shape[0], *shape[2:], shape[1]) if image else shape
    model = tflite_file(layer, case, held.shape, outputs)
    interpreter = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=RESOLVERS[resolver])
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(held))
    interpreter.invoke()
    out = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return out.transpose(0, 3, 1, 2) if image else out
