"""The plain text module: padding, the constant that masks it, pooling and heads."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit_models import text_classifier
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig

LENGTH, VOCABULARY, CLASSES = 10, 40, 3


def make(**changes) -> TextClassifier:
    sizes = {"layers": (LayerConfig(heads=4, ffn=24), LayerConfig(heads=2, ffn=16)), "hidden": 16, "head_size": 4}
    torch.manual_seed(3)
    model = TextClassifier(
        TextConfig(vocabulary=VOCABULARY, max_length=LENGTH, classes=CLASSES, **{**sizes, **changes})
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def row(length: int, *, width: int, filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((1, width), filler)
    ids[0, :length] = torch.from_numpy(np.random.default_rng(length).integers(1, VOCABULARY, length))
    mask = torch.zeros(1, width, dtype=torch.int64)
    mask[0, :length] = 1
    return ids, mask


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("head", ["none", "tanh", "relu"])
@torch.no_grad()
def test_padding_never_changes_a_result(pooling, head) -> None:
    model = make(pooling=pooling, head=head)
    for length in (2, 5, 9):
        alone = model(*row(length, width=length))
        assert alone.shape == (1, CLASSES)
        for filler in (0, 7):
            padded = model(*row(length, width=LENGTH, filler=filler))
            torch.testing.assert_close(padded, alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_batch_gives_what_its_rows_give_alone() -> None:
    model = make()
    rows = [row(length, width=LENGTH) for length in (2, 4, 10)]
    together = model(torch.cat([ids for ids, _ in rows]), torch.cat([mask for _, mask in rows]))
    torch.testing.assert_close(together, torch.cat([model(*one) for one in rows]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_mask_constant_does_what_minus_infinity_does(monkeypatch) -> None:
    model = make()
    ids, mask = row(4, width=LENGTH)
    ours = model(ids, mask)
    assert text_classifier.MASK_VALUE == -50.0
    monkeypatch.setattr(text_classifier, "MASK_VALUE", torch.finfo(torch.float32).min)
    torch.testing.assert_close(ours, model(ids, mask), rtol=0, atol=1e-6)


@torch.no_grad()
def test_mean_pooling_is_the_mean_over_real_tokens() -> None:
    model = make()
    ids, mask = row(4, width=LENGTH)
    last = model.hidden_states(ids, mask)[-1]
    expected = last[0, :4].mean(0) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(ids, mask)[0], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_hidden_states_start_with_the_embedding_and_hold_every_layer() -> None:
    model = make()
    ids, mask = row(4, width=LENGTH)
    states = model.hidden_states(ids, mask)
    assert [tuple(state.shape) for state in states] == [(1, LENGTH, 16)] * 3
    embedded = model.embedding_norm(model.words(ids) + model.positions)
    torch.testing.assert_close(states[0], embedded, rtol=0, atol=1e-6)


@torch.no_grad()
def test_attention_is_torchs_own() -> None:
    attention = make().layers[0].attention
    x = torch.randn(2, LENGTH, 16)
    keys = torch.ones(2, LENGTH, dtype=torch.bool)
    keys[0, 4:] = False
    heads = [
        layer(x).reshape(2, LENGTH, 4, 4).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)
    ]
    context = functional.scaled_dot_product_attention(*heads, attn_mask=keys[:, None, None, :])
    expected = attention.output(context.transpose(1, 2).reshape(2, LENGTH, 16))
    ours = attention(x, (~keys)[:, None, None, :] * text_classifier.MASK_VALUE)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_tanh_gelu_is_another_function() -> None:
    ids, mask = row(4, width=LENGTH)
    exact, approximate = make(), make(activation="gelu_tanh")
    approximate.load_state_dict(exact.state_dict())
    with torch.no_grad():
        difference = (exact(ids, mask) - approximate(ids, mask)).abs().max()
    assert 1e-7 < difference < 1e-2


@pytest.mark.parametrize(("heads", "ffn"), [(0, 8), (2, 0)])
def test_a_layer_without_heads_or_neurons_is_refused(heads, ffn) -> None:
    with pytest.raises(ValueError, match="at least one head and one neuron"):
        LayerConfig(heads=heads, ffn=ffn)
