"""The stratified split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_models.data.split import stratified_split


def test_split_is_the_same_everywhere() -> None:
    # Expected by hand: PCG64(0) gives the raw words below (its stream is fixed by NEP 19); the three smallest keys of
    # each class go to eval.
    words = np.random.PCG64(0).random_raw(10)
    assert words[:2].tolist() == [11749869230777074271, 4976686463289251617]
    targets = np.array([0, 1] * 5)
    by_hand = sorted(
        index for label in (0, 1) for index in sorted(range(label, 10, 2), key=lambda i: int(words[i]))[:3]
    )
    train, held_out = stratified_split(targets, eval_rows=6, seed=0)
    assert held_out.tolist() == by_hand
    assert sorted([*train, *held_out]) == list(range(10))


def test_seeds_choose_different_rows() -> None:
    targets = np.arange(200) % 2
    chosen = [tuple(stratified_split(targets, eval_rows=50, seed=seed)[1]) for seed in range(5)]
    assert len(set(chosen)) == 5


def test_share_of_each_class_is_rounded_by_largest_remainder() -> None:
    targets = np.repeat([0, 1, 2], [52, 30, 19])  # 10 of 101 rows: 5.15, 2.97, 1.88
    _, held_out = stratified_split(targets, eval_rows=10, seed=3)
    assert np.bincount(targets[held_out]).tolist() == [5, 3, 2]


def test_rare_class_is_on_both_sides() -> None:
    targets = np.repeat([0, 1], [998, 2])
    train, held_out = stratified_split(targets, eval_rows=10, seed=0)
    assert np.bincount(targets[held_out]).tolist() == [9, 1]
    assert np.bincount(targets[train]).tolist() == [989, 1]


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63),
)
def test_every_possible_split_holds_its_promises(sizes: list[int], share: float, seed: int) -> None:
    targets = np.random.RandomState(seed % 1000).permutation(np.repeat(np.arange(len(sizes)), sizes))
    least, most = len(sizes), len(targets) - len(sizes)
    eval_rows = least + round(share * (most - least))
    train, held_out = stratified_split(targets, eval_rows=eval_rows, seed=seed)
    assert len(held_out) == eval_rows
    assert sorted([*train, *held_out]) == list(range(len(targets)))
    assert set(targets[train]) == set(targets[held_out]) == set(range(len(sizes)))


@pytest.mark.parametrize(("targets", "eval_rows"), [([0, 0, 1, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 1], 2)])
def test_impossible_split_is_refused(targets: list[int], eval_rows: int) -> None:
    with pytest.raises(ValueError, match="cannot split"):
        stratified_split(np.array(targets), eval_rows=eval_rows, seed=0)
