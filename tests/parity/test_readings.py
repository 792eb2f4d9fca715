"""Answers of every kind, against values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.metrics import Unit
from edgekit.parity.neighbours import neighbours
from edgekit.parity.numeric import grid_step, numeric_measures, spread
from edgekit.parity.readings import READERS, Reading, reading_of
from edgekit.parity.sequences import (
    best_spans,
    ctc_texts,
    edit_distance,
    first_divergence,
    greedy_tokens,
    span_overlap,
)
from edgekit_runtime.errors import UsageError


def read(reading, reference, values, names=()):
    found = READERS[reading](names).read(np.asarray(reference, float), np.asarray(values, float))
    return found, {each.name: each for each in found.measures}


def numeric(reference, values, *, step=0.5):
    found = numeric_measures(np.asarray(reference, float), np.asarray(values, float), unit=Unit.LOGITS, step=step)
    return {each.name: each for each in found}


def test_numbers_are_compared_by_hand():
    found = numeric([[3.0, 4.0], [0.0, 2.0]], [[3.0, 3.0], [1.0, 2.0]])
    assert found["sqnr"].value == pytest.approx(10 * math.log10(29 / 2))
    assert found["cosine"].value == pytest.approx((9 + 12 + 4) / (math.sqrt(29) * math.sqrt(23)))
    first, second = 21 / (5 * math.sqrt(18)), 4 / (2 * math.sqrt(5))
    assert found["cosine_mean"].value == pytest.approx((first + second) / 2)
    assert found["cosine_worst"].value == pytest.approx(second)
    assert found["max_difference"].value == 1.0
    assert found["mean_difference"].value == 0.5
    assert (found["max_steps"].value, found["max_steps"].unit) == (2.0, Unit.STEPS)
    assert found["mean_steps"].value == 1.0
    assert [name for name, each in found.items() if each.better == "higher"] == [
        *("sqnr", "cosine", "cosine_mean", "cosine_worst")
    ]


def test_one_nan_makes_every_number_nan():
    for wrong in (math.nan, math.inf):
        assert all(math.isnan(each.value) for each in numeric([[1.0, 2.0]], [[1.0, wrong]]).values())


def test_the_grid_without_a_scale_has_256_codes_over_the_answers_and_zero():
    assert grid_step(np.array([[1.0, 2.55]])) == pytest.approx(0.01)
    assert grid_step(np.array([[-1.0, 1.55]])) == pytest.approx(0.01)
    assert math.isnan(grid_step(np.array([[math.inf, 1.0]])))
    assert math.isnan(grid_step(np.zeros((2, 2))))


def test_spread_is_between_rows_and_not_within_them():
    assert spread(np.array([[1.0, 9.0], [1.0, 9.0]])) == 0.0
    assert spread(np.array([[1.0, 9.0], [3.0, 9.0]])) == pytest.approx(math.sqrt(0.5))


def test_flips_have_the_gap_between_both_classes_in_the_reference():
    reference = [[2.0, 1.0, 0.9], [0.0, 5.0, 4.9], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    lane = [[0.0, 0.0, 1.0], [0.0, 5.0, 5.1], [1.0, 0.0, 0.0], [1.0, math.nan, 0.0]]
    found, measures = read(Reading.DECISIONS, reference, lane)
    assert [(flip.row, flip.reference, flip.lane) for flip in found.flips] == [(0, 0, 2), (1, 1, 2), (3, 0, -1)]
    assert [flip.margin for flip in found.flips[:2]] == pytest.approx([1.1, 0.1])
    assert math.isnan(found.flips[2].margin)
    assert measures["changed"].value == 75.0
    assert math.isnan(measures["flip_margin"].value)
    assert list(found.changed) == [True, True, False, True]


def test_rows_with_nan_on_both_sides_do_not_agree():
    broken = np.array([[math.nan, 1.0], [1.0, 0.0]])
    found, measures = read(Reading.DECISIONS, broken, broken)
    assert list(found.changed) == [True, False]
    assert measures["changed"].value == 50.0


def test_the_interval_of_changed_rows_is_exact_and_in_points():
    _, measures = read(Reading.DECISIONS, np.eye(40, 2), np.eye(40, 2))
    assert measures["changed"].interval == (0.0, pytest.approx(100 * (1 - 0.025 ** (1 / 40))))
    assert measures["changed"].unit is Unit.POINTS
    assert "flip_margin" not in measures


def brute(reference, values, depth):
    """Overlap and rank by sorting all cosines, one row at a time."""
    overlaps, ranks = [], []
    for row in range(len(reference)):
        order = [nearest(reference, row), nearest(values, row)]
        overlaps.append(len(set(order[0][:depth]) & set(order[1][:depth])) / depth)
        ranks.append(order[1].index(order[0][0]) + 1)
    return overlaps, ranks


def nearest(side, row):
    def cosine(other):
        return side[row] @ side[other] / (np.linalg.norm(side[row]) * np.linalg.norm(side[other]))

    return sorted(set(range(len(side))) - {row}, key=cosine, reverse=True)


@pytest.mark.parametrize("depth", [1, 5, 10])
def test_neighbours_are_those_of_a_search_over_all_rows(depth):
    rng = np.random.default_rng(depth)
    reference = rng.normal(size=(40, 6))
    values = reference + rng.normal(0, 0.5, reference.shape)
    found = neighbours(reference, values)
    overlaps, ranks = brute(reference, values, depth)
    assert list(found.overlap[depth]) == overlaps
    assert list(found.rank) == ranks
    assert min(overlaps) < 1.0  # something has moved


def test_blocks_of_rows_do_not_change_what_is_found():
    rng = np.random.default_rng(7)
    reference = rng.normal(size=(600, 4))
    values = reference + rng.normal(0, 0.2, reference.shape)
    found = neighbours(reference, values)
    overlaps, ranks = brute(reference, values, 1)
    assert list(found.overlap[1]) == overlaps
    assert list(found.rank) == ranks


def test_vectors_without_direction_have_no_neighbours():
    found, measures = read(Reading.VECTORS, np.eye(4), np.zeros((4, 4)))
    assert (found.changed, measures) == (None, {})
    _, measures = read(Reading.VECTORS, np.eye(4) + 0.1, np.eye(4) + 0.1)
    assert measures["overlap_1"].value == 1.0
    assert "overlap_5" not in measures  # four rows have no five neighbours
    _, measures = read(Reading.VECTORS, np.eye(5) + 0.1, np.eye(5) + 0.1)
    assert "overlap_5" not in measures  # nor have five: a row is not its own


def every_span(row):
    half = len(row) // 2
    return max(
        ((first, last) for first in range(half) for last in range(first, half)),
        key=lambda span: row[span[0]] + row[half + span[1]],
    )


@given(st.integers(0, 10_000))
def test_the_best_span_is_the_best_of_all_spans(seed):
    logits = np.random.default_rng(seed).normal(size=(5, 12))
    assert [tuple(span) for span in best_spans(logits)] == [every_span(row) for row in logits]


def test_span_overlap_by_hand():
    reference = np.array([[2, 5], [2, 5], [0, 0], [-1, -1]])
    spans = np.array([[4, 7], [2, 5], [1, 3], [0, 1]])
    assert list(span_overlap(reference, spans)) == [0.5, 1.0, 0.0, 0.0]  # 2 shared of 4 and 4


def test_spans_match_exactly_or_not():
    start, end = np.zeros((3, 4)), np.zeros((3, 4))
    start[:, 1], end[:, 2] = 9.0, 9.0
    reference = np.concatenate([start, end], 1)
    values = reference.copy()
    values[1, 4 + 3] = 20.0  # the last place moves from 2 to 3
    values[2, 0] = math.nan
    found, measures = read(Reading.SPANS, reference, values)
    assert measures["span_match"].value == pytest.approx(100 / 3)
    assert measures["changed"].value == pytest.approx(200 / 3)
    assert measures["span_overlap"].value == pytest.approx(100 * (1 + 2 * 2 / 5 + 0) / 3)
    assert list(found.changed) == [False, True, True]
    assert list(READERS[Reading.SPANS](()).scores(reference, np.array([[1, 2], [1, 3], [1, 2]]))) == [1, 0, 1]
    with pytest.raises(UsageError):
        read(Reading.SPANS, np.zeros((1, 3)), np.zeros((1, 3)))


def one_hot(tokens, vocabulary):
    return np.eye(vocabulary)[np.asarray(tokens)].reshape(len(tokens), -1)


def test_the_first_token_that_differs_is_found():
    reference = np.array([[1, 2, 3], [1, 2, 3], [0, 0, 0], [1, -1, 1]])
    tokens = np.array([[1, 2, 3], [1, 0, 0], [1, 0, 0], [1, -1, 1]])
    assert list(first_divergence(reference, tokens)) == [3, 1, 0, 1]


def test_tokens_are_read_place_by_place():
    reference, values = one_hot([[1, 2], [0, 1], [2, 2]], 3), one_hot([[1, 2], [0, 2], [0, 0]], 3)
    assert greedy_tokens(reference, 3).tolist() == [[1, 2], [0, 1], [2, 2]]
    _, measures = read(Reading.TOKENS, reference, values, ("a", "b", "c"))
    assert measures["first_divergence"].value == pytest.approx((2 + 1 + 0) / 3)
    assert measures["same_tokens"].value == pytest.approx(100 / 3)
    reader = READERS[Reading.TOKENS](("a", "b", "c"))
    assert list(reader.scores(values, np.array([[1, 2], [0, 1], [2, 2]]))) == [1.0, 0.5, 0.0]
    assert reader.texts(values, [1]) == ["a c"]
    with pytest.raises(UsageError):
        reader.read(np.zeros((1, 4)), np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("reference", "given", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distances_by_hand(reference, given, edits):
    assert edit_distance(reference, given) == edits
    assert edit_distance(given, reference) == edits


@given(st.text("ab", max_size=6), st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_an_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_ctc_drops_repeats_and_then_blanks():
    assert ctc_texts(np.array([[1, 1, 0, 1, 2, 2, 0]]), "-ab") == ["aab"]
    assert ctc_texts(np.array([[0, 0], [1, -1]]), "-ab") == ["", "a\N{REPLACEMENT CHARACTER}"]


def test_character_and_word_errors_are_of_all_rows_together():
    alphabet = "_ab "
    reference = one_hot([[1, 2, 3, 1], [1, 0, 0, 0]], 4)  # "ab a", "a"
    values = one_hot([[1, 1, 3, 1], [2, 0, 0, 0]], 4)  # "a a", "b"
    found, measures = read(Reading.TEXT, reference, values, alphabet)
    assert measures["cer"].value == pytest.approx(100 * (1 + 1) / (4 + 1))
    assert measures["wer"].value == pytest.approx(100 * (1 + 1) / (2 + 1))
    assert list(found.changed) == [True, True]
    reader = READERS[Reading.TEXT](alphabet)
    assert list(reader.scores(values, ["ab a", "a"])) == [0.75, 0.0]
    assert reader.texts(values, [0]) == ["a a"]
    silent = one_hot([[0, 0, 0, 0]], 4)
    assert math.isnan(read(Reading.TEXT, silent, one_hot([[1, 0, 0, 0]], 4), alphabet)[1]["cer"].value)


@pytest.mark.parametrize(
    ("reading", "targets"),
    [
        (Reading.DECISIONS, [0.5, 1.0]),
        (Reading.DECISIONS, [0]),
        (Reading.SPANS, [0, 1]),
        (Reading.NUMBERS, [0, 1]),
        (Reading.VECTORS, [0, 1]),
        (Reading.TEXT, [0, 1]),
    ],
)
def test_right_answers_of_another_kind_are_refused(reading, targets):
    with pytest.raises(UsageError) as caught:
        READERS[reading](("a", "b")).scores(np.eye(2), targets)
    assert caught.value.code == "E0166"


def test_every_reading_has_a_reader_and_every_task_a_reading():
    assert set(READERS) == set(Reading)
    tasks = ("text-classification", "image-classification", "text-embedding", "tensors")
    assert [reading_of(task) for task in tasks] == [
        *(Reading.DECISIONS, Reading.DECISIONS, Reading.VECTORS, Reading.NUMBERS)
    ]
