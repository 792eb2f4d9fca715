"""The zoo: its table, its training, its stress; small stand-ins where the real rows would take too long."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from zoo import registry
from zoo.fetch import WHEELS, find_wheel
from zoo.keywords import BANDS, FRAMES, log_mel
from zoo.registry import ZOO, get_model, load_trained
from zoo.rows import ZooData
from zoo.stress import stress_conv_ranges, stress_layernorm
from zoo.train import TrainSettings, eval_logits, train_model

from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import MissingError, UsageError

# Input shapes by name of the data function, without N; the real rows are not read here.
SHAPES = {
    "fashion": (1, 28, 28),
    "fashion_rows": (14, 56),
    "digits": (64,),
    "keywords": (1, FRAMES, BANDS),
    "keyword_frames": (FRAMES, BANDS),
}
NETS = [name for name, row in ZOO.items() if row.data.__name__ in SHAPES and not row.weights_of]
# Every path of these holds channels that only convolutions or linear layers read.
STRESSED_NETS = [
    *("plain_fashion", "residual_fashion", "inception_fashion", "ds_cnn_keywords", "conv1d_keywords", "mlp_digits"),
    *("depthwise_fashion", "se_hardswish_fashion", "conv_gru_keywords"),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(name: str, count: int = 24) -> ZooData:
    generator = np.random.default_rng(3)
    inputs, targets = [], []
    for _ in range(2):
        inputs.append(generator.standard_normal((count, *SHAPES[ZOO[name].data.__name__])).astype(np.float32))
        targets.append(generator.integers(0, 10, count))
    return ZooData(
        train_inputs=(inputs[0],),
        train_targets=targets[0],
        eval_inputs=(inputs[1],),
        eval_targets=targets[1],
        labels=tuple("0123456789"),
    )


def text_model() -> TextClassifier:
    torch.manual_seed(0)
    sizes = (LayerConfig(heads=2, ffn=40), LayerConfig(heads=4, ffn=24))
    shape = {"hidden": 32, "head_size": 8, "layers": sizes, "vocabulary": 50, "max_length": 8, "classes": 3}
    model = TextClassifier(TextConfig(**shape)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.2, std=0.5)
    return model


def texts(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(count * 8, dtype=torch.int32).reshape(count, 8) % 50
    mask = (torch.arange(8)[None, :] < torch.arange(3, 3 + count)[:, None]).int()
    return ids, mask


def awake(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and factors as training does; at 0 and 1 an error in them would not show."""
    generator = torch.Generator().manual_seed(5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 2, generator=generator)
            part.bias.data.normal_(0, 0.5, generator=generator)
    return module.eval()


def test_zoo_has_the_models_that_the_benchmark_promises() -> None:
    kinds = [row.kind for row in ZOO.values() if not row.weights_of]
    assert kinds.count("transformer") == 5
    assert kinds.count("cnn") + kinds.count("rnn") >= 10
    assert any(row.per_tensor for row in ZOO.values())
    assert len(registry.SEEDS) >= 3


def test_a_row_that_shares_weights_differs_from_their_owner_in_the_target_alone() -> None:
    shared = [row for row in ZOO.values() if row.weights_of]
    assert shared
    for row in shared:
        owner = ZOO[row.weights_of]
        assert not owner.weights_of
        same = dataclasses.replace(owner, name=row.name, per_tensor=True, weights_of=row.weights_of, notes=row.notes)
        assert row == same


@pytest.mark.parametrize("name", NETS)
def test_net_gives_ten_logits_a_row_whatever_the_number_of_rows(name: str) -> None:
    module = awake(ZOO[name].build(0))
    data = rows(name)
    with torch.no_grad():
        alone = torch.cat([module(*data.eval_example(i)) for i in range(3)])
    assert alone.shape == (3, 10)
    assert alone.dtype == torch.float32
    np.testing.assert_allclose(eval_logits(module, data)[:3], alone.numpy(), atol=1e-5)


def test_seed_decides_the_first_weights() -> None:
    first, again, other = (ZOO["mlp_digits"].build(seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["plain_fashion", "gru_fashion"])
def test_one_step_is_repeatable_and_changes_the_weights(name: str) -> None:
    data, how = rows(name), TrainSettings(epochs=1, batch_size=24, learning_rate=1e-2)
    states = []
    for _ in range(2):
        module = ZOO[name].build(0)
        train_model(module, data, how, seed=0)
        states.append(module.state_dict())
    untrained = ZOO[name].build(0).state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in untrained)
    assert not all(torch.equal(states[0][key], untrained[key]) for key in untrained)


def test_frozen_parameters_keep_their_weights() -> None:
    module, before = ZOO["mlp_digits"].build(0), ZOO["mlp_digits"].build(0)
    how = TrainSettings(epochs=1, batch_size=24, learning_rate=1e-2, frozen=("0.",))
    train_model(module, rows("mlp_digits"), how, seed=0)
    assert torch.equal(module[0].weight, before[0].weight)
    assert not torch.equal(module[2].weight, before[2].weight)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_trained_model_is_trained_once_and_again_when_its_settings_change(tmp_path, monkeypatch) -> None:
    data, trained = rows("mlp_digits"), []
    small = TrainSettings(epochs=1, batch_size=24, learning_rate=1e-2)
    table = {"small": dataclasses.replace(ZOO["mlp_digits"], name="small", data=lambda: data, training=small)}
    table["shared"] = dataclasses.replace(table["small"], name="shared", weights_of="small", per_tensor=True)

    def count(*arguments, **options) -> None:
        trained.append(options["seed"])
        train_model(*arguments, **options)

    monkeypatch.setattr(registry, "ZOO", table)
    monkeypatch.setattr(registry, "train_model", count)
    first, found = load_trained("small", 1, tmp_path)
    second, _ = load_trained("small", 1, tmp_path)
    third, _ = load_trained("shared", 1, tmp_path)
    assert trained == [1]
    assert found is data
    assert [path.name for path in tmp_path.iterdir()] == ["small-s1.safetensors"]
    for other in (second, third):
        assert not other.training
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())
    table["small"] = dataclasses.replace(table["small"], training=dataclasses.replace(small, epochs=2))
    load_trained("small", 1, tmp_path)
    assert trained == [1, 1]


def test_an_unknown_model_is_refused_with_the_closest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'plain_fashion'"):
        get_model("plain_fashon")


def test_a_wheel_that_was_not_fetched_says_how_to_fetch_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("zoo.fetch.DATA", tmp_path)
    with pytest.raises(MissingError) as caught:
        find_wheel("espeakng-loader")
    assert "zoo.fetch" in caught.value.fix
    (tmp_path / "espeakng_loader-0.2.4-py3-none-any.whl").write_bytes(b"not it")
    with pytest.raises(UsageError, match="sha256"):
        find_wheel("espeakng-loader")
    assert all(len(wheel.sha256) == 64 for wheel in WHEELS.values())


def test_rows_that_do_not_fit_their_targets_are_refused() -> None:
    good = rows("mlp_digits")
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(good, eval_targets=good.eval_targets[:-1])


def test_accuracy_counts_nan_as_wrong() -> None:
    data = dataclasses.replace(
        rows("mlp_digits"), eval_inputs=(np.zeros((4, 64), np.float32),), eval_targets=np.array([0, 0, 1, 0])
    )
    logits = np.array([[1, 0], [0, 1], [0, 1], [np.nan, 0]], np.float32)
    assert data.accuracy(logits) == 0.5


def test_examples_have_batch_one_and_the_dtype_of_the_rows() -> None:
    ids, mask = (value.numpy() for value in texts())
    data = ZooData(
        train_inputs=(ids, mask),
        train_targets=np.zeros(6, np.int64),
        eval_inputs=(ids[::-1].copy(), mask),
        eval_targets=np.zeros(6, np.int64),
        labels=("a",),
    )
    example = data.example(2)
    assert [value.dtype for value in example] == [torch.int32, torch.int32]
    assert example[0].tolist() == [ids[2].tolist()]
    assert data.eval_example(2)[0].tolist() == [ids[3].tolist()]


def test_padding_is_left_out_of_float_evaluation_without_changing_it() -> None:
    ids, mask = texts()
    targets = np.zeros(6, np.int64)
    both = (ids.numpy(), mask.numpy())
    data = ZooData(
        train_inputs=both, train_targets=targets, eval_inputs=both, eval_targets=targets, labels=("a", "b", "c")
    )
    model = text_model()
    with torch.no_grad():
        np.testing.assert_allclose(eval_logits(model, data), model(ids, mask).numpy(), atol=1e-4)


def test_log_mel_of_a_tone_is_loudest_in_the_band_of_the_tone() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    features = log_mel(tone)
    # 1 kHz is 1000 mel; 32 bands between 92 mel (60 Hz) and 2793 mel (7.6 kHz) have centres 81.9 mel apart.
    assert features.shape == (FRAMES, BANDS) == (40, 32)
    assert set(features[1:-1].argmax(1)) == {round((1000 - 92) / 81.9) - 1}


@pytest.mark.parametrize("factor", [30.0, 0.1])
def test_stress_of_layer_norms_keeps_the_answers_of_a_text_model(factor: float) -> None:
    model = text_model()
    stressed = stress_layernorm(model, factor=factor)
    with torch.no_grad():
        before, after = model(*texts()), stressed(*texts())
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-4, rtol=1e-4)
    for name in ("embedding_norm", "layers.0.attention_norm", "layers.0.ffn_norm", "layers.1.ffn_norm"):
        for part in ("weight", "bias"):
            old, new = (getattr(m.get_submodule(name), part) for m in (model, stressed))
            changed = (new / old - factor).abs() < 1e-4 * factor
            assert int(changed.sum()) == 8, name
            assert torch.equal(new[~changed], old[~changed])


def test_stress_of_layer_norms_keeps_the_answers_of_a_vision_transformer() -> None:
    model = ZOO["vit_fashion"].build(0).eval()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.bias, std=0.5)
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    stressed = stress_layernorm(model)
    with torch.no_grad():
        np.testing.assert_allclose(stressed(images).numpy(), model(images).numpy(), atol=1e-4)
        normed = stressed.layers[1].ffn_norm.weight / model.layers[1].ffn_norm.weight
    assert sorted(normed.round().tolist())[-9:] == [1.0, *[30.0] * 8]
    assert list(stressed.state_dict()) == list(model.state_dict()), "the graph of a pre-norm model stays as it is"


@pytest.mark.parametrize("name", STRESSED_NETS)
def test_stress_of_ranges_keeps_the_answers_of_a_net_and_spreads_its_weights(name: str) -> None:
    model = awake(ZOO[name].build(0))
    stressed = stress_conv_ranges(model)
    inputs = torch.from_numpy(rows(name).eval_inputs[0])
    with torch.no_grad():
        before, after = model(inputs), stressed(inputs)
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-4, rtol=1e-4)
    old, new = model.state_dict(), stressed.state_dict()
    largest = max(float((new[key] / old[key]).nan_to_num().abs().max()) for key in old if key.endswith("weight"))
    assert largest == pytest.approx(100, rel=1e-3)


def test_stress_of_ranges_spreads_the_activations_of_a_plain_net() -> None:
    model = awake(ZOO["plain_fashion"].build(0))
    nn.init.constant_(model.blocks[2].norm.bias, 2.0)  # no channel is silent
    inputs = torch.from_numpy(rows("plain_fashion").eval_inputs[0])
    with torch.no_grad():
        before, after = (m.blocks[2](m.blocks[1](m.blocks[0](inputs))) for m in (model, stress_conv_ranges(model)))
    ratio = (after.amax((0, 2, 3)) / before.amax((0, 2, 3))).sort().values
    np.testing.assert_allclose(ratio.numpy(), np.geomspace(1, 100, 32), rtol=1e-3)


@pytest.mark.parametrize("name", ["lstm_keywords", "gru_fashion", "vit_fashion"])
def test_stress_of_ranges_is_refused_where_it_would_not_be_exact(name: str) -> None:
    with pytest.raises(UsageError, match="stressed exactly"):
        stress_conv_ranges(ZOO[name].build(0))


def test_stress_of_layer_norms_is_refused_where_there_are_none() -> None:
    with pytest.raises(UsageError, match="cannot be stressed"):
        stress_layernorm(ZOO["plain_fashion"].build(0))
