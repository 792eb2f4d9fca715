"""Linear codes in blocks: the nearest code, an error of at most half a step, scales that both engines hold."""

import numpy as np
import pytest
import torch

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger, blockwise_integer, spread
from edgekit_runtime.errors import ConversionError, EdgekitError, UsageError


def weights(rows=6, columns=70, *, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, columns)) * np.exp(rng.normal(size=(rows, 1)))).astype(np.float32)


def refused(kind: type[EdgekitError], code: str, *arguments, **options) -> None:
    with pytest.raises(kind) as caught:
        blockwise_integer(*arguments, **options)
    assert caught.value.code == code


def test_codes_and_scales_of_a_row_by_hand() -> None:
    # Blocks of 3: absmax 7 -> scale 1; absmax 3.5 -> scale 0.5; the tail of one value, 14 -> scale 2.
    coded = blockwise_integer(np.array([[7, -2.6, 0.4, 3.5, -1.1, 0, -14]], np.float32), block=3)
    assert coded.scales.tolist() == [[1.0, 0.5, 2.0]]
    assert coded.codes.tolist() == [[7, -3, 0, 7, -2, 0, -7]]
    assert coded.dequantise().tolist() == [[7, -3, 0, 3.5, -1, 0, -14]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 7, 1, 100, None])
def test_every_code_is_the_nearest_and_errs_by_half_a_step_at_most(block, bits) -> None:
    weight = weights()
    coded = blockwise_integer(weight, block=block, bits=bits)
    limit = {4: 7, 8: 127}[bits]
    steps = np.repeat(coded.scales, coded.block, 1)[:, :70].astype(np.float64)
    every = np.arange(-limit, limit + 1)
    distance = np.abs(weight[..., None] - every * steps[..., None])
    error = np.abs(weight - coded.dequantise())
    assert np.allclose(error, distance.min(-1), rtol=0, atol=1e-5 * steps)  # float32 against float64
    assert (error <= 0.5001 * steps).all()
    assert coded.scales.shape == (6, -(-70 // min(block or 70, 70)))


def test_smaller_blocks_err_less() -> None:
    weight = weights(columns=256)
    error = [np.square(weight - blockwise_integer(weight, block=b).dequantise()).sum() for b in (16, 32, 128, None)]
    assert error == sorted(error)


def test_block_scales_are_exact_in_float16_and_in_bfloat16() -> None:
    weight = weights(rows=40) * np.float32(1e-3)
    weight[0, :32] *= 1e-4  # below the normal range of float16
    scales = torch.from_numpy(blockwise_integer(weight).scales)
    for kind in (torch.float16, torch.bfloat16):
        assert torch.equal(scales.to(kind).float(), scales)


def test_per_channel_scales_are_absmax_over_the_limit() -> None:
    weight = weights()
    coded = blockwise_integer(weight, block=None, bits=8)
    assert coded.per_channel
    assert np.array_equal(coded.scales[:, 0], np.abs(weight).max(1) / np.float32(127))


def test_blocks_of_zeros_stay_zero() -> None:
    weight = weights(columns=64)
    weight[:, :32] = 0
    coded = blockwise_integer(weight)
    assert not coded.dequantise()[:, :32].any()
    assert (coded.scales[:, 0] == 1).all()
    dead = blockwise_integer(np.zeros((2, 5), np.float32), block=None)
    assert not dead.dequantise().any()
    assert (dead.scales == 1).all()  # not the smallest float, which a kernel may take for 0


def test_spread_repeats_scales_and_cuts_the_tail() -> None:
    assert spread(np.array([[1, 2]], np.float32), 3, 5).tolist() == [[1, 1, 1, 2, 2]]


def test_what_cannot_be_coded_is_refused() -> None:
    refused(UsageError, "E0158", np.zeros(4, np.float32))
    refused(UsageError, "E0158", np.zeros((2, 2)))
    refused(UsageError, "E0158", np.zeros((0, 2), np.float32))
    refused(ConversionError, "E0756", np.array([[1, np.nan]], np.float32))
    refused(ConversionError, "E0756", np.full((1, 64), 1e6, np.float32))
    refused(UsageError, "E0159", weights(), block=0)
    refused(UsageError, "E0159", weights(), bits=5)


def test_codes_and_scales_that_do_not_fit_are_refused() -> None:
    good = {"codes": np.zeros((2, 4), np.int8), "scales": np.ones((2, 2), np.float32), "block": 2, "bits": 4}
    BlockwiseInteger(**good)
    for wrong in (
        {"block": 3, "scales": np.ones((2, 1), np.float32)},
        {"scales": np.zeros((2, 2), np.float32)},
        {"codes": np.full((2, 4), -8, np.int8)},
        {"codes": np.full((2, 4), 8, np.int8)},
    ):
        with pytest.raises(UsageError, match=r"codes"):
            BlockwiseInteger(**{**good, **wrong})
