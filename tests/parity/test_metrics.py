"""Typed values: units are never taken for one another, and NaN meets no bound."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.metrics import Measure, Quantity, Unit
from edgekit_runtime.errors import UsageError


def measure(value, *, unit=Unit.POINTS, better="lower", interval=None):
    return Measure(name="changed", value=value, unit=unit, better=better, interval=interval, n=40)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("2 points", 2.0, Unit.POINTS),
        ("0.5pt", 0.5, Unit.POINTS),
        ("25 dB", 25.0, Unit.DECIBEL),
        ("25 db", 25.0, Unit.DECIBEL),
        ("99 %", 99.0, Unit.PERCENT),
        ("99%", 99.0, Unit.PERCENT),
        (".99 fraction", 0.99, Unit.FRACTION),
        ("-3e-1 cosine", -0.3, Unit.COSINE),
        ("1 step", 1.0, Unit.STEPS),
    ],
)
def test_a_quantity_is_read_with_its_unit(text, value, unit):
    assert Quantity.parse(text) == Quantity(value, unit)


@pytest.mark.parametrize("text", ["0.5", "5 apples", "points", "", "nan dB", "1 2 points", "0x1 dB", "inf dB"])
def test_a_number_without_a_known_unit_is_refused(text):
    with pytest.raises(ValueError, match=r"unit|number"):
        Quantity.parse(text)


@pytest.mark.parametrize("unit", [unit for unit in Unit if unit is not Unit.FRACTION])
def test_a_fraction_is_compared_with_no_other_unit(unit):
    with pytest.raises(UsageError) as caught:
        measure(0.004, unit=Unit.FRACTION).meets(Quantity(0.5, unit))
    assert caught.value.code == "E0165"


def test_a_bare_number_is_told_why_it_is_refused():
    with pytest.raises(ValueError, match="could be half a point or a half"):
        Quantity.parse("0.5")


def test_shares_convert_only_where_it_is_asked_for():
    assert Quantity(0.05, Unit.FRACTION).to(Unit.PERCENT) == Quantity(5.0, Unit.PERCENT)
    assert Quantity(2.0, Unit.POINTS).to(Unit.FRACTION) == Quantity(0.02, Unit.FRACTION)
    assert Quantity(3.0, Unit.DECIBEL).to(Unit.DECIBEL).value == 3.0
    with pytest.raises(UsageError) as caught:
        Quantity(3.0, Unit.DECIBEL).to(Unit.PERCENT)
    assert caught.value.code == "E0165"


@given(st.floats(allow_nan=False), st.sampled_from(["higher", "lower"]))
def test_nan_meets_no_bound(limit, better):
    assert not measure(math.nan, better=better).meets(Quantity(limit, Unit.POINTS))
    assert not measure(math.nan, better=better, interval=(0.0, 0.0)).surely_meets(Quantity(limit, Unit.POINTS))
    assert not measure(0.0, better=better, interval=(math.nan, 0.0)).surely_meets(Quantity(0.0, Unit.POINTS))


def test_the_bound_itself_is_met_and_the_direction_is_the_measures():
    five = Quantity(5.0, Unit.POINTS)
    assert [measure(value).meets(five) for value in (4.9, 5.0, 5.1)] == [True, True, False]
    assert [measure(value, better="higher").meets(five) for value in (4.9, 5.0, 5.1)] == [False, True, True]


def test_only_an_interval_within_the_bound_is_sure():
    five = Quantity(5.0, Unit.POINTS)
    assert measure(1.0, interval=(0.0, 5.0)).surely_meets(five)
    assert not measure(1.0, interval=(0.0, 5.1)).surely_meets(five)
    assert not measure(9.0, better="higher", interval=(4.0, 12.0)).surely_meets(five)
    assert not measure(6.0, interval=(0.0, 4.0)).surely_meets(five)  # an interval without its own value
    assert measure(1.0).surely_meets(five)


def test_a_quantity_is_never_nan():
    with pytest.raises(ValueError, match="NaN"):
        Quantity(math.nan, Unit.POINTS)


ends = st.floats(width=32)


@given(ends, ends, st.sampled_from(list(Unit)), st.sampled_from(["higher", "lower"]))
def test_a_measure_survives_json_with_nan_and_infinity(value, end, unit, better):
    one = Measure(name="x", value=value, unit=unit, better=better, interval=(end, value), n=3)
    back = Measure.from_json(json.loads(json.dumps(one.as_json(), allow_nan=False)))
    assert repr(back) == repr(one)  # NaN is not equal to itself


@pytest.mark.parametrize(
    "change", [{"value": "many"}, {"value": True}, {"unit": "furlong"}, {"better": "sideways"}, {"interval_95": [1]}]
)
def test_json_that_is_no_measure_is_refused(change):
    with pytest.raises((ValueError, IndexError)):
        Measure.from_json({**measure(1.0).as_json(), **change})
