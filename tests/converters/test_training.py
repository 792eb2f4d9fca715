"""The training loop: what a batch holds, in which order, and when it stops."""

import numpy as np
import pytest
import tiny_networks
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgekit_converters.training import (
    ImageRows,
    TextRows,
    Training,
    batches,
    count_steps,
    mixed_precision,
    predict,
    resolve_precision,
    train,
)
from edgekit_runtime.errors import ConversionError


def text_rows(count: int) -> TextRows:
    """Row i holds i in its first place; lengths vary."""
    lengths = np.random.default_rng(0).integers(1, 9, count)
    return TextRows(ids=tuple(np.full(length, i, np.int64) for i, length in enumerate(lengths)))


def order(count: int, **how) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches(text_rows(count), **how)]


@given(count=st.integers(1, 400), batch_size=st.integers(1, 7), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_row_comes_once_in_an_epoch(count, batch_size, epochs, seed) -> None:
    found = order(count, batch_size=batch_size, seed=seed, epochs=epochs)
    per_epoch = -(-count // batch_size)
    assert len(found) == epochs * per_epoch == count_steps(count, batch_size=batch_size, epochs=epochs)
    for epoch in range(epochs):
        rows = [row for batch in found[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert sorted(rows) == list(range(count))
    assert max(map(len, found)) <= batch_size


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0, 0), (0.05, 1), (0.5, 5), (0.7, 7), (1, 10), (1.1, 11), (1.15, 12), (2.5, 25)]
)
def test_a_fraction_of_an_epoch_stops_within_it(epochs, steps) -> None:
    found = order(37, batch_size=4, seed=1, epochs=epochs)  # 10 batches in an epoch
    assert len(found) == steps
    for start in range(0, steps, 10):
        rows = [row for batch in found[start : start + 10] for row in batch]
        assert len(rows) == len(set(rows))


def test_a_seed_gives_one_order_and_epochs_differ() -> None:
    first = order(40, batch_size=4, seed=3, epochs=2)
    assert first == order(40, batch_size=4, seed=3, epochs=2)
    assert first != order(40, batch_size=4, seed=4, epochs=2)
    assert first[:10] != first[10:]


def test_batches_hold_rows_of_like_length_in_no_order_of_length() -> None:
    rows = text_rows(200)
    found = list(batches(rows, batch_size=8, seed=0, epochs=1))
    waste = sum(batch.inputs[0].numel() for batch in found) / sum(map(rows.length, range(200)))
    assert waste < 1.1
    means = [float(batch.inputs[1].sum(1).float().mean()) for batch in found]
    assert means != sorted(means)


def test_text_batch_is_padded_with_a_mask() -> None:
    rows = TextRows(ids=(np.array([5, 6, 7]), np.array([8]), np.array([9, 4])))
    ids, mask = rows.batch(np.array([1, 2])).inputs
    assert ids.tolist() == [[8, 0], [9, 4]]
    assert mask.tolist() == [[1, 0], [1, 1]]
    assert ids.dtype == mask.dtype == torch.int64


def test_image_batch_keeps_its_rows() -> None:
    images = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    (batch,) = ImageRows(images=images).batch(np.array([2, 0])).inputs
    np.testing.assert_array_equal(batch.numpy(), images[[2, 0]])


def how(**changes) -> Training:
    return Training(**{"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "seed": 5, **changes})


def fit(training: Training, *, noise: int = 0) -> nn.Module:
    torch.manual_seed(noise)  # whatever ran before must not matter
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    data = tiny_networks.image_rows(27)
    rows = ImageRows(images=(data.images / 255).astype(np.float32).transpose(0, 3, 1, 2))
    targets = torch.from_numpy(data.targets)

    def loss(batch):
        return functional.cross_entropy(model(*batch.inputs).float(), targets[torch.from_numpy(batch.rows)])

    train([model], loss, rows, training, stage="adapt")
    assert not model.training
    right = predict(model, rows).argmax(1) == data.targets
    model.accuracy = float(right.mean())
    return model


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_gives_the_same_bits(precision) -> None:
    first, second = (weights(fit(how(precision=precision), noise=noise)) for noise in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = weights(fit(how(precision=precision, seed=6), noise=1))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_learns() -> None:
    assert fit(how(epochs=20)).accuracy == 1.0


def test_weights_stay_float32_in_bfloat16() -> None:
    assert {weight.dtype for weight in weights(fit(how(precision="bfloat16")))} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(value) -> None:
    model = nn.Linear(4, 2)
    rows = ImageRows(images=np.ones((8, 4), np.float32))
    seen = []

    def loss(batch):
        seen.append(batch)
        return model(*batch.inputs).sum() * (value if len(seen) == 3 else 1.0)

    with pytest.raises(ConversionError) as caught:
        train([model], loss, rows, how(batch_size=2, epochs=2), stage="adapt")
    assert caught.value.code == "E0710"
    assert "step 3 of 8" in caught.value.what
    assert "adapt.learning_rate" in caught.value.fix


def test_only_what_wants_a_gradient_is_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(requires_grad=False)
    before = weights(model)
    rows = ImageRows(images=np.ones((8, 4), np.float32))
    train([model], lambda batch: model(*batch.inputs).sum(), rows, how(), stage="adapt")
    after = weights(model)
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert not torch.equal(before[2], after[2])


def test_rate_warms_up_and_falls_to_nothing() -> None:
    """With Adam's first steps of size ``rate`` on a constant gradient, the path of a weight shows the schedule."""
    weight = nn.Linear(1, 1, bias=False)
    path = []

    def loss(batch):
        path.append(weight.weight.item())
        return weight(*batch.inputs).mean()

    rows = ImageRows(images=np.ones((100, 1), np.float32))
    train([weight], loss, rows, how(batch_size=1, epochs=1, weight_decay=0.0), stage="adapt")
    steps = -np.diff([*path, weight.weight.item()]) / 1e-2
    expected = np.minimum((np.arange(100) + 1) / 6, (100 - np.arange(100)) / 94)
    np.testing.assert_allclose(steps, expected, atol=0.01)


def test_predict_keeps_the_order_of_rows() -> None:
    class FirstToken(nn.Module):
        def forward(self, ids, mask):
            assert ids.shape == mask.shape
            return torch.stack([ids[:, 0], mask.sum(1)], 1).float()

    rows = text_rows(131)
    logits = predict(FirstToken(), rows, batch_size=8)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits[:, 0], np.arange(131))
    np.testing.assert_array_equal(logits[:, 1], [rows.length(i) for i in range(131)])


def test_precision_is_taken_as_told_and_guessed_for_matrices_only() -> None:
    for wanted in ("float32", "bfloat16"):
        assert {resolve_precision(wanted, matrices=matrices) for matrices in (True, False)} == {wanted}
    assert resolve_precision("auto", matrices=False) == "float32"
    assert resolve_precision("auto", matrices=True) in ("float32", "bfloat16")
    a = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with mixed_precision(precision):
            assert (a @ a).dtype == dtype
