"""Faults in quantisation: the build itself made them, so goldens and plan agree with the faulty files."""

import numpy as np
import pytest
from fault_bundles import failed, parity
from planting import moving_average, naive_planner, observed_ranges, per_tensor, percentile, requantised, unclipped_mask

from edgekit_converters.layerwise.result import LayerRow

INT8 = ("onnx-int8", "tflite-int8")
LOOSE = "min_overlap_1=0.75 fraction"  # whole int8 without any technique moves a few nearest rows by itself


def both_fail(answer, layers, reason):
    """Check the verdict and the layer of each format; give the gates that were missed."""
    assert answer.code == 3
    assert "error[E0302]" in answer.err
    assert {lane for lane, _ in failed(answer)} == set(INT8)
    for lane, layer in zip(INT8, layers, strict=True):
        report = answer.json["layers"][lane]
        assert report["first_divergence"] == layer
        assert reasons(report)[layer] == reason
    return {gate for _, gate in failed(answer)}


def reasons(report):
    return {row.module: row.reason for row in map(LayerRow.from_json, report["layers"])}


def test_quantised_the_same_way_without_a_mistake_digits_and_texts_pass(digits_bundle, texts, tmp_path):
    for name, path, gate in (("digits", digits_bundle, "min_sqnr=30 dB"), ("texts", texts, LOOSE)):
        answer = parity(requantised(path, tmp_path / name, naive_planner()), "--layers", "--gate", gate)
        assert answer.code == 0, answer.err
        assert {lane: answer.json["layers"][lane]["first_divergence"] for lane in INT8} == dict.fromkeys(INT8)


def test_one_scale_for_all_channels_of_a_depthwise_layer_fails_and_the_layer_is_named(digits_bundle, tmp_path):
    bundle = requantised(digits_bundle, tmp_path / "it", naive_planner(), edit=per_tensor("depthwise"))
    answer = parity(bundle)
    # The files are as planned, so that their gate has nothing to say: the plan is wrong.
    assert both_fail(answer, ("depthwise", "depthwise"), "weights") == {"min_cosine", "min_sqnr"}
    # 15 of 16 channels have weights a hundredth as large as the loudest, which alone is as good as before.
    assert "14 more channels" in answer.json["layers"]["onnx-int8"]["words"]


@pytest.mark.parametrize(
    ("look", "layers"),
    # TFLite rounds its input in an operator of its own, which the average clips. The percentile leaves the input alone:
    # more than half a percent of all pixels are as bright as can be.
    [(moving_average, ("first", "before first")), (percentile(99), ("first", "first"))],
    ids=["moving average", "percentile"],
)
def test_a_calibration_that_forgets_or_clips_loud_rows_fails_and_the_first_layer_is_named(
    digits_bundle, tmp_path, look, layers
):
    bundle = requantised(digits_bundle, tmp_path / "it", naive_planner(), ranges=observed_ranges(look))
    assert both_fail(parity(bundle), layers, "clipping") == {"min_cosine", "min_sqnr"}


def test_the_moving_average_is_what_the_library_computes():
    """Against ai-edge-quantizer's own update, whose default it is."""
    from ai_edge_quantizer.utils import qsv_utils

    rows = [np.array([-low, high], np.float32) for low, high in ((1, 2), (3, 1), (2, 9))]
    held = {"min": rows[0].min().reshape(1), "max": rows[0].max().reshape(1)}
    for row in rows[1:]:
        held = qsv_utils.moving_average_update(held, {"min": row.min().reshape(1), "max": row.max().reshape(1)})
    assert moving_average(rows) == pytest.approx((float(held["min"][0]), float(held["max"][0])))


def test_a_mask_of_padding_that_is_not_clipped_fails_where_attention_is_int8(texts, tmp_path):
    """ONNX leaves the scores float; TFLite puts them on a grid that the mask stretches until one code is left."""
    bundle = requantised(texts, tmp_path / "it", naive_planner(), change=unclipped_mask)
    answer = parity(bundle, "--gate", LOOSE)
    assert answer.code == 3
    assert {lane for lane, _ in failed(answer)} == {"tflite-int8"}
    assert "min_cosine" in {gate for _, gate in failed(answer)}
    report = answer.json["layers"]["tflite-int8"]
    assert report["first_divergence"] == "before encoder.layers.0.attention.output"
