"""Power-of-two weights: the table, the nearest entry, the bound, and what the search for a scale brings."""

import numpy as np

from edgekit_converters.quantize.schemes.power import POWER_TABLE, power_of_two

POSITIVE = [0, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64]


def weights(*, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, size=(8, 200)) * np.exp(rng.normal(size=(8, 1)))).astype(np.float32)


def test_table_is_zero_and_seven_powers_with_a_sign_bit() -> None:
    assert POWER_TABLE.tolist() == POSITIVE + [-value for value in POSITIVE]


def test_codes_of_a_row_by_hand() -> None:
    # Largest 8: the levels are 8, 4, 2, 1, 1/2, 1/4, 1/8. Halfway between 4 and 8 lies 6, between 0 and 1/8 lies 1/16.
    coded = power_of_two(np.array([[8, 6.1, -5.9, 1, 0.13, -0.07, 0.06, 0, -0.06]], np.float32), search=False)
    assert coded.scales.tolist() == [8.0]
    assert coded.codes.tolist() == [[1, 1, 10, 4, 7, 15, 0, 0, 0]]
    assert coded.dequantise().tolist() == [[8, 8, -4, 1, 0.125, -0.125, 0, 0, 0]]


def test_every_code_is_the_nearest_of_all_sixteen() -> None:
    weight = weights()
    for search in (False, True):
        coded = power_of_two(weight, search=search)
        distance = np.abs(weight[..., None] - POWER_TABLE * coded.scales[:, None, None])
        error = np.abs(weight - coded.dequantise())
        assert np.allclose(error, distance.min(-1), rtol=0, atol=1e-6 * coded.scales[:, None])
        assert not (coded.codes == 8).any()


def test_error_is_a_third_of_the_weight_or_a_128th_of_the_scale_at_most() -> None:
    weight = weights()
    coded = power_of_two(weight, search=False)
    scale = coded.scales[:, None]
    bound = np.maximum(np.abs(weight) / 3, scale / 128)
    assert (np.abs(weight - coded.dequantise()) <= bound * 1.0001).all()
    searched = power_of_two(weight)
    scale = searched.scales[:, None]
    bound = np.maximum.reduce([np.abs(weight) / 3, np.broadcast_to(scale / 128, weight.shape), np.abs(weight) - scale])
    assert (np.abs(weight - searched.dequantise()) <= bound * 1.0001).all()


def test_search_lowers_the_error_and_never_raises_it() -> None:
    weight = weights()
    plain, searched = (
        np.square(weight - power_of_two(weight, search=search).dequantise()).sum(1) for search in (False, True)
    )
    assert (searched <= plain).all()
    assert searched.sum() < 0.95 * plain.sum()


def test_powers_of_two_and_channels_of_zeros_come_back_exactly() -> None:
    weight = np.array([[1, -0.5, 0.25, 0.015625], [0, 0, 0, 0]], np.float32)
    assert np.array_equal(power_of_two(weight).dequantise(), weight)
