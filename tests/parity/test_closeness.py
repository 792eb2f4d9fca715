"""How close answers are: values by hand."""

import math

import numpy as np
import pytest

from edgekit.parity.closeness import Closeness, Limits, closeness, misses
from edgekit_runtime.errors import UsageError

SQUARE = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 0.1]])


def test_cosine_of_each_row_and_not_of_all_entries_together() -> None:
    turned = SQUARE.copy()
    turned[1] = [2.0, 2.0]  # 45 degrees; its length does not matter
    found = closeness(turned, SQUARE, task="text-embedding")
    assert found.rows == 4
    assert found.cosine_worst == pytest.approx(math.sqrt(0.5))
    assert found.cosine_mean == pytest.approx((3 + math.sqrt(0.5)) / 4)
    # signal 1 + 4 + 18 + 1.01, noise 4
    assert found.sqnr_db == pytest.approx(10 * math.log10(24.01 / 4))


def test_neighbours_that_changed_are_counted() -> None:
    # Nearest: rows 0 and 3 are each other's, row 2 is the nearest of row 1, row 3 that of row 2.
    moved = SQUARE.copy()
    moved[3] = [-1.0, 0.0]  # now row 2 is the nearest of row 0 (0.71 against 0 and -1), and row 1 that of rows 2 and 3
    found = closeness(moved, SQUARE, task="text-embedding")
    assert found.nearest_all == 0.25  # only row 1 keeps its neighbour
    assert found.nearest_blocks == 0.25
    assert closeness(SQUARE, SQUARE, task="text-embedding").nearest_all == 1.0
    assert found.changed is None


def test_neighbours_are_looked_for_within_blocks_of_150_rows() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 8))
    values = reference.copy()
    values[150:] = values[150:][::-1]  # within the second block neighbours move, within the first they stay
    found = closeness(values, reference, task="text-embedding")
    assert 0.5 <= found.nearest_blocks < 0.6


def test_decisions_are_counted_for_classifiers_alone() -> None:
    flipped = SQUARE[:, ::-1]
    assert closeness(flipped, SQUARE, task="text-classification").changed == 3  # the third row is a tie: first wins
    assert closeness(flipped, SQUARE, task="tensors").changed is None


def test_nan_and_a_row_without_direction_pass_no_bound() -> None:
    for wrong in (np.nan, 0.0):
        values = SQUARE.copy()
        values[0] = wrong
        found = closeness(values, SQUARE, task="text-embedding")
        assert math.isnan(found.cosine_mean)
        assert found.nearest_all is None
        assert misses("onnx-int8", found, Limits(min_cosine=0.0))
        assert found.as_json()["cosine_mean"] == "nan"


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        closeness(SQUARE[:2], SQUARE, task="tensors")
    assert caught.value.code == "E0920"


def close(**changes) -> Closeness:
    return Closeness(**{"rows": 100, "cosine_mean": 0.999, "cosine_worst": 0.9, "sqnr_db": 30.0, **changes})


def test_int8_lanes_are_held_to_the_limits_and_float_lanes_to_60_db() -> None:
    limits = Limits(min_cosine=0.99, max_changed=0.02)
    assert misses("onnx-int8", close(), limits) == []
    (fault,) = misses("onnx-int8", close(cosine_mean=0.9899), limits)
    assert str(fault) == "onnx-int8: mean cosine is 0.9899; the limit is at least 0.99"
    assert misses("onnx-int8", close(changed=2), limits) == []
    (fault,) = misses("onnx-int8", close(changed=3), limits)
    assert fault.metric == "share of changed decisions"
    (fault,) = misses("tflite-fp32", close(), limits)
    assert fault.measured == "30.0 dB"
    assert misses("tflite-fp32", close(sqnr_db=60.0, cosine_mean=0.0), limits) == []
