"""What may stand after --on, and what answers behind it."""

import json

import numpy as np
import pytest
import tiny_bundles

from edgekit.lanes.base import Question
from edgekit.lanes.opened import default_lanes, open_lanes
from edgekit_runtime.bundle import verify
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.evidence import document
from edgekit_runtime.model import Model
from edgekit_runtime.rows import RawRows


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "text.edge"
    tiny_bundles.write_text_bundle(path)
    return Question(path=path, bundle=verify(path), rows=RawRows(texts=("good film", "bad film", "good good")))


def test_lane_of_this_machine_answers_with_its_own_name(question):
    (lane,) = open_lanes("onnx-fp32", question.bundle)
    evidence = lane.answer(question)
    assert (evidence.lane, evidence.engine, evidence.precision) == ("onnx-fp32", "onnxruntime", "float32")
    assert evidence.outputs.tolist() == [[0, 1], [1, 0], [0, 2]]
    assert evidence.cost.peak_rss_mib is None


def test_unknown_names_say_what_is_known(question):
    for spec, word in [
        ("onnx-int4", "arm:cortex-a72"),
        ("tflite-int8:onnxruntime", "litert-builtin"),
        ("onnx-int8:nonsense", "onnxruntime"),
        ("", "torch"),
    ]:
        with pytest.raises(UsageError) as caught:
            open_lanes(spec, question.bundle)
        assert caught.value.code == "E0126"
        assert word in caught.value.why


def test_default_lanes_leave_out_what_the_bundle_has_no_format_for(question, tmp_path):
    assert default_lanes(question.bundle) == ("torch", "torch-int8-dynamic", "onnx-fp32")
    tiny_bundles.write_image_bundle(tmp_path / "image.edge")
    assert default_lanes(verify(tmp_path / "image.edge")) == ("torch", "onnx-fp32")


def test_lane_that_the_build_did_not_keep_says_where_it_looked(question):
    (lane,) = open_lanes("torch", question.bundle)
    with pytest.raises(MissingError) as caught:
        lane.answer(question)
    assert caught.value.code == "E0641"


def saved(question, path, **changes):
    with Model(question.bundle, engine="onnxruntime") as model:
        (lane,) = open_lanes("onnx-fp32", question.bundle)
        held = document(model, question.rows, [lane.answer(question)], source="a file")
    path.write_text(json.dumps({**held, **changes}))
    return str(path)


def test_evidence_file_is_a_lane_named_after_file_and_lane(question, tmp_path):
    (lane,) = open_lanes(saved(question, tmp_path / "pi.json"), question.bundle)
    assert lane.name == "pi.json/onnx-fp32"
    evidence = lane.answer(question)
    assert evidence.lane == lane.name
    np.testing.assert_array_equal(evidence.outputs, [[0, 1], [1, 0], [0, 2]])


def test_evidence_of_another_bundle_or_of_other_rows_is_refused(question, tmp_path):
    file = saved(question, tmp_path / "pi.json")
    other = Question(path=question.path, bundle=question.bundle, rows=RawRows(texts=("good film",)))
    with pytest.raises(UsageError) as caught:
        open_lanes(file, question.bundle)[0].answer(other)
    assert caught.value.code == "E0185"
    tiny_bundles.write_image_bundle(tmp_path / "image.edge")
    image = verify(tmp_path / "image.edge")
    with pytest.raises(UsageError) as caught:
        open_lanes(file, image)[0].answer(Question(path=question.path, bundle=image, rows=question.rows))
    assert caught.value.code == "E0184"


def test_file_that_is_no_evidence_is_refused(question, tmp_path):
    path = tmp_path / "x.json"
    for content in ("[]", "{", '{"format": "edgekit-evidence", "schema": 2}', '{"format": "edgekit-evidence"}'):
        path.write_text(content)
        with pytest.raises(UsageError) as caught:
            open_lanes(str(path), question.bundle)
        assert caught.value.code == "E0183"
    saved(question, path, lanes=[{"lane": "x"}])
    with pytest.raises(UsageError) as caught:
        open_lanes(str(path), question.bundle)
    assert "damaged" in caught.value.what
    with pytest.raises(MissingError):
        open_lanes(str(tmp_path / "absent.json"), question.bundle)
