"""Every ONNX operator that is known computes what ONNX Runtime computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.ready.onnx_ops import OPERATORS, NotInTorch
from edgekit_converters.ready.onnx_torch import OnnxModule, unknown_operators

X, IMAGE = (2, 3, 4), (1, 4, 6, 5)
RNG = np.random.default_rng(0)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


A = np.float32


def _positive(x):
    return x > 0


class Case:
    """One node: shapes of its inputs, constants behind them, attributes, outputs, and a map into its domain."""

    def __init__(self, kind, *inputs, constants=(), outputs=1, domain=None, opset=18, **attributes):
        self.kind, self.inputs, self.constants, self.outputs = kind, inputs, constants, outputs
        self.domain, self.opset, self.attributes = domain or (lambda x: x), opset, attributes


POSITIVE = np.abs
CASES = [
    *(Case(kind, X) for kind in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Mish", "Neg", "Abs")),
    *(Case(kind, X) for kind in ("Exp", "Erf", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Identity", "Dropout")),
    *(Case(kind, X, domain=POSITIVE) for kind in ("Sqrt", "Log", "Reciprocal")),
    *(Case(kind, X, X) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less", "Equal")),
    *(Case(kind, X, X) for kind in ("GreaterOrEqual", "LessOrEqual")),
    *(Case(kind, X, X, X) for kind in ("Sum", "Max")),
    *(Case(kind, X, X, domain=_positive) for kind in ("And", "Or")),
    Case("Not", X, domain=_positive),
    *(Case(kind, X, constants=(A(0.7),)) for kind in ("Add", "Sub", "Mul", "Div")),
    Case("Pow", X, constants=(A(2.0),)),
    Case("Pow", X, X, domain=POSITIVE),
    Case("Div", X, X, domain=lambda x: (x * 20).astype(np.int64) | 1),
    Case("LeakyRelu", X, alpha=0.2),
    Case("Elu", X, alpha=0.5),
    Case("PRelu", IMAGE, constants=(weights(4, 1, 1),)),
    Case("Gelu", X, opset=20),
    Case("Gelu", X, opset=20, approximate="tanh"),
    Case("HardSigmoid", X),
    Case("HardSigmoid", X, alpha=1 / 6, beta=0.5),
    Case("Clip", X, constants=(A(0), A(6))),
    Case("Clip", X, constants=(A(0),)),
    Case("Clip", X, constants=(A(-0.3), A(0.2))),
    *(Case(kind, X, axis=1) for kind in ("Softmax", "LogSoftmax")),
    Case("Where", X, X, X, domain=None),
    Case("Cast", X, to=TensorProto.INT32),
    Case("Conv", IMAGE, constants=(weights(8, 2, 3, 3), weights(8)), group=2, strides=[2, 1], pads=[1, 1, 1, 1]),
    Case("Conv", IMAGE, constants=(weights(8, 4, 3, 2),), pads=[0, 1, 2, 0], dilations=[1, 2]),
    Case("Conv", (1, 4, 9), constants=(weights(8, 4, 3),), pads=[1, 1]),
    Case("ConvTranspose", IMAGE, constants=(weights(4, 3, 3, 3), weights(3)), strides=[2, 2], pads=[1, 1, 1, 1]),
    Case("Gemm", (2, 5), constants=(weights(5, 3), weights(3))),
    Case("Gemm", (5, 2), constants=(weights(3, 5), weights(1, 3)), transA=1, transB=1, alpha=0.5, beta=2.0),
    Case("Gemm", (2, 5), constants=(weights(5, 3),)),
    Case("MatMul", X, constants=(weights(4, 5),)),
    Case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
    Case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    Case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1),
    *(Case(kind, IMAGE) for kind in ("GlobalAveragePool", "GlobalMaxPool")),
    Case("BatchNormalization", IMAGE, constants=(weights(4), weights(4), weights(4), weights(4) ** 2 + 0.1)),
    Case("LayerNormalization", X, constants=(weights(4), weights(4)), epsilon=1e-3),
    Case("LayerNormalization", X, constants=(weights(3, 4),), axis=1),
    Case("InstanceNormalization", IMAGE, constants=(weights(4), weights(4))),
    *(Case(kind, X, axes=[-1], opset=13) for kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")),
    Case("ReduceMean", X, constants=(ints(0, 2),), keepdims=0),
    Case("ReduceMean", X),
    Case("ReduceSum", X, constants=(ints(1),)),
    Case("Reshape", X, constants=(ints(0, -1),)),
    Case("Flatten", IMAGE, axis=2),
    Case("Transpose", X, perm=[2, 0, 1]),
    Case("Transpose", X),
    Case("Squeeze", (1, 3, 1), constants=(ints(-1),)),
    Case("Squeeze", (1, 3, 1)),
    Case("Unsqueeze", X, constants=(ints(-1, 0),)),
    Case("Concat", X, X, axis=-1),
    Case("Split", X, constants=(ints(1, 3),), outputs=2, axis=2),
    Case("Split", X, outputs=2, axis=2, num_outputs=2),
    Case("Slice", X, constants=(ints(1), ints(2**62), ints(-1), ints(2))),
    Case("Slice", X, constants=(ints(-1, 0), ints(-(2**62), 1), ints(1, 0), ints(-1, 1))),
    Case("Gather", X, constants=(ints(1, 0),), axis=1),
    Case("Gather", X, constants=(np.array(-1),), axis=1),
    Case("Expand", (1, 3, 1), constants=(ints(2, 1, 4),)),
    Case("Tile", X, constants=(ints(1, 2, 1),)),
    Case("Pad", X, constants=(ints(0, 1, 2, 0, 0, 1), A(0.5))),
    Case("Pad", IMAGE, constants=(ints(0, 0, 1, 2, 0, 0, 1, 0),), mode="reflect"),
    Case("Pad", IMAGE, constants=(ints(0, 0, 1, 2, 0, 0, 1, 0),), mode="edge"),
    Case(
        "Resize",
        IMAGE,
        constants=(weights(0), np.array([1, 1, 2, 2], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    Case("Resize", IMAGE, constants=(weights(0), weights(0), ints(1, 4, 9, 10)), mode="linear"),
    Case("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
]


def build(case: Case) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    values = [case.domain(weights(*shape)) for shape in case.inputs]
    if case.kind == "Where":
        values[0] = values[0] > 0
    names = [f"x{i}" for i in range(len(values))]
    held = [numpy_helper.from_array(np.asarray(value), f"c{i}") for i, value in enumerate(case.constants)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.kind, [*names, *(row.name for row in held)], outputs, **case.attributes)
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in values]
    inputs = [helper.make_tensor_value_info(n, k, v.shape) for n, k, v in zip(names, kinds, values, strict=True)]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=9), values


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_an_operator_computes_what_onnx_runtime_computes(case):
    model, values = build(case)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = session.run(None, dict(zip([row.name for row in session.get_inputs()], values, strict=True)))
    with torch.no_grad():
        given = OnnxModule(model)(*(torch.from_numpy(value) for value in values))
    assert len(given) == len(wanted)
    for left, right in zip(wanted, given, strict=True):
        assert left.shape == tuple(right.shape)
        assert left.dtype == right.numpy().dtype
        np.testing.assert_allclose(right.numpy(), left, rtol=1e-5, atol=2e-6)


def test_every_known_operator_has_a_case():
    assert {case.kind for case in CASES} == set(OPERATORS)


def test_an_embedding_is_a_lookup_in_its_table():
    table = weights(5, 3)
    node = helper.make_node("Gather", ["t", "ids"], ["y"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, (1, 2))
    graph = helper.make_graph(
        [node], "one", [ids], [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(table, "t")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (found,) = OnnxModule(model)(torch.tensor([[4, 0]]))
    assert np.array_equal(found.detach().numpy(), table[[[4, 0]]])


@pytest.mark.parametrize(
    "case",
    [
        Case("Resize", IMAGE, constants=(weights(0), weights(0), ints(1, 4, 9, 10)), mode="cubic"),
        Case("DepthToSpace", IMAGE, blocksize=2),
        Case("Conv", IMAGE, constants=(weights(8, 4, 3, 3),), auto_pad="SAME_UPPER"),
        Case("Conv", (1, 4, 5, 5, 5), constants=(weights(8, 4, 3, 3, 3),)),
        Case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
    ],
    ids=lambda case: case.kind,
)
def test_a_form_that_would_compute_something_else_is_refused(case):
    model, values = build(case)
    with pytest.raises(NotInTorch), torch.no_grad():
        OnnxModule(model)(*(torch.from_numpy(value) for value in values))


def test_unknown_operators_are_named_with_their_domain():
    nodes = [
        helper.make_node("LSTM", ["x"], ["y"]),
        helper.make_node("Attention", ["y"], ["z"], domain="com.microsoft"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "two", [], []))
    assert unknown_operators(model) == ["LSTM", "com.microsoft.Attention"]
