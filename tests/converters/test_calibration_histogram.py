"""The histogram of a stream against direct counting, in any order and any cut."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.quantize.calibration.histogram import AdaptiveHistogram

BINS = 64
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ORDINARY = st.one_of(st.just(0.0), st.floats(-8, 8, width=32), st.integers(-40, 40).map(float))


def histogram_of(*parts: list[float], bins: int = BINS) -> AdaptiveHistogram:
    histogram = AdaptiveHistogram(bins)
    for part in parts:
        values = torch.tensor(part, dtype=torch.float32)
        histogram.add(values, float(values.min()), float(values.max()))
    return histogram


def counted_directly(values: list[float], width: Fraction) -> dict[int, int]:
    """The bin of each value in exact arithmetic."""
    found: dict[int, int] = {}
    for value in values:
        place = math.floor(Fraction(value) / width)
        found[place] = found.get(place, 0) + 1
    return found


def bins_of(histogram: AdaptiveHistogram) -> dict[int, int]:
    return {histogram.first + i: int(count) for i, count in enumerate(histogram.counts) if count}


def all_of(histogram: AdaptiveHistogram) -> tuple[object, ...]:
    return tuple((key, array.tobytes()) for key, array in histogram.state().items())


def test_histogram_grows_by_adding_up_pairs_of_bins_by_hand() -> None:
    histogram = histogram_of([0.0, 0.9, 0.9, -0.5])
    # 64 bins of 1/32 hold -0.5 (bin -16) to 0.9 (bin 28); 1/64 would need -32 to 57.
    assert histogram.width == 1 / 32
    assert bins_of(histogram) == {-16: 1, 0: 1, 28: 2}
    more = torch.tensor([3.25, -0.01])
    histogram.add(more, -0.01, 3.25)
    # -0.5 to 3.25 in bins of 1/16: -8 to 52.
    assert histogram.width == 1 / 16
    assert bins_of(histogram) == {-8: 1, -1: 1, 0: 1, 14: 2, 52: 1}
    assert (histogram.zeros, histogram.total) == (1, 6)
    assert (histogram.low, histogram.high) == (-0.5, 3.25)


@given(values=st.lists(FINITE, min_size=1, max_size=30))
def test_every_float32_is_counted_in_the_bin_where_exact_arithmetic_puts_it(values) -> None:
    histogram = histogram_of(*([value] for value in values))
    assert bins_of(histogram) == counted_directly(values, Fraction(2) ** histogram.exponent)
    assert histogram.zeros == values.count(0.0)
    assert len(histogram.counts) <= BINS


@given(data=st.data(), values=st.lists(st.one_of(ORDINARY, FINITE), min_size=1, max_size=40))
def test_histogram_is_bit_identical_in_any_order_and_any_cut(data, values) -> None:
    whole = histogram_of(values)
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(1, len(values)))
    parts = [shuffled[i : i + cut] for i in range(0, len(shuffled), cut)]
    assert all_of(histogram_of(*parts)) == all_of(whole)


@given(low=st.floats(0.01, 1e4), high=st.floats(0.01, 1e4))
def test_a_bin_is_narrower_than_two_parts_of_the_span(low, high) -> None:
    low, high = float(np.float32(low)), float(np.float32(high))
    for values, span in (([-low, high], low + high), ([high], high), ([-low], low)):
        assert histogram_of(values).width < 2 * span / (BINS - 1)


def test_negative_values_near_zero_stay_below_zero_however_wide_the_bins_are() -> None:
    # -1e-40 / 2**100 is -0 in float32, which would land in bin 0.
    for order in ([-1e-40, 3e38, -3e38], [3e38, -3e38, -1e-40]):
        assert bins_of(histogram_of(*([value] for value in order)))[-1] == 1


def test_tensor_larger_than_a_chunk_is_counted_whole() -> None:
    values = torch.linspace(-1.0, 1.0, 300_001)
    histogram = AdaptiveHistogram(BINS)
    histogram.add(values, -1.0, 1.0)
    expected = np.bincount(np.floor(values.double().numpy() * 16).astype(int) + 16)  # -16 to 16 in bins of 1/16
    assert histogram.width == 1 / 16
    assert histogram.counts.tolist() == expected.tolist()
    assert (histogram.total, histogram.zeros) == (300_001, int((values == 0).sum()))


def test_magnitudes_mirror_the_negative_bins_and_leave_zeros_out() -> None:
    histogram = histogram_of([-0.9, -0.1, 0.0, 0.0, 0.1, 0.5])
    # -0.9 to 0.5 in bins of 1/32: -29 to 16. |x| 0.9 is in bin 28, 0.1 in bin 3, 0.5 in bin 16.
    assert histogram.width == 1 / 32
    assert {i: int(n) for i, n in enumerate(histogram.magnitudes()) if n} == {3: 2, 16: 1, 28: 1}


@pytest.mark.parametrize("damage", ["negative", "shifted", "longer", "zeros"])
def test_state_that_contradicts_itself_is_refused(damage) -> None:
    state = histogram_of([-1.0, 0.0, 2.0]).state()
    counts, layout = state["counts"], state["layout"]
    if damage == "negative":
        counts[0] = -1
    elif damage == "shifted":
        layout[1] -= 1
    elif damage == "longer":
        state["counts"] = np.append(counts, 0)
    else:
        layout[2] = 2  # only one value is in the bin of 0
    with pytest.raises(ValueError, match="does not have bins"):
        AdaptiveHistogram(BINS).restore(state)
