"""The integer reference against formulas done by hand, and against the real engines on the same codes."""

import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import one_layer
import onnx
import pytest
from one_layer import CASES, layer_of, onnx_model, onnx_session, run_onnx, run_tflite
from onnx import TensorProto, helper

from edgekit_converters.quantize.integer_reference import (
    Geometry,
    IntegerLayer,
    accumulate,
    dynamic_quantize,
    fixed_point,
    matmul_to_float,
    requantize_fixed,
    requantize_float,
    run,
)
from edgekit_runtime.errors import UsageError

# Which rounding each engine uses, found by trial on x86; the tests show that it is this one and no other.
EXACT = {
    ("ort", None): "float",
    ("ort int8", None): "float",
    ("xnnpack", None): "float",
    ("builtin", None): "fixed_twice_up",
    ("builtin", "grouped"): "fixed_twice",
    ("reference", None): "fixed_twice",
    ("reference", "linear"): "fixed_once",
}
ENGINES = ("ort", "ort int8", "xnnpack", "builtin", "reference")
ROUNDINGS = ("float", "fixed_once", "fixed_twice", "fixed_twice_up")


def rounding_of(engine: str, case: str):
    return EXACT.get((engine, case), EXACT[engine, None])


def engine_codes(engine: str, layer, case: str, x):
    if engine.startswith("ort"):
        return run_onnx(layer, x, optimised=engine != "ort off", signed=engine == "ort int8")
    return run_tflite(layer, case, x, engine)


def compare(engine: str, case: str, rounding: str, *, relu: bool, seeds: range) -> tuple[int, int, int]:
    """Give the number of codes, of unequal ones, and the largest difference."""
    total = unequal = largest = 0
    for seed in seeds:
        layer, x = layer_of(case, relu=relu, seed=seed)
        apart = np.abs(engine_codes(engine, layer, case, x).astype(int) - run(x, layer, rounding))
        total, unequal, largest = total + apart.size, unequal + int((apart > 0).sum()), max(largest, int(apart.max()))
    return total, unequal, largest


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_reference_gives_the_codes_of_the_engine(engine, case, relu):
    total, unequal, _ = compare(engine, case, rounding_of(engine, case), relu=relu, seeds=range(2))
    assert total > 5000
    assert unequal == 0


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_in_float_is_within_a_step_of_the_reference(case, relu):
    total, unequal, largest = compare("ort off", case, "float", relu=relu, seeds=range(2))
    assert largest <= 1
    assert unequal <= max(1, total // 10_000)  # >= 99.99 %, or one code of a small sample


@pytest.mark.slow
def test_the_table_of_the_document():
    for case in CASES:
        for relu in (False, True):
            for engine in (*ENGINES, "ort off"):
                rounding = "float" if engine == "ort off" else rounding_of(engine, case)
                seeds = range(40)
                total, unequal, largest = compare(engine, case, rounding, relu=relu, seeds=seeds)
                name = f"{case}{' + ReLU' if relu else ''}"
                sys.stdout.write(f"| {name} | {engine} | {rounding} | {total} | {unequal} | {largest} |\n")
                assert total >= 100_000
                assert unequal == 0 or (engine == "ort off" and largest <= 1 and unequal <= total // 10_000)


def test_each_rounding_is_told_from_the_others_by_some_engine():
    for engine, case in (("xnnpack", "depthwise"), ("builtin", "depthwise"), ("reference", "depthwise")):
        wrong = set(ROUNDINGS) - {rounding_of(engine, case)}
        for rounding in wrong:
            total, unequal, largest = compare(engine, case, rounding, relu=False, seeds=range(3))
            if {rounding, rounding_of(engine, case)} == {"float", "fixed_once"}:
                continue  # they part only where float32 cannot hold the product
            assert largest == 1, (engine, rounding)
            assert total // 1000 < unequal < total // 100, (engine, rounding)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("signed", [False, True])
def test_onnxruntime_really_computes_these_layers_in_integers(case, signed, tmp_path):
    layer, _ = layer_of(case, relu=True, seed=0)
    operators = one_layer.fused_operators(layer, tmp_path, signed=signed)
    assert ("QGemm" if case == "linear" else "QLinearConv") in operators
    assert not operators & {"Gemm", "Conv", "Relu"}


def test_a_relu_that_does_not_end_at_the_lowest_code_cuts_at_the_zero_point():
    layer, x = layer_of("conv", relu=False, seed=5)
    layer = replace(layer, relu=True, output_zero_point=-17)
    codes = run_tflite(layer, "conv", x, "xnnpack")
    assert codes.min() == -17
    np.testing.assert_array_equal(codes, run(x, layer, "float"))


# The sums


def brute_force(x, layer):
    """Convolve with six loops."""
    at, (out, per_group, height, width) = layer.geometry, layer.weight.shape
    top, left, bottom, right = at.padding
    rows = (x.shape[2] + top + bottom - height) // at.stride[0] + 1
    columns = (x.shape[3] + left + right - width) // at.stride[1] + 1
    sums = np.zeros((len(x), out, rows, columns), int)
    for n, o, r, c in np.ndindex(sums.shape):
        sums[n, o, r, c] = int(layer.bias[o])
        for i, dy, dx in np.ndindex(per_group, height, width):
            y, z = r * at.stride[0] - top + dy, c * at.stride[1] - left + dx
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                channel = o // (out // at.groups) * per_group + i
                sums[n, o, r, c] += (int(x[n, channel, y, z]) - layer.input_zero_point) * int(
                    layer.weight[o, i, dy, dx]
                )
    return sums


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((4, 3, 3, 3), Geometry(padding=(1, 1, 1, 1))),
        ((4, 2, 3, 2), Geometry(stride=(2, 3), padding=(0, 2, 1, 0), groups=2)),
        ((6, 1, 2, 3), Geometry(stride=(1, 2), padding=(2, 0, 0, 1), groups=3)),
    ],
)
def test_the_sums_of_a_convolution_are_those_of_six_loops(shape, geometry):
    rng = np.random.default_rng(0)
    layer = layer_with(rng.integers(-127, 128, shape).astype(np.int8), zero_point=-37, geometry=geometry)
    layer = replace(layer, bias=rng.integers(-999, 999, shape[0]).astype(np.int32))
    x = rng.integers(-128, 128, (2, shape[1] * geometry.groups, 6, 7)).astype(np.int8)
    np.testing.assert_array_equal(accumulate(x, layer), brute_force(x, layer))


def layer_with(weight, *, zero_point=0, geometry=None) -> IntegerLayer:
    return IntegerLayer(
        weight=weight,
        weight_scales=np.ones(len(weight), np.float32),
        bias=np.zeros(len(weight), np.int32),
        input_scale=np.float32(1),
        input_zero_point=zero_point,
        output_scale=np.float32(1),
        output_zero_point=0,
        geometry=geometry or Geometry(),
    )


def test_a_sum_that_leaves_the_accumulator_is_refused():
    layer = replace(layer_with(np.full((1, 1), 127, np.int8), zero_point=-128), bias=np.array([2**31 - 1], np.int32))
    with pytest.raises(UsageError, match="32 bits") as caught:
        accumulate(np.array([[127]], np.int8), layer)
    assert caught.value.code == "E0157"


def test_shapes_that_do_not_fit_are_refused():
    layer = layer_with(np.ones((2, 3), np.int8))
    for x in (np.ones((1, 4), np.int8), np.ones((1, 3), np.uint8), np.ones((1, 3, 1, 1), np.int8)):
        with pytest.raises(UsageError) as caught:
            accumulate(x, layer)
        assert caught.value.code == "E0139"
    for change in ({"bias": np.zeros(3, np.int32)}, {"weight_scales": np.ones(1, np.float32)}):
        with pytest.raises(UsageError) as caught:
            replace(layer, **change)
        assert caught.value.code == "E0139"


# The roundings, by hand


def test_float_requantisation_rounds_halves_to_even():
    total = np.array([[1, 3, 5, -1, -3, -5]]).reshape(6, 1)
    np.testing.assert_array_equal(requantize_float(total, np.array([0.5], np.float32))[:, 0], [0, 2, 2, 0, -2, -2])


def test_float_requantisation_loses_what_float32_cannot_hold():
    total = np.array([[2**24 + 1]])  # becomes 2**24: 100.5 + 6e-6 turns into the half that goes to 100
    scale = np.array([100.5 / 2**24], np.float32)
    assert Fraction(2**24 + 1) * Fraction(float(scale[0])) > Fraction(201, 2)
    assert requantize_float(total, scale)[0, 0] == 100


def test_a_multiplier_is_written_with_31_bits():
    multiplier, shift = fixed_point(np.array([0.5, 1.0, 0.75, 2.0**-40, 1 - 2.0**-40]))
    np.testing.assert_array_equal(multiplier, [2**30, 2**30, 3 * 2**29, 0, 2**30])
    np.testing.assert_array_equal(shift, [0, 1, 0, 0, 1])  # the last rounds up to 1.0


def test_the_three_fixed_point_roundings_part_at_halves():
    totals = np.array([2, -2, 6, -6, 1, -1]).reshape(-1, 1)
    quarter = fixed_point(np.array([0.25]))  # 0.5, -0.5, 1.5, -1.5, 0.25, -0.25
    found = {kind: requantize_fixed(totals, *quarter, kind)[:, 0].tolist() for kind in ROUNDINGS[1:]}
    assert found["fixed_once"] == [1, 0, 2, -1, 0, 0]
    # The first step rounds by 2**31 * multiplier = 1/2 of the sum: 1, -1, 3, -3, then 0.5 and -0.5.
    assert found["fixed_twice"] == [1, -1, 2, -2, 1, -1]
    assert found["fixed_twice_up"] == [1, 0, 2, -1, 1, 0]


def test_rounding_once_is_the_nearest_whole_number():
    rng = np.random.default_rng(3)
    totals, real = rng.integers(-(2**24), 2**24, (500, 1)), np.array([3.7e-5])
    multiplier, shift = fixed_point(real)
    exact = [Fraction(int(t)) * int(multiplier[0]) / 2 ** (31 - int(shift[0])) for t in totals[:, 0]]
    nearest = [(value + Fraction(1, 2)).__floor__() for value in exact]
    assert requantize_fixed(totals, multiplier, shift, "fixed_once")[:, 0].tolist() == nearest


# Dynamic int8


def test_dynamic_quantisation_gives_the_codes_of_onnxruntime():
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])]
    kinds = {"y": TensorProto.UINT8, "s": TensorProto.FLOAT, "z": TensorProto.UINT8}
    session = onnx_session(onnx_model(nodes, TensorProto.FLOAT, kinds, 2, {}), optimised=True)
    rng = np.random.default_rng(4)
    rows = [
        np.append((rng.integers(-60, 60, (1, 998)) + 0.5) * (201 / 255), [[-100.3, 100.7]], 1),  # near halves of steps
        rng.normal(size=(7, 300)) * 3,
        rng.normal(size=(7, 300)) + 9,
        -rng.uniform(1, 2, (7, 300)),
        np.zeros((1, 5)),
    ]
    for x in rows:
        codes, scale, zero_point = dynamic_quantize(x.astype(np.float32))
        found = session.run(None, {"x": x.astype(np.float32)})
        np.testing.assert_array_equal(codes, found[0])
        assert (scale, zero_point) == (found[1], found[2])


@pytest.mark.parametrize("inputs", [96, 1536])
def test_a_matrix_product_with_float_output_gives_the_floats_of_onnxruntime(inputs, tmp_path):
    rng = np.random.default_rng(inputs)
    weight = rng.integers(-127, 128, (40, inputs)).astype(np.int8)
    scales = rng.uniform(1e-3, 1e-2, 40).astype(np.float32)
    values = {
        "xs": np.float32(0.03),
        "xz": np.uint8(119),
        "w": weight.T.copy(),
        "ws": scales,
        "wz": np.zeros(40, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    model, written = onnx_model(nodes, TensorProto.FLOAT, {"y": TensorProto.FLOAT}, 2, values), tmp_path / "fused.onnx"
    session = onnx_session(model, optimised=True, written=str(written))
    assert "MatMulIntegerToFloat" in {node.op_type for node in onnx.load(written).graph.node}
    codes = rng.integers(0, 256, (64, inputs)).astype(np.uint8)
    x = (codes.astype(np.float32) - np.float32(119)) * np.float32(0.03)
    expected = matmul_to_float(codes, weight, scale=np.float32(0.03), zero_point=119, weight_scales=scales)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def halves_layer(channels=4000) -> tuple[IntegerLayer, np.ndarray]:
    """Give a layer whose every sum lies as near to a half of a step as its integers allow: float32 decides."""
    rng = np.random.default_rng(6)
    layer, x = layer_of("linear", relu=False, seed=0)
    scales = rng.uniform(2e-6, 6e-6, channels).astype(np.float32)
    layer = replace(
        layer, weight=np.zeros((channels, 1), np.int8), weight_scales=scales, bias=np.zeros(channels, np.int32)
    )
    steps = rng.integers(-100, 100, channels) + 0.5
    real = layer.input_scale.astype(float) * scales / layer.output_scale
    return replace(layer, bias=np.rint(steps / real).astype(np.int32)), x[:1, :1]


@pytest.mark.parametrize("engine", ["ort", "xnnpack"])
def test_the_reference_decides_near_halves_as_the_engine_does(engine):
    layer, x = halves_layer()
    found = engine_codes(engine, layer, "linear", x)
    np.testing.assert_array_equal(found, run(x, layer, "float"))
    assert (found != run(x, layer, "fixed_once")).sum() > 10  # these sums do tell float32 from exact numbers
