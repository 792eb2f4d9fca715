"""Held-out values against the calibrated range, counted by hand."""

import json

import pytest
import torch

from edgekit_converters.quantize.calibration.coverage import CoverageObserver, CoverageReport, TensorCoverage
from edgekit_converters.quantize.grid import Range
from edgekit_runtime.errors import ConversionError, UsageError


def covered(low: float, high: float, *rows: list[float], name: str = "x") -> TensorCoverage:
    observer = CoverageObserver(Range(low, high), name)
    for row in rows:
        observer.update(torch.tensor(row))
    return observer.coverage()


def test_clipped_values_are_counted_by_hand() -> None:
    found = covered(-1.0, 2.0, [-1.0, 2.0, 0.0, 1.5], [-1.5, 2.5, 3.0, 0.0])
    assert (found.values, found.below, found.above) == (8, 1, 2)
    assert (found.fraction_below, found.fraction_above, found.fraction_clipped) == (0.125, 0.25, 0.375)
    assert (found.held_out_low, found.held_out_high) == (-1.5, 3.0)
    assert (found.low, found.high) == (-1.0, 2.0)
    assert found.overshoot == pytest.approx(1 / 3)  # 3 is 1 outside a range of 3


def test_values_between_zero_and_the_range_are_not_clipped() -> None:
    # Every grid holds 0, so that of [1, 2] reaches from 0 to 2.
    positive = covered(1.0, 2.0, [0.5, 0.0, 1.5, -0.25])
    assert (positive.below, positive.above, positive.overshoot) == (1, 0, 0.125)
    negative = covered(-2.0, -1.0, [-0.5, 0.0, -1.5, 0.25])
    assert (negative.below, negative.above, negative.overshoot) == (0, 1, 0.125)


def test_range_of_a_tensor_that_was_always_zero_clips_all_others() -> None:
    found = covered(0.0, 0.0, [0.0, 1.0])
    assert (found.above, found.overshoot) == (1, float("inf"))
    assert covered(0.0, 0.0, [0.0]).overshoot == 0.0


def test_worst_tensors_come_first_and_whole_ones_not_at_all() -> None:
    report = CoverageReport(
        tensors=(
            covered(0.0, 1.0, [0.5, 1.0], name="whole"),
            covered(0.0, 1.0, [0.5, 0.5, 0.5, 1.5], name="quarter"),
            covered(0.0, 1.0, [0.5, 0.5, 0.5, 9.0], name="quarter, far"),
            covered(0.0, 1.0, [-1.0, 1.5], name="all"),
        )
    )
    assert [tensor.name for tensor in report.worst()] == ["all", "quarter, far", "quarter"]
    assert [tensor.name for tensor in report.worst(1)] == ["all"]


def test_report_is_json_with_its_figures() -> None:
    report = CoverageReport(tensors=(covered(-1.0, 1.0, [-2.0, 0.0, 0.5, 1.0], name="a"),))
    assert json.loads(json.dumps(report.as_json(), allow_nan=False)) == {
        "worst": ["a"],
        "tensors": [
            {
                "name": "a",
                "calibrated": [-1.0, 1.0],
                "held_out": [-2.0, 1.0],
                "values": 4,
                "fraction_below": 0.25,
                "fraction_above": 0.0,
            }
        ],
    }


def test_coverage_without_rows_and_of_values_that_are_not_finite_is_refused() -> None:
    observer = CoverageObserver(Range(0.0, 1.0), "x")
    with pytest.raises(UsageError) as unseen:
        observer.coverage()
    assert unseen.value.code == "E0135"
    with pytest.raises(ConversionError) as caught:
        observer.update(torch.tensor([0.0, float("nan")]))
    assert caught.value.code == "E0740"
    with pytest.raises(UsageError):
        observer.coverage()
