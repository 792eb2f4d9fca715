"""The bundles that faults are planted into pass without them, so that no check is red by itself."""

import subprocess
import sys

import pytest
from devices import evidence_of
from fault_bundles import layers, parity

BUNDLES = ("photos", "digits_bundle", "texts")
LANES = {"onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_healthy_bundle_passes_every_gate_on_every_lane(name, request):
    answer = parity(request.getfixturevalue(name))
    assert answer.code == 0, answer.err
    results = answer.json["verdict"]["results"]
    assert {each["lane"] for each in results} == LANES
    assert {each["outcome"] for each in results} <= {"passed", "undecided"}
    assert [each["lane"] for each in results if each["gate"] == "file"] == ["onnx-int8", "tflite-int8"]
    assert answer.json["layers"] == {}


@pytest.mark.parametrize("lane", ["onnx-int8", "tflite-int8"])
@pytest.mark.parametrize("name", BUNDLES)
def test_no_layer_of_a_healthy_bundle_is_named(name, lane, request):
    found = layers(request.getfixturevalue(name), lane)
    assert found["first_divergence"] is None, found["words"]
    assert len(found["layers"]) >= 4


@pytest.mark.parametrize("name", ["photos", "texts"])
def test_a_healthy_device_passes_on_the_goldens(name, request):
    bundle = request.getfixturevalue(name)
    evidence, code = evidence_of(bundle, None)
    assert code == 0
    answer = parity(bundle, "--on", evidence)
    assert answer.code == 0, answer.err
    assert answer.json["rows"]["count"] == 16


def test_the_process_ends_with_the_exit_code_of_the_verdict(digits_bundle):
    command = [sys.executable, "-m", "edgekit", "parity", str(digits_bundle), "--on", "tflite-int8", "--no-layers"]
    done = subprocess.run([*command, "--gate", "min_sqnr=100 dB"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "error[E0302]" in done.stderr
