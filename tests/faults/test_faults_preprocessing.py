"""Faults before the model: a device turns the same inputs into other tensors."""

import json

import pytest
from devices import changed_runtime, evidence_of
from fault_bundles import failed, parity
from planting import repacked

from edgekit_runtime.bundle import verify

IMAGE, TEXT = "preprocess/image.py", "preprocess/text.py"
BGR = (IMAGE, "image.reshape(self._shape), self._gain", "image.reshape(self._shape)[..., ::-1], self._gain")
# What OpenCV's and TensorFlow's bilinear filters do when they shrink.
NO_ANTIALIAS = (IMAGE, "support = max(step, 1.0)", "support = 1.0")
CASE = (TEXT, 'lowercase = bool(normalizer["lowercase"])', "lowercase = False")
ACCENTS = (TEXT, "if self._strip and code in tables.MARKS", "if False")


@pytest.mark.parametrize(
    ("name", "fault", "tensor"),
    [
        ("photos", BGR, "image"),
        ("photos", NO_ANTIALIAS, "image"),
        ("texts", CASE, "input_ids"),
        ("texts", ACCENTS, "input_ids"),
    ],
    ids=["bgr", "resize", "case", "accents"],
)
def test_other_preprocessing_on_a_device_fails_and_names_the_tensor(name, fault, tensor, tmp_path, request):
    bundle = request.getfixturevalue(name)
    evidence, code = evidence_of(bundle, changed_runtime(tmp_path / "runtime", *fault))
    assert code == 3  # the device itself says it, too
    answer = parity(bundle, "--on", evidence)
    assert answer.code == 3
    assert {"selftest", "preprocessing"} <= {gate for _, gate in failed(answer)}
    words = {each["gate"]: each["words"] for each in answer.json["verdict"]["results"]}
    assert words["preprocessing"].startswith(f"preprocessing: {tensor} differs in ")
    assert f"{tensor} differs by" in words["selftest"]


def test_a_rule_that_no_golden_exercises_is_seen_on_rows_of_the_user(texts, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"texts": ["The film.", "\uff21 slow story"]}))
    wide = (TEXT, "text = text.translate(self._clean)", "text = text.replace('\\uff21', 'b').translate(self._clean)")
    evidence, code = evidence_of(texts, changed_runtime(tmp_path / "runtime", *wide), "--rows", tmp_path / "rows.json")
    assert code == 0  # the goldens hold no such letter
    answer = parity(texts, "--on", evidence, "--data", tmp_path / "rows.json")
    assert answer.code == 3
    (words,) = (each["words"] for each in answer.json["verdict"]["results"] if each["gate"] == "preprocessing")
    assert words == "preprocessing: input_ids differs in 1 of 2 rows, first in row 1"


@pytest.mark.parametrize(
    ("name", "member", "old", "new"),
    [
        ("texts", "tokenizer.json", '"lowercase":true', '"lowercase":false'),
        ("photos", "preprocess.json", '"scale": 0.00392157', '"scale": 0.00396825'),
    ],
)
def test_other_rules_in_the_bundle_itself_fail_although_all_lanes_agree(name, member, old, new, tmp_path, request):
    path = request.getfixturevalue(name)
    text = verify(path).read(member).decode()
    plain = text.replace(" ", "").replace("\n", "") if member == "tokenizer.json" else text
    assert plain.count(old) == 1
    answer = parity(repacked(path, tmp_path, {member: plain.replace(old, new).encode()}))
    assert answer.code == 3
    assert failed(answer) == {(lane, "selftest") for lane in ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")}
