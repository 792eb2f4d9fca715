"""What every observer does with rows that are ordinary, unusual or wrong."""

import numpy as np
import pytest
import torch

from edgekit_converters.quantize.calibration.observers import ChannelMaxObserver, Observer, make_observer
from edgekit_converters.quantize.calibration.spec import METHODS, ObserverSpec
from edgekit_converters.quantize.grid import Range
from edgekit_runtime.errors import ConversionError, UsageError

ALL = pytest.mark.parametrize("method", METHODS)
PER_TENSOR = pytest.mark.parametrize("method", [method for method in METHODS if method != "channel_max"])


def observer_of(method: str, *rows: torch.Tensor, **settings: object) -> Observer:
    observer = make_observer(ObserverSpec(method=method, **settings), "block.1.out")
    for row in rows:
        observer.update(row)
    return observer


def refusal(observer: Observer, row: torch.Tensor) -> ConversionError:
    before = {key: array.tobytes() for key, array in observer.state().items()}
    with pytest.raises(ConversionError) as caught:
        observer.update(row)
    assert {key: array.tobytes() for key, array in observer.state().items()} == before
    assert "block.1.out" in caught.value.what
    return caught.value


@ALL
def test_range_without_a_row_is_refused(method) -> None:
    with pytest.raises(UsageError) as caught:
        observer_of(method).range()
    assert caught.value.code == "E0135"
    assert "block.1.out" in caught.value.what


@ALL
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_not_finite_is_refused_and_nothing_of_it_is_counted(method, value) -> None:
    row = torch.tensor([[1.0, value], [0.5, 2.0]])
    assert refusal(observer_of(method), row).code == "E0740"
    assert refusal(observer_of(method, torch.ones(2, 2)), row).code == "E0740"


@ALL
def test_row_of_another_rank_is_refused(method) -> None:
    error = refusal(observer_of(method, torch.ones(3, 4)), torch.ones(1, 3, 4))
    assert error.code == "E0742"
    assert "(1, 3, 4)" in error.what
    assert "rank 2" in error.what


@ALL
def test_row_without_elements_is_refused(method) -> None:
    assert refusal(observer_of(method, torch.ones(3, 4)), torch.ones(0, 4)).code == "E0743"


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_row_that_is_not_float32_is_refused(method, dtype) -> None:
    assert refusal(observer_of(method), torch.ones(3, 4, dtype=dtype)).code == "E0744"


def test_other_number_of_channels_is_refused_where_channels_count() -> None:
    seen = observer_of("channel_max", torch.ones(3, 4))
    error = refusal(seen, torch.ones(3, 5))
    assert error.code == "E0742"
    assert "4 channels" in error.what
    assert refusal(observer_of("channel_max", axis=2), torch.ones(3, 4)).code == "E0742"


@PER_TENSOR
def test_rows_may_differ_in_every_length(method) -> None:
    # Attention scores: the last dimension is the number of tokens.
    seen = observer_of(method, torch.full((2, 3, 3), -1.0), torch.full((2, 7, 7), 1.0))
    assert (seen.range().low, seen.range().high) == (-1.0, 1.0)


@PER_TENSOR
@pytest.mark.parametrize("value", [0.0, -0.0, 3.7, -1e-30, 2e38])
def test_constant_tensor_has_its_value_as_range(method, value) -> None:
    exact = float(np.float32(value))
    for rows in ([torch.full((2, 3), value)], [torch.full((2, 3), value)] * 3, [torch.full((1, 1), value)]):
        found = observer_of(method, *rows).range()
        assert found == Range(exact, exact)
        assert not (exact == 0.0 and np.signbit([found.low, found.high]).any())
        assert observer_of(method, *rows, symmetric=True).range() == Range(-abs(exact), abs(exact))


@PER_TENSOR
def test_one_small_sample_keeps_its_range(method) -> None:
    # 4 values on the 4-bit grid of [-3, 12]: percentile has nothing to cut, KL no candidate.
    row = torch.tensor([[-3.0, 1.0, 12.0, 5.0]])
    found = observer_of(method, row, bits=4).range()
    assert (found.low, found.high) == (-3.0, 12.0) or method == "mse"
    assert -3.0 <= found.low < -2.9
    assert 11.9 < found.high <= 12.0


@ALL
@pytest.mark.parametrize("offset", [2, 20, -20])
def test_no_range_reaches_beyond_the_values_seen(method, offset) -> None:
    row = torch.randn(40, 50, generator=torch.Generator().manual_seed(1)) + offset
    largest = float(row.abs().max())
    for symmetric in (False, True):
        found = observer_of(method, row, symmetric=symmetric).range()
        mirrored = symmetric or method == "channel_max"
        assert found.low >= (-largest if mirrored else float(row.min()))
        assert found.high <= (largest if mirrored else float(row.max()))
        assert (found.low == -found.high) is mirrored


@ALL
def test_range_does_not_depend_on_order_or_cut(method) -> None:
    values = torch.distributions.StudentT(3.0)
    torch.manual_seed(5)
    rows = values.sample((12, 30, 8))
    for symmetric in (False, True):
        whole = observer_of(method, rows.reshape(360, 8), symmetric=symmetric).range()
        assert observer_of(method, *rows, symmetric=symmetric).range() == whole
        assert observer_of(method, *rows.flip(0, 1), symmetric=symmetric).range() == whole


@ALL
def test_update_neither_changes_nor_keeps_the_row(method) -> None:
    row = torch.tensor([[-2.0, 1.0], [0.5, 3.0]], requires_grad=True)
    observer = observer_of(method, row)
    assert row.tolist() == [[-2.0, 1.0], [0.5, 3.0]]
    first = observer.range()
    with torch.no_grad():
        row.fill_(100.0)
    assert observer.range() == first


@ALL
def test_strided_views_count_like_their_copies(method) -> None:
    base = torch.randn(6, 8, 10, generator=torch.Generator().manual_seed(2))
    view = base.transpose(0, 2)[::2]
    assert observer_of(method, view).range() == observer_of(method, view.clone()).range()


def test_minmax_by_hand() -> None:
    rows = torch.tensor([[1.0, 2.0]]), torch.tensor([[-3.5, 0.0]]), torch.tensor([[0.5, 1.0]])
    assert observer_of("minmax", *rows).range() == Range(-3.5, 2.0)
    assert observer_of("minmax", *rows, symmetric=True).range() == Range(-3.5, 3.5)


@pytest.mark.parametrize(
    ("axis", "expected"), [(-1, [7.0, 2.0, 6.0]), (1, [7.0, 2.0, 6.0]), (0, [2.0, 7.0]), (-2, [2.0, 7.0])]
)
def test_largest_absolute_value_of_each_channel_by_hand(axis, expected) -> None:
    rows = torch.tensor([[1.0, -2.0, 0.0], [4.0, 0.5, -6.0]]), torch.tensor([[0.0, 1.0, 2.0], [-7.0, 1.0, 5.0]])
    observer = observer_of("channel_max", *rows, axis=axis)
    assert isinstance(observer, ChannelMaxObserver)
    assert observer.per_channel().tolist() == expected
    assert observer.per_channel().dtype == np.float32
    assert observer.range() == Range(-7.0, 7.0)


def test_channels_of_an_image_and_of_a_vector_by_hand() -> None:
    image = torch.zeros(2, 3, 4, 4)
    image[1, 2, 3, 0], image[0, 0, 1, 1] = -9.0, 4.0
    assert observer_of("channel_max", image, axis=1).per_channel().tolist() == [4.0, 0.0, 9.0]
    vector = observer_of("channel_max", torch.tensor([-1.0, 2.0]), torch.tensor([0.5, -3.0]))
    assert vector.per_channel().tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"percentile": value} for value in (0.0, -1.0, 100.1, float("nan"))),
        *({"bits": value} for value in (1, 17)),
        *({"bins": value} for value in (63, 65537)),
        {"method": "median"},
    ],
)
def test_impossible_settings_are_refused_with_the_value(wrong) -> None:
    with pytest.raises(UsageError) as caught:
        ObserverSpec(**{"method": "minmax"} | wrong)
    assert caught.value.code == "E0136"
    assert repr(next(iter(wrong.values()))) in caught.value.what
