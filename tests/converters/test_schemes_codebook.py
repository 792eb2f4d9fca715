"""Codebooks: near the best possible k-means, the nearest entry for each weight, a table for each group of rows."""

import numpy as np
import pytest

from edgekit_converters.quantize.schemes.codebook import codebook, lloyd
from edgekit_runtime.errors import UsageError


def best_loss(values: np.ndarray, entries: int) -> float:
    """Least sum of squares of any partition of sorted values into runs (optimal in one dimension), by trying all."""
    ordered = np.sort(values).astype(np.float64)
    count = len(ordered)
    cost = np.zeros((count + 1, count + 1))
    for i in range(count):
        for j in range(i + 1, count + 1):
            cost[i, j] = np.square(ordered[i:j] - ordered[i:j].mean()).sum()
    least = np.full(count + 1, np.inf)
    least[0] = 0.0
    for _ in range(entries):
        least = np.array([min(least[i] + cost[i, j] for i in range(j + 1)) for j in range(count + 1)])
    return float(least[count])


def loss(values: np.ndarray, table: np.ndarray) -> float:
    return float(np.square(np.abs(values[:, None].astype(np.float64) - table).min(1)).sum())


@pytest.mark.parametrize("draw", ["normal", "standard_t", "uniform", "exponential"])
def test_lloyd_is_near_the_best_partition(draw) -> None:
    ratios = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        values = (rng.standard_t(3, 120) if draw == "standard_t" else getattr(rng, draw)(size=120)).astype(np.float32)
        ratios.append(loss(values, lloyd(values, 16)) / best_loss(values, 16))
    assert min(ratios) >= 1 - 1e-6
    assert max(ratios) < 1.25
    assert np.mean(ratios) < 1.12


def test_lloyd_ends_where_no_entry_wants_to_move() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    table = lloyd(values, 16)
    place = np.abs(values[:, None] - table).argmin(1)
    means = [values[place == entry].astype(np.float64).mean() for entry in range(16)]
    assert np.allclose(means, table, rtol=0, atol=1e-6)


def test_few_distinct_values_come_back_exactly() -> None:
    weight = np.random.default_rng(0).choice(np.array([-3, -1, 0, 0.5, 8], np.float32), size=(4, 30))
    coded = codebook(weight)
    assert np.array_equal(coded.dequantise(), weight)
    assert coded.table.shape == (1, 16)
    assert lloyd(weight, 16).tolist() == [-3, -1, 0, 0.5, 8]  # no entry that no weight has


@pytest.mark.parametrize("entries", [16, 256])
@pytest.mark.parametrize("rows", [None, 4, 1])
def test_every_weight_gets_the_nearest_entry_of_its_group(entries, rows) -> None:
    weight = np.random.default_rng(1).normal(size=(8, 300)).astype(np.float32)
    coded = codebook(weight, entries=entries, rows_per_table=rows)
    groups = 8 // (rows or 8)
    assert coded.table.shape == (groups, entries)
    decoded = coded.dequantise()
    for row in range(8):
        table = coded.table[row * groups // 8]
        assert np.array_equal(decoded[row], table[coded.codes[row]])
        nearest = np.abs(weight[row][:, None] - table).min(1)
        assert np.allclose(np.abs(weight[row] - decoded[row]), nearest, rtol=0, atol=1e-7)


def test_many_entries_come_near_the_limit_of_high_resolution() -> None:
    # Panter and Dite: the error of 256 optimal levels for a normal density is sqrt(3) pi / 2 / 256^2 of its variance.
    weight = np.random.default_rng(2).normal(size=(100, 2000)).astype(np.float32)
    error = np.square(weight - codebook(weight, entries=256).dequantise()).mean() / weight.var()
    assert error < 1.1 * np.sqrt(3) * np.pi / 2 / 256**2


def test_two_runs_give_the_same_table() -> None:
    weight = np.random.default_rng(3).normal(size=(16, 64)).astype(np.float32)
    assert np.array_equal(codebook(weight).table, codebook(weight.copy()).table)


@pytest.mark.parametrize("wrong", [{"entries": 15}, {"rows_per_table": 3}, {"rows_per_table": 0}])
def test_a_codebook_that_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(UsageError) as caught:
        codebook(np.ones((8, 8), np.float32), **wrong)
    assert caught.value.code == "E0159"
