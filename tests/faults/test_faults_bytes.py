"""Faults in the bytes of a finished model: the bundle was packed anew, so its own check finds them in order."""

import shutil

import numpy as np
import pytest
from fault_bundles import failed, layers, parity
from onnx import numpy_helper
from planting import doubled_tflite, flipped_onnx, onnx_constants, repacked, scaled_onnx, set_constant

from edgekit_runtime.bundle import verify

LAYERS = ("first", "depthwise", "pointwise")  # the static ones, in order of execution


def model(path, member):
    return verify(path).read(member)


@pytest.mark.parametrize(("layer", "place", "channel"), [("first", 4, 0), ("depthwise", 40, 4), ("pointwise", 37, 2)])
def test_a_flipped_byte_in_a_weight_fails_and_its_layer_is_named(digits_bundle, tmp_path, layer, place, channel):
    # First: 9 weights a channel; depthwise: 9; pointwise: 16.
    assert place // {"first": 9, "depthwise": 9, "pointwise": 16}[layer] == channel
    changed = flipped_onnx(model(digits_bundle, "model.onnx"), f"{layer}.weight.int8", place)
    bundle = repacked(digits_bundle, tmp_path, {"model.onnx": changed})
    answer = parity(bundle, "--on", "onnx-int8", "--on", "tflite-int8")
    assert answer.code == 3
    assert ("onnx-int8", "file") in failed(answer)
    assert {lane for lane, _ in failed(answer)} == {"onnx-int8"}
    found = answer.json["layers"]["onnx-int8"]
    assert found["first_divergence"] == layer
    assert f"channel {channel} " in found["words"]


def test_a_flipped_byte_in_a_table_of_words_is_seen_in_the_file(texts, tmp_path):
    changed = flipped_onnx(model(texts, "model.onnx"), "encoder.words.weight.int8", 5)  # of the row of padding
    answer = parity(repacked(texts, tmp_path, {"model.onnx": changed}), "--on", "onnx-int8")
    assert answer.code == 3
    assert failed(answer) == {("onnx-int8", "file")}
    assert "file: the model is another file than the one that the build kept" in answer.err


def test_without_what_the_build_kept_files_are_not_judged(digits_bundle, tmp_path):
    changed = flipped_onnx(model(digits_bundle, "model.onnx"), "first.weight.int8", 4)
    bundle = repacked(digits_bundle, tmp_path, {"model.onnx": changed})
    shutil.rmtree(bundle.with_suffix(".lanes"))
    answer = parity(bundle, "--reference", "tflite-int8", "--on", "onnx-int8", "--data", "goldens")
    assert "file" not in {each["gate"] for each in answer.json["verdict"]["results"]}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_doubled_scale_in_tflite_fails_there_alone_and_its_layer_is_named(digits_bundle, tmp_path, layer):
    changed = doubled_tflite(model(digits_bundle, "model.tflite"), LAYERS.index(layer))
    bundle = repacked(digits_bundle, tmp_path, {"model.tflite": changed})
    answer = parity(bundle, "--on", "onnx-int8", "--on", "tflite-int8")
    assert answer.code == 3
    assert {lane for lane, _ in failed(answer)} == {"tflite-int8"}
    assert {"selftest", "file", "min_sqnr"} <= {gate for _, gate in failed(answer)}
    found = answer.json["layers"]["tflite-int8"]
    assert found["first_divergence"] == layer
    assert "(scale)" in found["words"]
    assert "2 times float's" in found["words"]
    assert layers(bundle, "onnx-int8")["first_divergence"] is None


def test_nan_in_one_channel_of_the_answer_fails_every_measure(digits_bundle, tmp_path):
    content, constants = onnx_constants(model(digits_bundle, "model.onnx"))
    bias = numpy_helper.to_array(constants["classifier.bias"]).copy()
    bias[3] = np.nan
    set_constant(constants["classifier.bias"], bias)
    bundle = repacked(digits_bundle, tmp_path, {"model.onnx": content.SerializeToString()})
    answer = parity(bundle, "--on", "onnx-int8")
    assert answer.code == 3
    gates = {gate for _, gate in failed(answer)}
    assert {"selftest", "finite", "min_cosine", "min_sqnr"} <= gates
    found = answer.json["layers"]["onnx-int8"]
    assert found["first_divergence"] == "classifier"
    assert "(nan)" in found["words"]
    assert "channel 3" in found["words"]


@pytest.mark.parametrize("layer", ["first", "pointwise"])
def test_nan_in_the_scale_of_one_channel_is_seen_where_the_engine_turns_it_into_zeros(digits_bundle, tmp_path, layer):
    changed = scaled_onnx(model(digits_bundle, "model.onnx"), [f"{layer}.weight.scale"], 2, float("nan"))
    answer = parity(repacked(digits_bundle, tmp_path, {"model.onnx": changed}), "--on", "onnx-int8")
    assert answer.code == 3
    results = answer.json["verdict"]["results"]
    assert [each["outcome"] for each in results if each["gate"] == "finite"] == ["passed"]  # the trap
    assert ("onnx-int8", "file") in failed(answer)
    found = answer.json["layers"]["onnx-int8"]
    assert found["first_divergence"] == layer
    assert "(nan)" in found["words"]
