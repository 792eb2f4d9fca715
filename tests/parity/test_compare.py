"""All lanes against the reference: what is found, and that it survives JSON."""

import json
import math

import numpy as np
import pytest

from edgekit.parity.compare import Asked, Comparison, compare
from edgekit.parity.metrics import Unit
from edgekit.parity.readings import Reading
from edgekit.parity.rows import RowDifference, Thumbnail, raw_row, worst_places
from edgekit_runtime.errors import UsageError
from edgekit_runtime.rows import RawRows

TARGETS = np.arange(60) % 2
RIGHT = (np.eye(2)[TARGETS] * 4 - 2 + np.random.default_rng(0).normal(0, 0.1, (60, 2))).astype(np.float32)


def flipped(*rows, base=RIGHT):
    logits = base.copy()
    logits[list(rows)] = logits[list(rows)][:, ::-1]
    return logits


def compared(lane, *, base=RIGHT, targets=TARGETS, task="text-classification", **asked):
    lanes = {"torch": base, "onnx-int8": lane}
    return compare(lanes, Asked(task=task, targets=targets, **asked), reference="torch")


def test_accuracy_drop_and_share_are_counted_by_hand():
    lane = compared(flipped(0, 7, 11)).lane("onnx-int8")
    assert lane.accuracy.value == 0.95
    assert (lane.accuracy.unit, lane.accuracy.n) == (Unit.FRACTION, 60)
    assert lane.measure("drop").value == pytest.approx(5.0)
    assert lane.measure("drop").unit is Unit.POINTS
    assert lane.measure("relative_accuracy").value == pytest.approx(95.0)
    assert lane.measure("changed").value == 5.0
    assert (lane.test.kind, lane.test.only_reference, lane.test.only_lane) == ("mcnemar", 3, 0)
    assert lane.test.p_value == pytest.approx(0.25)  # 2 / 2^3


def test_the_relative_accuracy_is_of_the_reference_and_its_interval_that_of_the_drop():
    reference = flipped(1, 2, 3, 4, 5, 6)  # right on 54 of 60
    lane = compared(flipped(1, 2, 3, 4, 5, 6, 7, 8, 9), base=reference).lane("onnx-int8")
    relative, drop = lane.measure("relative_accuracy"), lane.measure("drop")
    assert relative.value == pytest.approx(100 * 51 / 54)
    assert relative.interval[0] == pytest.approx(100 - drop.interval[1] / 0.9)
    assert relative.interval[1] == pytest.approx(100 - drop.interval[0] / 0.9)


def test_a_better_lane_has_a_negative_drop():
    lane = compared(RIGHT, base=flipped(0, 1)).lane("onnx-int8")
    assert lane.measure("drop").value == pytest.approx(-100 * 2 / 60)
    assert lane.measure("relative_accuracy").value > 100


def test_without_labels_there_is_no_accuracy_and_all_else():
    lane = compared(flipped(0), targets=None).lane("onnx-int8")
    assert (lane.accuracy, lane.test, lane.measure("drop")) == (None, None, None)
    assert lane.measure("changed").value == pytest.approx(100 / 60)
    assert {each.kind for each in lane.slices} == {"class"}  # of the reference's answers


def test_the_reference_has_no_measures_of_itself():
    reference = compared(flipped(0)).lane("torch")
    assert (reference.measures, reference.slices, reference.worst_rows) == ((), (), ())
    assert reference.accuracy.value == 1.0


def test_steps_are_of_the_lanes_scale_or_of_a_grid_over_the_answers():
    reference = np.array([[0.0, 2.55], [1.0, 0.5]], np.float32)
    lane = reference + np.float32(0.1)
    for steps, wanted in (({}, 10.0), ({"onnx-int8": 0.05}, 2.0), ({"other": 0.05}, 10.0)):
        found = compared(lane, base=reference, targets=None, task="tensors", steps=steps).lane("onnx-int8")
        assert found.measure("max_steps").value == pytest.approx(wanted, rel=1e-5)


def test_chance_is_what_the_same_answers_give_when_dealt_out_at_random():
    # 45 of 60 rows of class 0, all answered 0: right on 75 %, and by chance as often
    targets = (np.arange(60) >= 45).astype(int)
    always = np.tile(np.float32([1, 0]), (60, 1)) * np.linspace(1, 2, 60, dtype=np.float32)[:, None]
    assert compared(always, base=always, targets=targets).chance == pytest.approx(0.75)
    # Answers as often 0 as 1: 0.5 * 0.75 + 0.5 * 0.25
    assert compared(RIGHT, targets=targets).chance == pytest.approx(0.5)
    assert compared(RIGHT, targets=np.zeros(60, int)).chance is None
    assert compared(RIGHT, targets=None).chance is None


def test_a_collapsed_lane_is_seen():
    rng = np.random.default_rng(0)
    one_answer = np.stack([np.zeros(60), np.linspace(1, 2, 60)], 1).astype(np.float32)
    for lane in (np.ones_like(RIGHT), 1 + 1e-4 * RIGHT, one_answer):
        assert compared(lane).lane("onnx-int8").collapsed
        assert compared(lane, targets=None).lane("onnx-int8").collapsed
    vectors = rng.normal(size=(30, 8)).astype(np.float32)
    narrow = vectors.mean(0) + 0.001 * vectors
    assert compared(narrow, base=vectors, targets=None, task="text-embedding").lane("onnx-int8").collapsed
    for lane in (flipped(0, 1, 2), 0.1 * RIGHT):
        assert not compared(lane).lane("onnx-int8").collapsed


def test_one_answer_is_right_where_all_rows_have_it():
    one_class = np.abs(RIGHT[:, :1]) * np.float32([1, -1]) + np.float32(3)
    assert not compared(one_class, base=one_class, targets=np.zeros(60, int)).lane("onnx-int8").collapsed
    nearly = one_class.copy()
    nearly[0] = nearly[0][::-1]  # one row of sixty should differ: no collapse when it does not
    assert not compared(one_class, base=nearly, targets=None).lane("onnx-int8").collapsed
    assert not compared(one_class[:9], base=RIGHT[:9], targets=TARGETS[:9]).lane("onnx-int8").collapsed


def test_nan_is_kept_and_is_the_worst_row():
    broken = flipped(4)
    broken[9, 0] = np.nan
    lane = compared(broken).lane("onnx-int8")
    assert not lane.finite
    assert lane.accuracy.value == pytest.approx(58 / 60)
    assert math.isnan(lane.measure("sqnr").value)
    assert [row.row for row in lane.worst_rows[:2]] == [9, 4]
    assert math.isnan(lane.worst_rows[0].difference)
    assert lane.worst_rows[0].lane == "nothing (NaN)"


def test_worst_rows_show_what_went_in_and_both_answers():
    texts = tuple(f"text {place}" for place in range(60))
    lane = compared(flipped(5), rows=RawRows(texts=texts), names=("bad", "good")).lane("onnx-int8")
    (row,) = lane.worst_rows
    assert (row.row, row.raw, row.target, row.changed) == (5, "text 5", "good", True)
    assert row.reference == f"good ({RIGHT[5].max():.3f})"
    assert row.lane == f"bad ({RIGHT[5].max():.3f})"
    assert row.difference == pytest.approx(abs(float(RIGHT[5, 0]) - float(RIGHT[5, 1])))


def test_changed_rows_come_before_larger_differences_and_only_20_are_kept():
    differences = np.linspace(0.1, 3.0, 30)
    changed = np.zeros(30, bool)
    changed[[2, 4]] = True
    assert worst_places(differences, changed)[:4] == [4, 2, 29, 28]
    assert len(worst_places(differences, None)) == 20
    assert worst_places(np.zeros(5), None) == []


def test_a_large_image_becomes_a_thumbnail_of_64_pixels_at_most():
    image = np.zeros((200, 100, 3), np.uint8)
    image[::4, ::4] = (1, 2, 3)
    small = raw_row(RawRows(arrays={"images": image[None]}), 0)
    assert (small.height, small.width, small.channels) == (50, 25, 3)
    assert small.pixels == bytes((1, 2, 3)) * (50 * 25)
    grey = raw_row(RawRows(arrays={"images": np.array([[[0.0, 0.5], [1.0, 0.25]]], np.float32)}), 0)
    assert grey == Thumbnail(height=2, width=2, channels=1, pixels=bytes((0, 127, 255, 63)))
    assert raw_row(RawRows(arrays={"x": np.zeros((1, 3))}), 0) is None


def test_a_long_text_is_cut_in_the_report():
    assert raw_row(RawRows(texts=("x" * 2001,)), 0) == "x" * 2000 + "..."
    assert raw_row(RawRows(texts=("x" * 2000,)), 0) == "x" * 2000


@pytest.mark.parametrize("task", ["text-classification", "text-embedding", "tensors"])
def test_one_row_is_compared_and_shows_no_collapse(task):
    found = compared(RIGHT[:1] + np.float32(0.01), base=RIGHT[:1], targets=None, task=task).lane("onnx-int8")
    assert found.finite
    assert not found.collapsed
    assert found.measure("max_difference").value == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "reading", "targets"),
    [
        ("text-classification", None, TARGETS),
        ("text-classification", None, None),
        ("text-embedding", None, None),
        ("tensors", None, None),
        ("tensors", Reading.SPANS, np.zeros((60, 2), int)),
        ("tensors", Reading.TOKENS, None),
        ("tensors", Reading.TEXT, ["ab"] * 60),
    ],
)
def test_every_comparison_survives_json(task, reading, targets):
    rng = np.random.default_rng(3)
    base = rng.normal(size=(60, 6)).astype(np.float32)
    lanes = {"torch": base, "a": base + rng.normal(0, 0.5, base.shape).astype(np.float32), "b": base.copy()}
    lanes["b"][3, 1] = np.nan
    asked = Asked(
        task=task,
        reading=reading,
        targets=targets,
        names=("_", "a", "b"),
        rows=RawRows(texts=tuple("text" * (1 + place % 7) for place in range(60))),
    )
    found = compare(lanes, asked, reference="torch")
    back = Comparison.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False)))
    assert repr(back) == repr(found)
    assert found.lane("a").slices
    with pytest.raises(ValueError, match="schema"):
        Comparison.from_json({**found.as_json(), "schema": 2})


def test_a_thumbnail_survives_json():
    picture = Thumbnail(height=1, width=2, channels=1, pixels=b"\x00\xff")
    row = RowDifference(
        row=1, raw=picture, reference="a", lane="b", target="", changed=True, difference=0.5, unit=Unit.LOGITS
    )
    assert RowDifference.from_json(json.loads(json.dumps(row.as_json()))) == row


@pytest.mark.parametrize(
    "wrong",
    [
        {"lane": RIGHT[:5]},
        {"lane": RIGHT[:, :1]},
        {"lane": RIGHT, "targets": TARGETS[:5]},
        {"lane": RIGHT, "rows": RawRows(texts=("a",))},
        {"lane": RIGHT.ravel(), "base": RIGHT.ravel()},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong):
    with pytest.raises(UsageError) as caught:
        compared(**wrong)
    assert caught.value.code == "E0920"


def test_a_reference_that_is_no_lane_is_refused():
    with pytest.raises(UsageError, match="no lane 'tflite'"):
        compare({"torch": RIGHT}, Asked(task="tensors"), reference="tflite")
