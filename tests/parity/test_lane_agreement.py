"""The comparison of lanes and the verdict on it."""

import dataclasses

import numpy as np
import pytest

from edgekit.parity.agreement import compare_lanes, judge
from edgekit.recipe.spec import BudgetSpec
from edgekit.recipe.units import Points

TARGETS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
RIGHT = np.eye(2, dtype=np.float32)[TARGETS] * 4 - 2
STRICT = BudgetSpec(max_drop=Points(0.0), max_changed=Points(0.0))


def lanes(**others):
    return {"torch": RIGHT, **{name.replace("_", "-"): value for name, value in others.items()}}


def flipped(*rows):
    logits = RIGHT.copy()
    logits[list(rows)] *= -1
    return logits


def compared(**others):
    return compare_lanes(lanes(**others), TARGETS, reference="torch")


def test_a_lane_that_repeats_the_reference_passes_the_strictest_budget():
    result = compared(onnx_int8=RIGHT.copy(), onnx_fp32=RIGHT.copy())
    assert judge(result, STRICT) == []
    pair = result.agreement("onnx-int8")
    assert (pair.changed, pair.drop, pair.max_difference) == (0, Points(0.0), 0.0)
    assert pair.cosine == pytest.approx(1.0)


def test_drop_and_changed_rows_are_counted_by_hand():
    result = compared(onnx_int8=flipped(0, 3, 5))
    pair = result.agreement("onnx-int8")
    assert result.lane("onnx-int8").correct == 5
    assert pair.changed == 3
    assert pair.drop.value == pytest.approx(37.5)  # 3 of 8
    low, high = pair.changed_interval
    assert low < 3 / 8 < high


def test_a_lane_that_is_better_has_a_drop_below_zero():
    wrong_reference = {"torch": flipped(0), "onnx-int8": RIGHT}
    result = compare_lanes(wrong_reference, TARGETS, reference="torch")
    assert result.agreement("onnx-int8").drop.value == pytest.approx(-12.5)


@pytest.mark.parametrize(("allowed", "passes"), [(12.5, True), (12.4, False)])
def test_the_drop_is_compared_in_points_with_the_bound_included(allowed, passes):
    budget = BudgetSpec(max_drop=Points(allowed), max_changed=Points(100.0))
    faults = judge(compared(onnx_int8=flipped(0)), budget)
    assert (faults == []) is passes
    assert all(fault.metric == "accuracy drop" for fault in faults)


@pytest.mark.parametrize(("allowed", "passes"), [(25.0, True), (24.9, False)])
def test_changed_decisions_fail_even_when_accuracy_does_not(allowed, passes):
    # One row gets wrong and one that was wrong gets right: the accuracy stays.
    reference = flipped(0)
    result = compare_lanes({"torch": reference, "tflite-int8": flipped(1)}, TARGETS, reference="torch")
    assert result.agreement("tflite-int8").drop == Points(0.0)
    faults = judge(result, BudgetSpec(max_drop=Points(0.0), max_changed=Points(allowed)))
    assert (faults == []) is passes


def test_nan_fails_whatever_the_budget():
    broken = RIGHT.copy()
    broken[2, 1] = np.nan
    generous = BudgetSpec(max_drop=Points(100.0), max_changed=Points(100.0))
    result = compared(onnx_int8=broken)
    assert [fault.measured for fault in judge(result, generous)] == ["NaN or infinite"]
    assert result.lane("onnx-int8").correct == 7  # a row with NaN is not right by luck


def test_a_constant_output_fails_whatever_the_budget():
    generous = BudgetSpec(max_drop=Points(100.0), max_changed=Points(100.0))
    faults = judge(compared(tflite_int8=np.ones_like(RIGHT)), generous)
    assert [fault.measured for fault in faults] == ["the same for every row"]


def test_a_float_export_must_repeat_the_reference_to_60_db():
    noise = np.random.default_rng(0).standard_normal(RIGHT.shape).astype(np.float32)
    assert judge(compared(onnx_fp32=RIGHT + 1e-4 * noise), STRICT) == []
    faults = judge(compared(onnx_fp32=RIGHT + 1e-2 * noise), STRICT)
    assert [fault.metric for fault in faults] == ["SQNR of the float export"]


def test_size_and_latency_have_bounds_only_if_the_user_sets_them():
    result = compared(onnx_int8=RIGHT.copy())
    figures = {"size_mb": {"onnx-int8": 5.0}, "cpu_ms": {"onnx-int8": 3.0}}
    assert judge(result, STRICT, **figures) == []
    bounded = dataclasses.replace(STRICT, max_size_mb=4.9, max_latency_ms=2.9)
    assert [fault.metric for fault in judge(result, bounded, **figures)] == ["size", "CPU time"]
    unknown = {"size_mb": {"onnx-int8": float("nan")}}
    assert [fault.metric for fault in judge(result, bounded, **unknown)] == ["size"]


def test_json_holds_no_number_that_json_lacks():
    import json

    text = json.dumps(compared(onnx_int8=RIGHT.copy()).as_json(), allow_nan=False)
    assert json.loads(text)["agreements"]["onnx-int8"]["sqnr_db"] == "inf"


def test_a_model_that_has_collapsed_to_one_class_fails_whatever_the_budget():
    targets = np.tile(TARGETS, 2)
    reference = np.eye(2, dtype=np.float32)[targets]
    collapsed = np.stack([np.zeros(16), np.linspace(1, 2, 16)], 1).astype(np.float32)  # the logits do vary
    generous = BudgetSpec(max_drop=Points(100.0), max_changed=Points(100.0))
    result = compare_lanes({"torch": reference, "onnx-int8": collapsed}, targets, reference="torch")
    assert [fault.measured for fault in judge(result, generous)] == ["the same for every row"]
    few = compare_lanes({"torch": reference[:9], "onnx-int8": collapsed[:9]}, targets[:9], reference="torch")
    assert judge(few, generous) == []
    one_class = np.zeros(16, np.int64)
    same = compare_lanes({"torch": reference, "onnx-int8": collapsed}, one_class, reference="torch")
    assert judge(same, generous) == []
