"""Intervals and paired tests against scipy's exact tests, brute force and hand-computed values."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from edgekit.parity.intervals import (
    bootstrap_mean,
    bootstrap_ratio,
    clopper_pearson,
    mcnemar,
    mean_of_shares,
    paired_bootstrap,
    rows_needed,
)
from edgekit_runtime.errors import UsageError


@given(st.integers(1, 400), st.data())
def test_the_exact_interval_is_scipys(trials, data):
    successes = data.draw(st.integers(0, trials))
    exact = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.97, 1.0])
def test_the_exact_interval_holds_the_share_in_95_percent_of_all_samples(share):
    trials = 30
    covered = sum(
        binom.pmf(hits, trials, share)
        for hits in range(trials + 1)
        if (ends := clopper_pearson(hits, trials))[0] <= share <= ends[1]
    )
    assert covered >= 0.95


def test_no_hit_in_40_rows_allows_for_8_8_percent():
    assert clopper_pearson(0, 40) == (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))
    assert clopper_pearson(40, 40)[1] == 1.0
    for wrong in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(UsageError):
            clopper_pearson(*wrong)


@pytest.mark.parametrize("bound", [0.5, 0.05, 0.01, 0.002])
def test_the_rows_that_a_bound_needs_are_the_fewest(bound):
    # 0.025^(1/n) >= 1 - bound  <=>  n >= ln 0.025 / ln(1 - bound)
    assert rows_needed(bound) == math.ceil(math.log(0.025) / math.log1p(-bound))


def test_rows_needed_with_hits_is_the_first_number_whose_interval_ends_below_the_bound():
    needed = rows_needed(0.05, share=0.02)
    assert clopper_pearson(math.ceil(0.02 * needed - 1e-9), needed)[1] <= 0.05
    assert clopper_pearson(math.ceil(0.02 * (needed - 1) - 1e-9), needed - 1)[1] > 0.05
    assert rows_needed(0.05, share=0.05) is None
    assert rows_needed(0.05, share=0.2) is None
    assert rows_needed(1.0) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_test_of_the_rows_that_only_one_has_right(pairs):
    reference, lane = (np.array(side) for side in zip(*pairs, strict=True))
    found = mcnemar(reference, lane)
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    assert (found.only_reference, found.only_lane) == (lost, won)
    exact = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert found.p_value == pytest.approx(exact)
    assert found.difference == pytest.approx((lost - won) / len(pairs))


def test_the_interval_of_a_paired_difference_is_bonett_and_prices_by_hand():
    # 98 rows, 7 lost, 1 won: (8/100, 2/100); 0.06 -+ 1.96 sqrt((0.10 - 0.0036) / 100)
    reference = np.array([True] * 7 + [False] + [True] * 90)
    lane = np.array([False] * 7 + [True] + [True] * 90)
    half = 1.959963984540054 * math.sqrt(0.0964 / 100)
    assert mcnemar(reference, lane).interval == pytest.approx((0.06 - half, 0.06 + half))
    same = mcnemar(lane, lane)
    assert same.interval[0] < 0 < same.interval[1]  # equal on these rows is no proof of equality


def test_the_paired_interval_holds_the_difference_in_about_95_percent_of_samples():
    rng, covered = np.random.default_rng(0), 0
    lost, won, rows = 0.06, 0.02, 200
    for _ in range(1000):
        draw = rng.random(rows)
        reference = draw > won
        lane = (draw < won) | (draw >= won + lost)
        low, high = mcnemar(reference, lane).interval
        covered += low <= lost - won <= high
    assert 930 <= covered <= 985


def test_the_bootstrap_of_three_rows_is_the_distribution_over_all_27_resamples():
    values = np.array([0.0, 0.0, 1.0])
    means = sorted(np.mean(choice) for choice in product(values, repeat=3))
    # P(mean = 0) = 8/27 and P(mean = 1) = 1/27 > 0.025, so both ends are sure
    assert (means[0], means[-1]) == (0.0, 1.0)
    assert bootstrap_mean(values) == (0.0, 1.0)


def test_the_bootstrap_has_the_width_of_the_normal_approximation_on_many_rows():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    low, high = bootstrap_mean(values)
    wanted = 2 * 1.96 * values.std() / math.sqrt(2000)
    assert low < values.mean() < high
    assert high - low == pytest.approx(wanted, rel=0.1)
    assert bootstrap_mean(values) == (low, high)  # the seed is fixed
    assert bootstrap_mean(values, seed=1) != (low, high)


def test_rows_that_all_agree_do_not_promise_certainty():
    assert mean_of_shares(np.ones(40)) == (pytest.approx(0.025 ** (1 / 40)), 1.0)
    assert mean_of_shares(np.zeros(40)) == (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))
    low, high = mean_of_shares(np.array([0.5, 1.0] * 20))
    assert 0.6 < low < 0.75 < high < 0.9


def test_nan_in_a_row_makes_the_interval_nan():
    assert all(math.isnan(end) for end in bootstrap_mean(np.array([1.0, math.nan])))
    assert all(math.isnan(end) for end in bootstrap_ratio(np.array([1.0]), np.array([0.0])))
    test = paired_bootstrap(np.array([1.0, math.nan]), np.ones(2))
    assert math.isnan(test.p_value)
    assert math.isnan(test.difference)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios():
    # 1 of 10 and 0 of 1000: every resample lies in {0, 1/1010, 0.1}
    assert bootstrap_ratio(np.array([1.0, 0.0]), np.array([10.0, 1000.0])) == (0.0, 0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_a_paired_bootstrap_finds_a_shift_and_no_shift(seed):
    rng = np.random.default_rng(seed)
    reference = rng.random(100)
    noise = rng.normal(0, 0.01, 100)
    noise -= noise.mean()
    found = paired_bootstrap(reference, reference - 0.1 + noise)
    assert found.difference == pytest.approx(0.1)
    assert found.p_value < 0.01
    assert found.interval[0] > 0.09
    assert paired_bootstrap(reference, reference + noise).p_value > 0.5
