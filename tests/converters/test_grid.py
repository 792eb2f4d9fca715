"""Scales, zero points and codes, by hand and against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit_converters.quantize.grid import Range, bias_codes, bias_room, grid_of, weight_grid
from edgekit_runtime.errors import ConversionError

FLOATS = st.floats(-1e4, 1e4, width=32)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 1.55, 0.01, 100),  # 2.55 in 255 steps; 0 lies 100 steps above the bottom
        (0.0, 2.55, 0.01, 0),
        (-2.55, 0.0, 0.01, 255),
        (1.0, 5.1, 0.02, 0),  # 0 is drawn in from below
        (-5.1, -1.0, 0.02, 255),  # and from above
        (-0.5, 2.05, 0.01, 50),
        (0.0, 0.0, 1e-9, 0),  # a tensor that is always 0
    ],
)
def test_scale_and_zero_point_by_hand(low, high, scale, zero_point) -> None:
    for kind, shift in (("uint8", 0), ("int8", 128)):
        found, zero = grid_of(Range(low, high), kind)
        assert found == pytest.approx(scale, rel=1e-6)
        assert found.dtype == np.float32
        assert zero == zero_point - shift


@given(low=FLOATS, width=st.floats(0, 1e4, width=32))
def test_uint8_and_int8_stand_on_one_grid_that_holds_the_range(low, width) -> None:
    seen = Range(low, low + width)
    (scale, unsigned), (same, signed) = grid_of(seen, "uint8"), grid_of(seen, "int8")
    assert scale == same > 0
    assert unsigned - signed == 128
    assert 0 <= unsigned <= 255
    bottom, top = -unsigned * float(scale), (255 - unsigned) * float(scale)
    half = float(scale) * 0.51
    assert bottom - half <= min(seen.low, 0.0)
    assert top + half >= max(seen.high, 0.0)


def test_ranges_merge_to_the_true_minimum_and_maximum() -> None:
    parts = [np.array([0.1, 0.2], np.float32), np.array([-3.0], np.float32), np.array([0.0, 7.0], np.float32)]
    merged = Range.of(parts[0], name="x")
    for part in parts[1:]:
        merged = merged.merge(Range.of(part, name="x"))
    assert merged == Range(-3.0, 7.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_range_that_is_not_finite_is_refused(value) -> None:
    with pytest.raises(ConversionError) as caught:
        Range.of(np.array([1.0, value, 2.0], np.float32), name="layer_3")
    assert caught.value.code == "E0730"
    assert "layer_3" in caught.value.what


@given(
    weight=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), elements=FLOATS),
    axis=st.integers(0, 2),
)
def test_weight_codes_are_the_nearest_of_their_channel(weight, axis) -> None:
    codes, scale = weight_grid(weight, axis=axis)
    assert codes.dtype == np.int8
    assert scale.shape == (weight.shape[axis],)
    for channel in range(weight.shape[axis]):
        values = np.take(weight, channel, axis)
        largest = max(abs(float(v)) for v in values.ravel())
        step = float(scale[channel])
        assert step == pytest.approx(max(largest, 1e-9) / 127, rel=1e-6)
        for value, code in zip(values.ravel(), np.take(codes, channel, axis).ravel(), strict=True):
            best = min(abs(float(value) - k * step) for k in range(-127, 128))
            assert abs(float(value) - int(code) * step) <= best + 1e-6 * step
            assert -127 <= code <= 127


def test_weights_by_hand() -> None:
    weight = np.array([[1.27, -0.635, 0.0], [0.0, 0.0, 0.0]], np.float32)
    codes, scale = weight_grid(weight, axis=0)
    np.testing.assert_allclose(scale, [0.01, 1e-9 / 127], rtol=1e-6)
    assert codes[0, 0] == 127
    assert codes[0, 1] in (-63, -64)  # 63.5 lies between two codes
    assert not codes[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value) -> None:
    with pytest.raises(ConversionError) as caught:
        weight_grid(np.array([[1.0, value]], np.float32), axis=0)
    assert caught.value.code == "E0732"


def test_bias_codes_by_hand() -> None:
    bias = np.array([0.5, -0.25, 1e9], np.float32)
    codes, scale = bias_codes(
        bias, activation_scale=np.float32(0.5), weight_scale=np.array([0.25, 0.5, 0.5], np.float32)
    )
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, [4, -1, 2**31 - 1])
    np.testing.assert_array_equal(scale, np.array([0.125, 0.25, 0.25], np.float32))


@given(bias=FLOATS, activation_scale=st.floats(1e-9, 1e3), weight=st.floats(0, 1, width=32))
def test_no_bias_is_cut_off(bias, activation_scale, weight) -> None:
    """Also of a channel with no weights to speak of, and behind a tensor that is always 0."""
    step, bias = np.float32(activation_scale), np.array([bias], np.float32)
    room = bias_room(bias, activation_scale=step)
    _, scale = weight_grid(np.maximum(np.array([[weight]], np.float32), 127 * room), axis=0)
    codes, bias_scale = bias_codes(bias, activation_scale=step, weight_scale=scale)
    assert abs(int(codes[0])) <= 2**30 + 2**8
    unit = float(step) * float(scale[0])
    assert abs(int(codes[0]) * unit - float(bias[0])) <= 0.5 * unit + 1e-6 * abs(float(bias[0]))
    assert bias_scale[0] == pytest.approx(unit, rel=1e-6)
