"""Faults in what people write: a bound in another unit, and labels in another order."""

import json

import pytest
from fault_bundles import LABELS, edgekit, failed, parity
from planting import repacked


@pytest.mark.parametrize(
    ("gate", "code", "fix"),
    [
        ("max_changed=0.05", "E0168", "5 points"),
        ("min_relative_accuracy=0.99", "E0168", "99 %"),
        ("min_relative_accuracy=0.99 %", "E0169", "99 %"),
        ("min_relative_accuracy=99 fraction", "E0169", "99 %"),
        ("max_drop=1 %", "E0168", "points"),
        ("min_cosine=99.7", "E0169", "0.997"),
    ],
)
def test_a_fraction_where_a_percentage_is_meant_is_refused_before_anything_runs(photos, gate, code, fix):
    answer = parity(photos, "--gate", gate)
    assert answer.code == 2
    assert f"error[{code}]" in answer.err
    assert fix in answer.err.partition("fix:")[2]
    assert "rows" not in answer.err.partition("error[")[0]  # no lane was asked


def test_a_fraction_and_a_percentage_of_the_same_size_are_the_same_bound(photos):
    limits = []
    for gate in ("max_changed=0.02 fraction", "max_changed=2 %", "max_changed=2 points"):
        results = parity(photos, "--on", "tflite-int8", "--gate", gate).json["verdict"]["results"]
        limits += [each["limit"] for each in results if each["gate"] == "max_changed"]
    assert limits == [{"value": 2.0, "unit": "points"}] * 3


def test_two_labels_that_change_places_let_nothing_pass(photos, tmp_path):
    swapped = ["temple", "sky", *LABELS[2:]]
    bundle = repacked(photos, tmp_path, {"labels.json": json.dumps(swapped).encode()})
    answer = parity(bundle)
    assert answer.code == 3
    assert "error[E0305]" in answer.err
    (fault,) = answer.json["verdict"]["reference_faults"]
    assert "sky" in fault
    assert "temple" in fault
    assert failed(answer) == set()  # all lanes agree with a reference that is read wrongly


def test_swapped_labels_are_seen_on_images_of_the_user(photos, tmp_path):
    import numpy as np
    from PIL import Image

    lanes = photos.with_suffix(".lanes") / "data"
    images, targets = np.load(lanes / "eval_inputs.npy"), np.load(lanes / "eval_targets.npy")
    for label in LABELS:
        (tmp_path / "own" / label).mkdir(parents=True)
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        Image.fromarray(image).save(tmp_path / "own" / LABELS[target] / f"{place}.png")
    swapped = repacked(photos, tmp_path, {"labels.json": json.dumps(["sky", "temple", "petal", "leaf"]).encode()})
    codes = [
        edgekit("parity", path, "--on", "onnx-int8", "--data", "own", cwd=tmp_path).code for path in (photos, swapped)
    ]
    assert codes == [0, 3]
