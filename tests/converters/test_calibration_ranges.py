"""Percentile, MSE and KL ranges against brute force that sees every value."""

import math

import numpy as np
import pytest
import torch

from edgekit_converters.quantize.calibration.entropy import divergences
from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram
from edgekit_converters.quantize.calibration.observers import make_observer
from edgekit_converters.quantize.calibration.spec import ObserverSpec
from edgekit_converters.quantize.grid import Range

COUNT = 20_011  # no percentile below falls on a whole rank


def sample(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(COUNT)
    made = {
        "normal": normal,
        "uniform": rng.uniform(-1, 1, COUNT),
        "relu": np.maximum(normal, 0),
        "laplace": rng.laplace(size=COUNT),
        "gelu": np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in 2 * normal]),
        "student": rng.standard_t(3, COUNT),
        "offset": 5 + normal,
        "negative": -np.abs(normal) - 0.3,
    }
    return made[kind].astype(np.float32)


KINDS = ("normal", "uniform", "relu", "laplace", "gelu", "student", "offset", "negative")


def range_of(spec: ObserverSpec, values: np.ndarray) -> Range:
    observer = make_observer(spec, "x")
    for part in np.array_split(values, 7):
        observer.update(torch.from_numpy(part))
    return observer.range()


def width_of(spec: ObserverSpec, values: np.ndarray) -> float:
    histogram = AdaptiveHistogram(spec.bins)
    histogram.add(torch.from_numpy(values), float(values.min()), float(values.max()))
    return histogram.width


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [80.0, 99.0, 99.9, 100.0])
def test_percentile_is_within_one_bin_of_numpy_on_all_values(kind, percentile) -> None:
    values = sample(kind)
    spec = ObserverSpec(method="percentile", percentile=percentile, bins=512)
    found, width = range_of(spec, values), width_of(spec, values)
    half = (100 - percentile) / 2
    low, high = np.percentile(values, half, method="lower"), np.percentile(values, 100 - half, method="higher")
    assert low - width <= found.low <= low
    assert high <= found.high <= high + width
    outside = (100 - percentile) / 200 * COUNT
    assert (values < found.low).sum() <= outside
    assert (values > found.high).sum() <= outside
    folded = range_of(ObserverSpec(method="percentile", percentile=percentile, bins=512, symmetric=True), values)
    end = np.percentile(np.abs(values), percentile, method="higher")
    assert end <= folded.high <= end + width
    assert folded.low == -folded.high


def test_percentile_cuts_nothing_off_a_few_values() -> None:
    values = np.linspace(-1, 3, 9_999, dtype=np.float32)  # 99.99 % of them leaves less than one
    assert range_of(ObserverSpec(method="percentile"), values) == Range(-1.0, 3.0)


def squared_error(values: np.ndarray, low: float, high: float, *, bits: int, symmetric: bool) -> float:
    """Quantise every value on the grid of a range and back."""
    x = values.astype(np.float64)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        scale = high / most
        return float(np.square(np.clip(np.rint(x / scale), -most, most) * scale - x).mean())
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 2**bits - 1
    scale = (high - low) / steps
    zero = np.rint(-low / scale)
    return float(np.square((np.clip(np.rint(x / scale) + zero, 0, steps) - zero) * scale - x).mean())


def best_error(values: np.ndarray, *, bits: int, symmetric: bool) -> float:
    """Try every pair of 40 thresholds on either side (256 where there is one side).

    On few values the best of so many fits the luck of their roundings: by up to 5 % on 2,000, by 1.6 % on 20,000.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric:
        ends = max(-low, high) * np.arange(1, 257) / 256
        return min(squared_error(values, -end, end, bits=bits, symmetric=True) for end in ends)
    sides = [
        np.zeros(1) if end == 0 else end * np.linspace(0, 1, 41 if low and high else 257)[1:] for end in (low, high)
    ]
    return min(squared_error(values, a, b, bits=bits, symmetric=False) for a in sides[0] for b in sides[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_mse_range_is_within_three_percent_of_the_best_pair_of_thresholds(kind, bits) -> None:
    values = sample(kind)
    for symmetric in (False, True):
        found = range_of(ObserverSpec(method="mse", bits=bits, symmetric=symmetric), values)
        error = squared_error(values, found.low, found.high, bits=bits, symmetric=symmetric)
        assert error <= 1.03 * best_error(values, bits=bits, symmetric=symmetric)


def test_mse_clips_a_heavy_tail_and_saves_error() -> None:
    values = sample("student")
    found = range_of(ObserverSpec(method="mse", bits=4), values)
    assert found.high < 0.5 * values.max()
    assert squared_error(values, found.low, found.high, bits=4, symmetric=False) < 0.5 * squared_error(
        values, float(values.min()), float(values.max()), bits=4, symmetric=False
    )


def test_exact_zeros_do_not_move_a_range_that_is_searched_for() -> None:
    values = sample("laplace")
    many = np.concatenate([np.zeros(10 * COUNT, np.float32), values])
    for method in ("mse", "entropy"):
        for symmetric in (False, True):
            spec = ObserverSpec(method=method, symmetric=symmetric)
            assert range_of(spec, many) == range_of(spec, values)


def slow_divergence(counts: list[int], levels: int, kept: int) -> float:
    """KL(P || Q) of one threshold, written out bin by bin."""
    p = [float(count) for count in counts[:kept]]
    p[-1] += sum(counts[kept:])
    q = [0.0] * kept
    for level in range(levels):
        group = [b for b in range(kept) if b * levels // kept == level]
        filled = [b for b in group if p[b] > 0]
        for b in filled:
            q[b] = sum(counts[b] for b in group) / len(filled)
    loss = 0.0
    for here, there in zip(p, q, strict=True):
        if here > 0:
            if there == 0:
                return math.inf
            loss += here / sum(p) * math.log(here / sum(p) / (there / sum(q)))
    return loss


@pytest.mark.parametrize("kind", ["laplace", "sparse", "gap", "one", "uniform"])
def test_divergences_equal_the_plain_definition_for_every_threshold(kind) -> None:
    rng = np.random.default_rng(3)
    bins, levels = 70, 16
    counts = {
        "laplace": np.bincount(np.minimum(rng.exponential(8, 3000).astype(int), bins - 1), minlength=bins),
        "sparse": rng.integers(0, 3, bins) * rng.integers(0, 2, bins),
        "gap": np.where((np.arange(bins) < 30) | (np.arange(bins) == bins - 1), 5, 0),
        "one": np.where(np.arange(bins) == 41, 9, 0),
        "uniform": np.full(bins, 4),
    }[kind].astype(np.int64)
    expected = [slow_divergence(counts.tolist(), levels, kept) for kept in range(levels, bins + 1)]
    np.testing.assert_allclose(divergences(counts, levels), expected, rtol=1e-9, atol=1e-12)
    assert np.isfinite(expected[-1])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["laplace", "gelu", "relu", "negative"])
def test_entropy_range_ends_at_the_threshold_with_the_least_divergence(kind, symmetric) -> None:
    values = sample(kind)
    spec = ObserverSpec(method="entropy", bits=5, bins=128, symmetric=symmetric)
    width = width_of(spec, values)
    inside = values[values != 0]
    places = np.where(inside > 0, np.floor(inside / width), np.ceil(-inside / width) - 1).astype(int)
    counts = np.bincount(places).tolist()
    levels = 32 if kind in ("relu", "negative") and not symmetric else 16
    losses = {kept * width: slow_divergence(counts, levels, kept) for kept in range(levels, len(counts) + 1)}
    end = min(min(losses, key=lambda t: (losses[t], -t)), float(np.abs(values).max()))
    found = range_of(spec, values)
    assert found == (Range(-end, end) if symmetric else Range(max(-end, values.min()), min(end, values.max())))


def test_entropy_clips_a_heavy_tail_and_leaves_a_uniform_tensor_whole() -> None:
    heavy = sample("student")
    found = range_of(ObserverSpec(method="entropy"), heavy)
    assert found.high < 0.75 * np.abs(heavy).max()
    even = np.linspace(-1, 1, 40_001, dtype=np.float32)
    assert range_of(ObserverSpec(method="entropy"), even) == Range(-1.0, 1.0)
    random = sample("uniform")
    kept = range_of(ObserverSpec(method="entropy"), random)
    assert min(-kept.low, kept.high) > 0.98


def test_entropy_keeps_an_outlier_beyond_a_gap() -> None:
    values = np.append(sample("normal"), np.float32(190))
    assert range_of(ObserverSpec(method="entropy"), values).high == 190.0


def test_entropy_without_more_bins_than_levels_keeps_everything() -> None:
    values = sample("student")
    assert range_of(ObserverSpec(method="entropy", bits=13), values) == Range(float(values.min()), float(values.max()))
