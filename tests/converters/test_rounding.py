"""GPTQ and AdaRound: better than nearest for correlated inputs, near the best choice, never worse than nearest."""

import itertools

import numpy as np
import pytest

from edgekit_converters.quantize.rounding import AdaRound, adaround, gptq, hessian_of, output_error
from edgekit_converters.quantize.schemes.blockwise import blockwise_integer
from edgekit_runtime.errors import ConversionError, UsageError

GRIDS = [(32, 4), (None, 4), (None, 8)]
FAST = AdaRound(steps=150)


pytestmark = pytest.mark.usefixtures("one_thread")


def layer(rows=12, columns=64, *, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and correlated inputs of few more dimensions than a layer sees in practice."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(300, columns)) @ rng.normal(size=(columns, columns))
    return rng.normal(size=(rows, columns)).astype(np.float32), inputs.astype(np.float32)


def test_output_error_is_the_mean_square_of_the_outputs_difference() -> None:
    weight, inputs = layer()
    other = weight + np.float32(0.1) * np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    difference = inputs.astype(np.float64) @ (other.astype(np.float64) - weight).T
    assert np.allclose(output_error(weight, other, hessian_of(inputs)), np.square(difference).mean(0), rtol=1e-6)


@pytest.mark.parametrize(("block", "bits"), GRIDS)
@pytest.mark.parametrize("method", ["gptq", "gptq given", "adaround"])
def test_correlated_inputs_leave_less_error_than_nearest(method, block, bits) -> None:
    weight, inputs = layer()
    nearest = blockwise_integer(weight, block=block, bits=bits)
    if method == "adaround":
        found = adaround(weight, nearest, hessian_of(inputs), settings=FAST)
    else:
        order = "given" if method.endswith("given") else "activity"
        found = gptq(weight, nearest, hessian_of(inputs), order=order)
    outputs = inputs.astype(np.float64) @ (found.weights.dequantise() - weight).T.astype(np.float64)
    assert np.allclose(found.error, np.square(outputs).mean(0), rtol=1e-5)
    assert (found.error <= found.nearest_error).all()
    assert found.error.sum() < 0.85 * found.nearest_error.sum()
    assert found.method == method.split()[0]
    assert found.kept in {found.method, "both"}
    assert np.array_equal(found.weights.scales, nearest.scales)


def test_gptq_of_many_columns_is_what_eliminating_them_one_by_one_gives() -> None:
    # Optimal brain quantisation in a fixed order: no Cholesky root, no batches (Frantar et al. 2022, eq. 2 and 3).
    weight, inputs = layer(columns=150)
    nearest, hessian = blockwise_integer(weight, block=None), hessian_of(inputs)
    found = gptq(weight, nearest, hessian, order="given")
    inverse = np.linalg.inv(hessian + np.eye(150) * 0.01 * np.trace(hessian) / 150)
    left, step, expected = weight.astype(np.float64), nearest.scales.astype(np.float64)[:, 0], nearest.codes.copy()
    for column in range(150):
        expected[:, column] = np.clip(np.rint(left[:, column] / step), -7, 7)
        error = (left[:, column] - expected[:, column] * step) / inverse[column, column]
        left -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    assert found.changed.mean() > 0.8
    assert np.array_equal(found.weights.codes[found.changed], expected[found.changed])


@pytest.mark.parametrize(("block", "bits"), GRIDS)
def test_independent_inputs_leave_rounding_to_nearest(block, bits) -> None:
    weight, _ = layer()
    nearest = blockwise_integer(weight, block=block, bits=bits)
    for found in (gptq(weight, nearest, np.eye(64)), adaround(weight, nearest, np.eye(64), settings=FAST)):
        assert np.array_equal(found.weights.codes, nearest.codes)
        assert found.kept == "nearest"
        assert not found.changed.any()


def best_of_all(weight: np.ndarray, scale: float, hessian: np.ndarray) -> float:
    floor = np.floor(weight / scale)
    choices = np.array(list(itertools.product((0, 1), repeat=weight.size)))
    errors = np.clip(floor + choices, -7, 7) * scale - weight
    return float(np.einsum("ij,jk,ik->i", errors, hessian, errors).min())


def test_tiny_layers_come_near_the_best_of_all_choices() -> None:
    ratios = {"nearest": [], "gptq": [], "adaround": []}
    for seed in range(6):
        weight, inputs = layer(1, 9, seed=seed)
        hessian = hessian_of(inputs)
        nearest = blockwise_integer(weight, block=None)
        best = best_of_all(weight[0].astype(np.float64), float(nearest.scales[0, 0]), hessian)
        for found in (gptq(weight, nearest, hessian), adaround(weight, nearest, hessian, settings=AdaRound(steps=300))):
            ratios[found.method].append(found.error[0] / best)
            assert found.error[0] <= found.nearest_error[0]
        ratios["nearest"].append(found.nearest_error[0] / best)
    # GPTQ may leave the two neighbours of a weight, and so be better than the best of them.
    assert max(ratios["gptq"]) < 2.0
    assert max(ratios["adaround"]) < 2.5
    assert min(ratios["adaround"]) > 0.999
    assert np.mean(ratios["nearest"]) > 1.3 * max(np.mean(ratios["gptq"]), np.mean(ratios["adaround"]))


def test_channels_that_get_worse_keep_the_nearest_codes() -> None:
    # A dampening this strong pays for errors with noise.
    weight, inputs = layer(40, 16)
    nearest = blockwise_integer(weight, block=None)
    found = gptq(weight, nearest, hessian_of(inputs), dampening=3.0)
    assert 0 < found.changed.sum() < 40
    assert found.kept == "both"
    assert np.array_equal(found.weights.codes[~found.changed], nearest.codes[~found.changed])
    assert np.array_equal(found.error[~found.changed], found.nearest_error[~found.changed])
    assert (found.error[found.changed] < found.nearest_error[found.changed]).all()


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, inputs = layer()
    inputs[:, 5] = 0
    nearest = blockwise_integer(weight)
    for found in (
        gptq(weight, nearest, hessian_of(inputs)),
        adaround(weight, nearest, hessian_of(inputs), settings=FAST),
        gptq(weight, nearest, np.zeros((64, 64))),
        adaround(weight, nearest, np.zeros((64, 64)), settings=FAST),
    ):
        assert np.isfinite(found.error).all()
        assert (found.error <= found.nearest_error).all()


def test_adaround_goes_to_a_neighbour_only() -> None:
    weight, inputs = layer()
    nearest = blockwise_integer(weight)
    codes = adaround(weight, nearest, hessian_of(inputs), settings=FAST).weights.codes
    steps = weight / np.repeat(nearest.scales, 32, 1)
    assert ((codes == np.clip(np.floor(steps), -7, 7)) | (codes == np.clip(np.floor(steps) + 1, -7, 7))).all()


def test_wrong_shapes_settings_and_moments_are_refused() -> None:
    weight, inputs = layer()
    nearest, hessian = blockwise_integer(weight), hessian_of(inputs)
    for method in (gptq, adaround):
        with pytest.raises(UsageError, match="second moments"):
            method(weight, nearest, hessian[:5, :5])
        with pytest.raises(ConversionError, match="not finite") as caught:
            method(weight, nearest, hessian * np.nan)
        assert caught.value.code == "E0761"
    with pytest.raises(ConversionError, match="not positive"):
        gptq(weight, nearest, -hessian)
    with pytest.raises(UsageError, match="dampening"):
        gptq(weight, nearest, hessian, dampening=0.0)
    with pytest.raises(UsageError, match="AdaRound"):
        AdaRound(steps=0)
