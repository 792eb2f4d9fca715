import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgekit_runtime.errors import UsageError
from edgekit_runtime.statistics import (
    accuracy,
    changed_decisions,
    cosine,
    has_nan,
    is_constant,
    max_abs_difference,
    sqnr_db,
    wilson_interval,
)


def test_sqnr_by_hand():
    # signal 3^2 + 4^2 = 25, noise 0.5^2 = 0.25, ratio 100
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr_db(np.ones(3), np.ones(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


def test_cosine_by_hand():
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(1 / math.sqrt(2))
    assert cosine(np.array([1.0, 2.0]), np.array([-2.0, -4.0])) == pytest.approx(-1.0)
    assert math.isnan(cosine(np.zeros(2), np.ones(2)))


def test_max_abs_difference_by_hand():
    assert max_abs_difference(np.array([[1, 2]], np.uint8), np.array([[4, 1]], np.uint8)) == 3.0


@pytest.mark.parametrize("measure", [sqnr_db, cosine, max_abs_difference])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_are_never_hidden(measure, bad, side):
    arrays = [np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])]
    arrays[side][1] = bad
    assert math.isnan(measure(*arrays))


@pytest.mark.parametrize("measure", [sqnr_db, cosine, max_abs_difference])
def test_arrays_that_cannot_be_compared_are_refused(measure):
    for a, b in [((2,), (3,)), ((2, 1), (2,)), ((0,), (0,))]:
        with pytest.raises(UsageError):
            measure(np.ones(a), np.ones(b))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(pair):
    wanted = binomtest(*pair).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(*pair) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(pair):
    successes, trials = pair
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    assert low < high


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_what_is_no_share(successes, trials):
    with pytest.raises(UsageError):
        wilson_interval(successes, trials)


def test_accuracy_counts_a_row_with_nan_as_wrong():
    logits = np.array([[1.0, 2.0], [3.0, 0.0], [math.nan, 5.0], [0.0, 1.0]])
    assert accuracy(logits, np.array([1, 0, 1, 0])) == 0.5
    with pytest.raises(UsageError):
        accuracy(logits, np.array([1, 0]))
    with pytest.raises(UsageError):
        accuracy(logits[0], np.array([1]))


def test_changed_decisions_counts_nan_on_either_side():
    a = np.array([[1.0, 2.0], [3.0, 0.0], [math.nan, 5.0], [0.0, 1.0]])
    b = np.array([[1.0, 9.0], [0.0, 3.0], [math.nan, 5.0], [0.0, math.nan]])
    assert changed_decisions(a, b) == 3
    assert changed_decisions(a[:1], a[:1]) == 0


def test_constant_and_nan_outputs_are_seen():
    assert is_constant(np.array([[1.0, 2.0], [1.0, 2.0]]))
    assert not is_constant(np.array([[1.0, 2.0], [1.0, 2.1]]))
    assert not is_constant(np.array([[1.0, 2.0]]))
    assert has_nan(np.array([1.0, math.nan]))
    assert not has_nan(np.array([1, 2]))
