"""The saturation proof against a bit-accurate VPMADDUBSW, over every input that could matter."""

import itertools
import json
from dataclasses import replace

import numpy as np
import one_layer
import onnx
import pytest
from onnx import TensorProto

from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_converters.quantize.proof import Stamped
from edgekit_converters.quantize.saturation import (
    accumulator_bound,
    guard,
    guarded_scales,
    pair_sums,
    prove,
    seven_bit,
)
from edgekit_converters.quantize.saturation_report import prove_layers, record_saturation
from edgekit_runtime.errors import ConversionError, UsageError


def vpmaddubsw(a, b):
    """Multiply uint8 by int8, add neighbours, saturate to int16: Intel SDM, PMADDUBSW."""
    products = a.astype(np.int32) * b.astype(np.int32)
    return np.clip(products[..., 0::2] + products[..., 1::2], -32768, 32767).astype(np.int16)


def saturating_product(x, rows):
    """Multiply as ONNX Runtime's AVX2 kernel does: 16-bit pairs, then 32-bit sums."""
    odd = rows.shape[1] % 2
    x, rows = np.pad(x, ((0, 0), (0, odd))), np.pad(rows, ((0, 0), (0, odd)))
    return np.stack([vpmaddubsw(x, row).astype(np.int64).sum(-1) for row in rows], axis=-1)


def exact_product(x, rows):
    return x.astype(np.int64) @ rows.T.astype(np.int64)


def extreme_inputs(inputs, low=0, high=255):
    """Give inputs in which each pair takes each of its four corners; a sum is linear, so its extremes lie there."""
    middle = np.full((4 * ((inputs + 1) // 2), inputs), low, np.uint8)
    for row, (pair, corner) in enumerate(
        itertools.product(range((inputs + 1) // 2), itertools.product((low, high), repeat=2))
    ):
        middle[row, 2 * pair : 2 * pair + 2] = corner[: inputs - 2 * pair]
    return middle


def adversarial():
    """Give weights at the edge: a pair of 128.5 codes each is the first that does not fit into 32767 / 255."""
    rows = [(64, 64), (64, 65), (1, 127), (2, 127), (127, 127), (-64, -64), (-64, -65), (-1, -128), (-127, 127), (0, 0)]
    return np.array([(0, *row, 0, row[0], row[1]) for row in rows], np.int8)


def weight_sets():
    rng = np.random.default_rng(0)
    for spread in (20, 40, 60, 90):
        for inputs in (2, 7, 16):
            yield (rng.normal(size=(60, inputs)) * spread).round().clip(-128, 127).astype(np.int8)
    yield adversarial()
    yield adversarial()[:, 1:]


@pytest.mark.parametrize("activations", [(0, 255), (0, 190), (40, 255), (128, 128)])
def test_a_row_is_flagged_exactly_where_some_input_saturates_it(activations):
    flagged = unflagged = 0
    for codes in weight_sets():
        x = extreme_inputs(codes.shape[1], *activations)
        saturates = (saturating_product(x, codes) != exact_product(x, codes)).any(0)
        for row, saturated in zip(codes, saturates, strict=True):
            proof = prove("row", row[None], kind="linear", activations=activations)
            assert proof.safe != saturated
            flagged, unflagged = flagged + saturated, unflagged + (not saturated)
        assert prove("all", codes, kind="linear", activations=activations).channels == saturates.sum()
    assert unflagged > 100
    assert flagged > 50 or activations == (128, 128)  # two codes of 128 times 128 just fit


def test_no_random_input_saturates_a_row_that_was_proved():
    rng = np.random.default_rng(1)
    wrong = 0
    for codes in weight_sets():
        x = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (4000, codes.shape[1]))
        differs = (saturating_product(x, codes) != exact_product(x, codes)).any(0)
        proved = np.array([prove("row", row[None], kind="linear").safe for row in codes])
        assert not (differs & proved).any()
        wrong += differs.sum()
    assert wrong > 100


def test_the_worst_sums_are_reached():
    for codes in weight_sets():
        proof = prove("all", codes, kind="linear")
        products = extreme_inputs(codes.shape[1])[:, None].astype(int) * codes[None].astype(int)
        products = np.pad(products, ((0, 0), (0, 0), (0, codes.shape[1] % 2)))
        pairs = products[..., 0::2] + products[..., 1::2]
        assert (proof.worst_negative, proof.worst_positive) == (min(pairs.min(), 0), max(pairs.max(), 0))


def test_the_bound_without_packing_is_that_of_all_pairs():
    for codes in weight_sets():
        smallest, largest = pair_sums(codes, kind="linear", activations=(3, 250), bound="any_pairs")
        for row, low, high in zip(codes.astype(int), smallest, largest, strict=True):
            products = [(3 * w, 250 * w) for w in row] + [(0, 0)] * (len(row) % 2)  # the kernel's padding
            pairs = list(itertools.combinations(products, 2))
            assert high == max(0, *(max(a) + max(b) for a, b in pairs))
            assert low == min(0, *(min(a) + min(b) for a, b in pairs))


def test_the_bound_without_packing_flags_what_a_shuffle_would_saturate():
    codes = np.array([[127, 0, 127, 0]], np.int8)
    assert prove("apart", codes, kind="linear").safe
    assert not prove("apart", codes, kind="linear", bound="any_pairs").safe


def test_a_convolution_pairs_input_channels_and_runs_on_where_they_are_odd():
    def proof(*large, channels):
        codes = np.zeros((1, channels, 1, 2), np.int8)
        for channel, column in large:
            codes[0, channel, 0, column] = 127
        return prove("conv", codes, kind="conv").safe

    assert not proof((0, 0), (1, 0), channels=2)
    assert proof((0, 0), (0, 1), channels=2)  # one channel at two positions: in memory they are two apart
    assert proof((1, 0), (0, 1), channels=2)
    assert not proof((2, 0), (0, 1), channels=3)  # the third channel pairs with the first of the next position
    assert proof((0, 1), (1, 1), channels=3)


def test_depthwise_layers_have_no_pairs():
    codes = np.full((4, 1, 3, 3), 127, np.int8)
    proof = prove("depthwise", codes, kind="depthwise")
    assert proof.safe
    assert (proof.bound, proof.worst_positive) == ("no_pairs", 255 * 127)
    assert not prove("one channel in", codes, kind="conv").safe


@pytest.mark.parametrize("shape", [(40, 33), (8, 6, 3, 3)])
def test_seven_bit_weights_never_saturate_whatever_the_packing(shape):
    rng = np.random.default_rng(2)
    for weight in (rng.normal(size=shape), rng.standard_cauchy(shape), np.full(shape, -3.0), np.zeros(shape)):
        codes, scale = seven_bit(weight.astype(np.float32))
        assert np.abs(codes.astype(int)).max() <= 64
        assert prove("guarded", codes, kind="conv", bound="any_pairs").safe
        steps = scale.reshape((-1,) + (1,) * (weight.ndim - 1))
        assert np.abs(codes * steps - weight).max(initial=0) <= 0.5001 * scale.max()
        assert (np.abs(codes.astype(int)).reshape(len(codes), -1).max(1) == (64 if weight.any() else 0)).all()


def test_65_would_not_do():
    assert prove("64", np.full((1, 2), 64, np.int8), kind="linear").safe
    assert not prove("65", np.full((1, 2), 65, np.int8), kind="linear").safe
    assert not prove("-65", np.full((1, 2), -65, np.int8), kind="linear").safe


def test_the_guard_narrows_only_rows_that_need_it_and_as_little_as_they_need():
    weight = np.array([[1, -1, 1, 0], [1, 1, 0, 0], [1, 0.25, 0, 0]], np.float32)
    codes, scale = guard(weight, kind="linear")
    # Opposite signs add no more than one product; two of the same sign may have 128 codes: 64 + 64, 102 + 26.
    np.testing.assert_array_equal(codes, [[127, -127, 127, 0], [64, 64, 0, 0], [102, 26, 0, 0]])
    np.testing.assert_allclose(scale, [1 / 127, 1 / 64, 1 / 102], rtol=1e-6)


def test_guarded_weights_are_proved_and_lose_no_more_than_seven_bits():
    rng = np.random.default_rng(3)
    for shape, kind in (((50, 64), "linear"), ((16, 5, 3, 3), "conv"), ((16, 1, 3, 3), "depthwise")):
        weight = rng.standard_t(4, size=shape).astype(np.float32)
        codes, scale = guard(weight, kind=kind)
        assert prove("guarded", codes, kind=kind).safe
        assert (scale <= seven_bit(weight)[1]).all()
        assert scale.sum() < seven_bit(weight)[1].sum()


def test_the_accumulator_is_bounded_over_its_whole_course():
    codes = np.full((2, 3), 127, np.int8)
    assert accumulator_bound(codes) == 2 * 255 * 3 * 127
    assert accumulator_bound(codes, np.array([0, -1000], np.int32)) == 2 * 255 * 3 * 127 + 1000
    safe = prove("wide", np.full((1, 32_000), 64, np.int8), kind="linear")
    over = prove("too wide", np.full((1, 66_000), 64, np.int8), kind="linear")  # 2 * 255 * 64 * 66000 > 2**31
    assert (safe.safe, over.safe, over.channels) == (True, False, 0)


def test_a_proof_is_json_with_its_verdict():
    codes = np.array([[127, 127], [1, -1]], np.int8)
    held = json.loads(json.dumps(prove("head", codes, kind="linear").as_json()))
    assert held == {
        "layer": "head",
        "worst_positive": 2 * 255 * 127,
        "worst_negative": -255,
        "bound": "pairs",
        "channels": 1,
        "accumulator": 2 * 255 * 254,
        "safe": False,
    }


def test_wrong_arguments_are_refused():
    for codes in (np.zeros((2, 2), np.uint8), np.zeros(4, np.int8)):
        with pytest.raises(UsageError) as caught:
            prove("x", codes, kind="linear")
        assert caught.value.code == "E0137"
    with pytest.raises(UsageError) as caught:
        prove("x", np.zeros((2, 2), np.int8), kind="linear", bias=np.zeros(3, np.int32))
    assert caught.value.code == "E0137"
    for activations in ((-128, 127), (0, 256), (9, 8)):
        with pytest.raises(UsageError) as caught:
            prove("x", np.zeros((2, 2), np.int8), kind="linear", activations=activations)
        assert caught.value.code == "E0138"
    for quantise in (seven_bit, lambda weight: guard(weight, kind="linear")):
        with pytest.raises(ConversionError) as caught:
            quantise(np.array([[1, np.nan]], np.float32))
        assert caught.value.code == "E0752"


@pytest.mark.parametrize(("how", "quantise"), [(True, seven_bit), ("pairs", lambda w: guard(w, kind="linear"))])
def test_the_scale_alone_narrows_the_codes_of_a_plan(how, quantise):
    weight = np.random.default_rng(5).standard_t(4, (40, 64)).astype(np.float32)
    scales = guarded_scales(weight, kind="linear", how=how)
    layer = LayerPlan(name="x", kind="linear", mode=Mode.STATIC, why="", weight_scales=tuple(map(float, scales)))
    codes, wanted = quantise(weight)
    np.testing.assert_array_equal(layer.codes(weight), codes)
    np.testing.assert_array_equal(scales, wanted)
    full = guarded_scales(weight, kind="linear", how=False)
    np.testing.assert_array_equal(full, np.abs(weight).max(1) / np.float32(127))


def four_layers():
    """A linear layer that saturates, one that does not, a depthwise one, and a float one; weights by hand."""
    codes = {
        "loud": np.array([[127, 127], [64, 65], [64, 64]], np.int8),
        "quiet": np.array([[127, -127], [64, 64]], np.int8),
        "depthwise": np.full((2, 1, 3, 3), 127, np.int8),
    }
    modes = {"loud": Mode.STATIC, "quiet": Mode.DYNAMIC, "depthwise": Mode.STATIC, "head": Mode.FLOAT}
    layers = tuple(
        LayerPlan(name=name, kind="conv" if name == "depthwise" else "linear", mode=mode, why="")
        for name, mode in modes.items()
    )
    plan = QuantPlan(layers=layers, techniques=(), calibration_rows=1, calibration_digest="", whole_network=False)
    found = {
        name: Stamped(codes=held, scales=np.ones(len(held), np.float32), bias=None, input=None, output=None)
        for name, held in codes.items()
    }
    return plan, found, {"loud": "linear", "quiet": "linear", "depthwise": "depthwise", "head": "linear"}


def test_a_file_is_reported_layer_by_layer(tmp_path):
    proofs = prove_layers(*four_layers())
    said = record_saturation(proofs, tmp_path, must_be_safe=False)
    assert said.startswith("1 of 3 int8 layers can saturate")
    held = json.loads((tmp_path / "saturation.json").read_text())
    assert held["unsafe"] == ["loud"]
    assert {row["layer"]: row["channels"] for row in held["layers"]} == {"loud": 2, "quiet": 0, "depthwise": 0}
    assert held["layers"][0]["worst_positive"] == 255 * 254


def test_narrow_weights_that_saturate_still_are_refused(tmp_path):
    plan, found, kinds = four_layers()
    with pytest.raises(ConversionError, match="loud") as caught:
        record_saturation(prove_layers(plan, found, kinds), tmp_path, must_be_safe=True)
    assert caught.value.code == "E0772"
    assert not list(tmp_path.iterdir())
    del found["loud"]
    assert record_saturation(prove_layers(plan, found, kinds), tmp_path, must_be_safe=True).startswith("0 of 2")


@pytest.mark.parametrize("case", ["linear", "conv"])
def test_an_exact_session_keeps_the_fast_kernels_for_narrow_weights_alone(case, tmp_path):
    layer, _ = one_layer.layer_of(case, relu=False, seed=0)
    for widest, kind in ((64, TensorProto.INT8), (65, TensorProto.UINT8)):
        codes = layer.weight.clip(-64, 64)
        codes.flat[0] = widest
        model, written = one_layer.onnx_file(replace(layer, weight=codes)), tmp_path / f"{widest}.onnx"
        one_layer.onnx_session(model, optimised=True, exact=True, written=str(written))
        (held,) = (each for each in onnx.load(written).graph.initializer if len(each.dims) >= 2)
        assert held.data_type == kind  # uint8 weights are what the slower exact kernels take
