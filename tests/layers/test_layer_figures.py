"""The figures of one layer by hand: local and inherited error, steps, saturation, padding, and the expected noise."""

import json
import math

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit_converters.layerwise.expected import expected_layer, step_of, weight_excess_db
from edgekit_converters.layerwise.network import TensorGrid
from edgekit_converters.layerwise.result import Figures, LayerRow
from edgekit_converters.layerwise.sums import ErrorSums, InputSums


def run_onnx(content: bytes, names: list[str], rows) -> list[dict[str, np.ndarray]]:
    """All rows through a whole file whose inner tensors are made outputs."""
    model = onnx.load_from_string(content)
    for name in names:
        if name not in [value.name for value in model.graph.output]:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [dict(zip(names, session.run(names, row), strict=True)) for row in rows]


def constant(content: bytes, name: str) -> np.ndarray:
    held = next(each for each in onnx.load_from_string(content).graph.initializer if each.name == name)
    return onnx.numpy_helper.to_array(held)


def test_local_and_inherited_error_of_a_linear_layer_are_those_of_numpy(texts, tmp_path):
    """ffn_in by brute force: float input on the file's grid, int8 weights, its bias; real tokens alone."""
    place = next(one for one in texts.places("onnx") if one.module == "layers.0.ffn_in")
    reference = onnx.load(texts.folders["onnx"] / "reference.onnx").SerializeToString()
    floats = run_onnx(reference, [place.input, place.output], texts.rows)
    int8 = run_onnx(texts.model("onnx"), [place.output], texts.rows)
    file, name = texts.model("onnx"), "layers.0.ffn_in"
    step, zero = constant(file, f"{place.input}.scale"), constant(file, f"{place.input}.zero_point").astype(np.float64)
    weight = constant(file, f"{name}.weight.int8").astype(np.float64) * constant(file, f"{name}.weight.scale")
    local = inherited = signal = 0.0
    for row, ours, theirs in zip(texts.rows, floats, int8, strict=True):
        real = row["attention_mask"][0] != 0
        codes = np.clip(np.rint(ours[place.input] / step) + zero, 0, 255)
        alone = ((codes - zero) * step) @ weight + constant(file, f"{name}.bias.broad")
        wanted = np.maximum(ours[place.output][0, real], -4.0)  # below it a GELU gives nothing
        local += np.square(np.maximum(alone[0, real], -4.0) - wanted).sum()
        inherited += np.square(np.maximum(theirs[place.output][0, real], -4.0) - wanted).sum()
        signal += np.square(wanted.astype(np.float64)).sum()
    found = next(row for row in texts.compare("onnx", tmp_path) if row.module == name)
    assert found.local.sqnr_db == pytest.approx(10 * math.log10(signal / local), abs=1e-3)
    assert found.inherited.sqnr_db == pytest.approx(10 * math.log10(signal / inherited), abs=1e-2)
    assert found.local.rmse_steps is None  # ONNX Runtime's linear layers give float


def test_figures_of_four_values():
    grid = TensorGrid(scale=0.5, zero_point=0, dtype="int8")
    sums = ErrorSums(-1)
    codes = np.array([[2, -128], [127, 6]], np.int8)
    sums.add(np.array([[1.0, -65.0], [63.0, 3.0]], np.float32), grid.dequantise(codes), codes=codes, grid=grid)
    figures = sums.figures(grid)
    noise = 0 + 1.0 + 0.25 + 0  # -64 for -65, 63.5 for 63
    assert figures.sqnr_db == pytest.approx(10 * math.log10((1 + 65**2 + 63**2 + 9) / noise))
    assert figures.rmse == pytest.approx(math.sqrt(noise / 4))
    assert figures.rmse_steps == pytest.approx(math.sqrt(noise / 4) / 0.5)
    assert figures.max_difference == 1.0
    assert sums.saturation == 0.5  # both ends, of four codes


def test_codes_at_the_end_that_is_zero_are_not_saturated():
    grid = TensorGrid(scale=1.0, zero_point=-128, dtype="int8")  # behind a ReLU
    assert grid.at_ends(np.array([-128, 0, 127], np.int8)).tolist() == [False, False, True]


def test_one_nan_makes_every_figure_nan_and_is_counted():
    sums = ErrorSums(-1)
    sums.add(np.ones((2, 3), np.float32), np.array([[1, np.nan, 1], [1, 1, 1]], np.float32), codes=None, grid=None)
    figures = sums.figures(None)
    assert figures.not_finite == 1
    assert math.isnan(figures.sqnr_db)
    assert math.isnan(figures.cosine)
    assert math.isnan(figures.rmse)
    assert math.isnan(figures.max_difference)


def test_expected_noise_is_what_rounding_gives():
    """Uniform inputs and weights, rounded by hand: prediction and measurement within 0.5 dB."""
    rng = np.random.default_rng(0)
    x, w = rng.uniform(-1, 1, (4000, 64)).astype(np.float32), rng.normal(size=(32, 64)).astype(np.float32)
    low, high = float(x.min()), float(x.max())
    step = (high - low) / 255
    rounded = np.rint(x / step) * step
    scales = np.abs(w).max(1, keepdims=True) / 127
    coarse = np.rint(w / scales) * scales
    y = x.astype(np.float64) @ w.T
    out_step = (y.max() - y.min()) / 255
    measured = np.rint(rounded @ coarse.T / out_step) * out_step
    given, gives = InputSums(-1), ErrorSums(-1)
    given.add(x[:1000], None)
    given.add(x[1000:], None)
    gives.add(y, measured, codes=None, grid=None)
    expected = expected_layer(w, given, input_step=step_of(given, 255), output_step=step_of(gives, 255)).noise.sum()
    assert 10 * math.log10(np.square(y - measured).sum() / len(y) / expected) == pytest.approx(0.0, abs=0.5)


def test_rounded_weights_are_at_0_db_and_a_flipped_bit_is_far_above():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 512)).astype(np.float32)
    scale = np.abs(weight).max(1, keepdims=True) / 127
    codes = np.rint(weight / scale)
    assert np.abs(weight_excess_db(weight, (codes * scale).astype(np.float32))).max() < 1.0
    codes[2, 100] += 64
    excess = weight_excess_db(weight, (codes * scale).astype(np.float32))
    assert excess[2] > 15
    assert excess[[0, 1, 3]].max() < 1.0


def test_rows_survive_json_with_nan_and_infinity():
    bad = Figures(sqnr_db=math.nan, cosine=math.inf, rmse=1.0, rmse_steps=None, max_difference=2.0, not_finite=3)
    row = LayerRow(
        module="a", kind="linear", mode="static", local=bad, inherited=bad, expected_db=None, saturation=0.5,
        reason="nan", note="3 entries", reference="r", tensor="t",
    )  # fmt: skip
    text = json.dumps(row.as_json(), allow_nan=False)
    back = LayerRow.from_json(json.loads(text))
    assert math.isnan(back.local.sqnr_db)
    assert back.local.cosine == math.inf
    assert back.as_json() == row.as_json()
