"""Which heads, neurons and channels go, and what is left."""

import math

import numpy as np
import pytest
import tiny_networks
import torch
from tiny_networks import LENGTH
from torch import nn

from edgekit.recipe.spec import PruneSpec
from edgekit_converters.prune.image import prune_image
from edgekit_converters.prune.text import head_scores, neuron_scores, prune_text
from edgekit_converters.training import ImageRows, TextRows
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.text_classifier import LayerConfig, TextClassifier


@pytest.fixture
def text_rows() -> TextRows:
    feeds = tiny_networks.text_feeds(90, seed=4)
    return TextRows(ids=tuple(f["input_ids"][f["attention_mask"] == 1].astype(np.int64) for f in feeds))


@pytest.fixture
def image_rows() -> ImageRows:
    return ImageRows(images=np.concatenate([f["image"] for f in tiny_networks.image_feeds(40)]).transpose(0, 3, 1, 2))


def network(**changes) -> TextClassifier:
    return tiny_networks.text_classifier(layers=(LayerConfig(heads=4, ffn=48), LayerConfig(heads=4, ffn=48)), **changes)


def logits(model, rows) -> torch.Tensor:
    with torch.no_grad():
        return model(*rows.batch(np.arange(len(rows))).inputs)


@torch.no_grad()
def test_scores_are_weight_times_activation_by_hand() -> None:
    layer = network().layers[0]
    inner, context = torch.rand(10, 48) - 0.3, torch.rand(10, 32) - 0.3
    found = neuron_scores(layer, inner, criterion="activation")
    expected = [inner[:, i].abs().mean() * layer.ffn_out.weight[:, i].norm() for i in range(48)]
    torch.testing.assert_close(found, torch.stack(expected))
    found = neuron_scores(layer, inner, criterion="magnitude")
    expected = [layer.ffn_in.weight[i].norm() * layer.ffn_out.weight[:, i].norm() for i in range(48)]
    torch.testing.assert_close(found, torch.stack(expected))
    output, value = layer.attention.output.weight, layer.attention.value.weight
    for criterion, other in (("activation", context.abs().mean(0)), ("magnitude", value.norm(dim=1))):
        found = head_scores(layer, context, size=8, criterion=criterion)
        channel = [output[:, i].norm() * other[i] for i in range(32)]
        torch.testing.assert_close(found, torch.stack([sum(channel[h * 8 : h * 8 + 8]) for h in range(4)]))


@pytest.mark.parametrize("criterion", ["magnitude", "activation"])
@torch.no_grad()
def test_planted_dead_heads_and_neurons_go_and_nothing_changes(text_rows, criterion) -> None:
    model = network()
    dead_neurons, dead_heads = torch.arange(0, 48, 3), (1, 3)
    for i, layer in enumerate(model.layers):
        layer.ffn_out.weight[:, (dead_neurons + i) % 48] *= 1e-6
        for head in dead_heads:
            layer.attention.output.weight[:, head * 8 : head * 8 + 8] *= 1e-6
    before = logits(model, text_rows)
    kept = [
        [row for j, row in enumerate(layer.ffn_in.weight.clone()) if (j - i) % 3]
        for i, layer in enumerate(model.layers)
    ]
    note = prune_text(model, PruneSpec(heads=2, ffn=32, multiple=16, criterion=criterion), text_rows)
    assert note == "4->2 heads, 48->32 neurons"
    assert model.config.layers == (LayerConfig(heads=2, ffn=32),) * 2
    for layer, rows in zip(model.layers, kept, strict=True):
        torch.testing.assert_close(layer.ffn_in.weight, torch.stack(rows))
    torch.testing.assert_close(logits(model, text_rows), before, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_neuron_that_never_fires_is_seen_by_its_activation_alone(text_rows) -> None:
    model = network()
    silent = 5
    layer = model.layers[0]
    layer.ffn_in.bias[silent] = -40.0  # GELU gives 0 there
    layer.ffn_in.weight[silent] *= 3
    alive = layer.ffn_in.weight[silent].clone()
    before = logits(model, text_rows)
    by_weight = network()
    by_weight.load_state_dict(model.state_dict())
    prune_text(model, PruneSpec(ffn=47, multiple=1, criterion="activation"), text_rows)
    prune_text(by_weight, PruneSpec(ffn=47, multiple=1, criterion="magnitude"), text_rows)

    def holds(pruned) -> bool:
        return bool((pruned.layers[0].ffn_in.weight == alive).all(1).any())

    assert not holds(model)
    assert holds(by_weight)
    assert (logits(model, text_rows) - before).abs().max() < (logits(by_weight, text_rows) - before).abs().max()


@torch.no_grad()
def test_what_removed_neurons_gave_on_average_is_kept(text_rows) -> None:
    """Neurons that give a constant are the first to go by their small weights, and their part stays exactly."""
    model = network()
    layer = model.layers[0]
    layer.ffn_in.weight[:8] = 0.0
    layer.ffn_in.bias[:8] = torch.linspace(0.5, 2.0, 8)
    spec = PruneSpec(ffn=40, multiple=8, criterion="magnitude")
    model.layers = nn.ModuleList([layer])  # the other layer would lose neurons that count
    model.config = tiny_networks.text_classifier(layers=(LayerConfig(heads=4, ffn=48),)).config
    before = logits(model, text_rows)
    prune_text(model, spec, text_rows)
    assert model.config.layers[0].ffn == 40
    torch.testing.assert_close(logits(model, text_rows), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("wanted", "kept"), [(1, 16), (16, 16), (17, 32), (33, 48), (64, 48), (0, 48)])
def test_kept_neurons_are_a_multiple(text_rows, wanted, kept) -> None:
    model = network()
    prune_text(model, PruneSpec(ffn=wanted, multiple=16), text_rows)
    assert {layer.ffn for layer in model.config.layers} == {kept}
    assert logits(model, text_rows).shape == (90, 3)
    TextClassifier(model.config).load_state_dict(model.state_dict())


def test_padding_has_no_say_in_the_scores() -> None:
    long = np.arange(4, 4 + LENGTH) % 16 + 4
    rows = TextRows(ids=(long, long[:2]))
    model, reference = network(), network()
    prune_text(model, PruneSpec(ffn=16, multiple=16), rows)
    ids, mask = rows.batch(np.array([0, 1])).inputs
    assert mask.sum() == LENGTH + 2
    with torch.no_grad():
        states = reference.hidden_states(ids, mask)[0]
        additive = (1.0 - mask[:, None, None, :].float()) * -50.0
        layer = reference.layers[0]
        x = layer.attention_norm(states + layer.attention(states, additive))
        inner = nn.functional.gelu(layer.ffn_in(x))[mask.bool()]
        keep = neuron_scores(layer, inner, criterion="activation").topk(16).indices.sort().values
    torch.testing.assert_close(model.layers[0].ffn_in.weight, layer.ffn_in.weight[keep])


def kill(model: ImageClassifier, dead: dict[int, list[int]]) -> None:
    with torch.no_grad():
        for block, channels in dead.items():
            model.blocks[block].norm.weight[channels] = 0.0
            model.blocks[block].norm.bias[channels] = 0.0


@pytest.mark.parametrize("criterion", ["magnitude", "activation"])
def test_dead_channels_go_and_a_plain_smaller_model_answers_alike(image_rows, criterion) -> None:
    model = tiny_networks.image_classifier()
    kill(model, {0: [0, 2, 4, 6], 1: [1, 2, 3, 7], 2: list(range(8)), 3: list(range(1, 16, 2))})
    before, state = logits(model, image_rows), {k: v.clone() for k, v in model.state_dict().items()}
    small, note = prune_image(model, PruneSpec(channels=0.5, multiple=4, criterion=criterion), image_rows)
    assert note == "channels 8,8,16,16 -> 4,4,8,8"
    assert type(small) is ImageClassifier
    assert [conv.channels for conv in small.config.convs] == [4, 4, 8, 8]
    assert [conv.stride for conv in small.config.convs] == [1, 1, 2, 1]
    assert not small.training
    ImageClassifier(small.config).load_state_dict(small.state_dict())
    torch.testing.assert_close(logits(small, image_rows), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(small.blocks[0].conv.weight, model.blocks[0].conv.weight[1::2])
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_a_channel_that_never_fires_is_seen_by_its_activation_alone(image_rows) -> None:
    kept = {}
    for criterion in ("magnitude", "activation"):
        model = tiny_networks.image_classifier()
        with torch.no_grad():
            model.blocks[1].norm.weight[3] = 2.0
            model.blocks[1].norm.bias[3] = -50.0  # ReLU gives 0 there
        small, _ = prune_image(model, PruneSpec(channels=0.125, multiple=1, criterion=criterion), image_rows)
        kept[criterion] = -50.0 in small.blocks[1].norm.bias.tolist()
    assert kept == {"magnitude": True, "activation": False}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_kept_channels_are_a_multiple(image_rows, share, multiple) -> None:
    model = tiny_networks.image_classifier(widths=(40,))
    small, _ = prune_image(model, PruneSpec(channels=share, multiple=multiple, criterion="magnitude"), image_rows)
    whole = round(40 * (100 - round(100 * share)))  # in hundredths of a channel
    expected = min(40, math.ceil(whole / (100 * multiple)) * multiple)
    assert [conv.channels for conv in small.config.convs] == [expected] * 2
