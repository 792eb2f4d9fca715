"""The helpers of the agreement benchmark: counting, and layers cut out of real files."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/converters")]

import one_layer  # noqa: E402 - beside the benchmarks, which are no package
from agreement.compare import Steps, compare_grids, nearest, same_decisions, shared_codes  # noqa: E402
from agreement.cut import cut_onnx, cut_tflite  # noqa: E402

from edgekit_converters.quantize.integer_reference import run  # noqa: E402
from edgekit_converters.quantize.plan import Grid  # noqa: E402
from edgekit_converters.quantize.proof import Stamped  # noqa: E402
from edgekit_converters.quantize.tflite_graph import TfliteGraph  # noqa: E402


def test_steps_are_counted_and_add_up():
    one, other = np.array([[-128, 5, 7]], np.int8), np.array([[127, 5, 8]], np.int8)
    found = Steps.between(one, other)
    assert (found.codes, found.unequal, found.largest) == (3, 2, 255)
    total = found + Steps.between(other, other) + Steps()
    assert (total.codes, total.unequal, total.largest) == (6, 2, 255)
    assert total.equal_share == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="shapes"):
        Steps.between(one, other[0])


def test_grids_of_two_files_are_compared_part_by_part():
    codes, scales = np.array([[1, 2]], np.int8), np.array([0.5], np.float32)
    point = (np.float32(0.1), 3)
    one = {
        "a": Stamped(codes=codes, scales=scales, bias=np.array([7]), input=point, output=None),
        "b": Stamped(codes=codes, scales=scales, bias=None, input=None, output=None),
    }
    other = {
        "a": Stamped(codes=codes, scales=scales * 2, bias=np.array([7]), input=point, output=point),
        "b": Stamped(codes=codes + 1, scales=scales, bias=None, input=None, output=None),
    }
    found = compare_grids(one, other)
    assert found["codes"] == {"both": 2, "equal": 1, "one_file_only": 0}
    assert found["scales"] == {"both": 2, "equal": 1, "one_file_only": 0}
    assert found["bias"] == {"both": 1, "equal": 1, "one_file_only": 0}
    assert found["input"] == {"both": 1, "equal": 1, "one_file_only": 0}
    assert found["output"] == {"both": 0, "equal": 0, "one_file_only": 1}
    assert compare_grids(one, {})["codes"] == {"both": 0, "equal": 0, "one_file_only": 2}


def test_the_nearest_is_another_row_of_the_same_block():
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [1, 0], [0, 3], [0.1, 1]], np.float32)
    np.testing.assert_array_equal(nearest(vectors, 3), [1, 0, 1, 2, 2, 1])
    assert same_decisions(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_final_outputs_are_compared_on_the_grid_of_the_float_model():
    reference = np.array([[-1.0, 1.55]], np.float32)  # 255 steps of 0.01
    found = shared_codes(reference, reference + np.array([[0.031, 0.004]], np.float32), reference)
    assert (found.codes, found.unequal, found.largest) == (2, 1, 3)


@pytest.mark.parametrize("case", ["linear", "conv", "depthwise"])
def test_a_layer_cut_out_of_a_real_file_gives_the_codes_of_the_reference(case, tmp_path):
    layer, x = one_layer.layer_of(case, relu=True, seed=3)
    grid = Grid(low=0, high=1, scale=float(layer.output_scale), zero_point=layer.output_zero_point)
    exact = run(x, layer, "float")
    model = onnx.load_from_string(one_layer.onnx_file(layer))
    cut = cut_onnx(model, next(node for node in model.graph.node if node.op_type in ("Gemm", "Conv")))
    assert cut.unsigned
    assert cut.relu
    assert cut.gives_codes
    np.testing.assert_array_equal(cut.run(x, grid), exact)
    assert ("QGemm" if case == "linear" else "QLinearConv") in cut.kernels()

    image = x.ndim == 4
    taken, given = ((1, *values.shape[2:], values.shape[1]) if image else (1, values.shape[1]) for values in (x, exact))
    path = tmp_path / "one.tflite"
    path.write_bytes(one_layer.tflite_file(layer, case, taken, given))
    (place,) = TfliteGraph(path).match({"one": layer.weight})["one"]
    part = cut_tflite(path, place)
    np.testing.assert_array_equal(part.run(x, zero_point=layer.input_zero_point), exact)
    assert "DELEGATE" in part.kernels()


def test_a_float_output_is_cut_before_its_activation_and_quantised_with_the_grid():
    layer, x = one_layer.layer_of("linear", relu=False, seed=4)
    model = onnx.load_from_string(one_layer.onnx_file(layer))
    for kind in ("QuantizeLinear", "DequantizeLinear"):  # take the last pair off: the layer now gives float
        last = next(node for node in reversed(model.graph.node) if node.op_type == kind)
        model.graph.node.remove(last)
    cut = cut_onnx(model, next(node for node in model.graph.node if node.op_type == "Gemm"))
    assert not cut.relu
    grid = Grid(low=0, high=1, scale=float(layer.output_scale), zero_point=layer.output_zero_point)
    assert not cut.gives_codes
    apart = Steps.between(cut.run(x, grid), run(x, layer, "float"))
    assert apart.largest <= 1
    assert apart.equal_share >= 0.999
