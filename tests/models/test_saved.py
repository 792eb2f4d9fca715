"""Models on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.saved import (
    load_model,
    load_own_model,
    load_weights,
    parse_config,
    read_config,
    save_foreign_model,
    save_model,
)
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import ConversionError


def text() -> TextClassifier:
    sizes = (LayerConfig(heads=2, ffn=8), LayerConfig(heads=1, ffn=16))
    return TextClassifier(
        TextConfig(vocabulary=20, hidden=8, head_size=4, layers=sizes, max_length=6, classes=2, head="relu")
    ).eval()


def image() -> ImageClassifier:
    return ImageClassifier(ImageConfig.from_widths((4, 8), height=8, width=8, channels=1, classes=3)).eval()


EXAMPLES = {
    "text": (text, (torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64))),
    "image": (image, (torch.ones(2, 1, 8, 8),)),
}


class Foreign(nn.Module):
    """Takes images and is none of ours; dropout and batch norm tell training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
@torch.no_grad()
def test_model_comes_back_as_it_was(tmp_path, kind) -> None:
    make, example = EXAMPLES[kind]
    model = make()
    save_model(model, tmp_path)
    for back in (load_model(tmp_path), load_own_model(tmp_path / "config.json", tmp_path / "model.safetensors")):
        assert type(back) is type(model)
        assert back.config == model.config
        assert not back.training
        torch.testing.assert_close(back(*example), model(*example), rtol=0, atol=0)
    assert read_config(tmp_path / "config.json") == model.config


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_same_model_gives_the_same_bytes(tmp_path, kind) -> None:
    model = EXAMPLES[kind][0]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_foreign_config_is_refused(tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "bert"}')
    with pytest.raises(ConversionError) as caught:
        read_config(path)
    assert caught.value.code == "E0704"
    assert "'bert'" in caught.value.what


@pytest.mark.parametrize(
    "change", [{"hidden": None}, {"wings": 2}, {"layers": None}, {"layers": [{"heads": 0, "ffn": 8}]}, {"layers": 3}]
)
def test_config_that_describes_no_model_is_refused(tmp_path, change) -> None:
    save_model(text(), tmp_path)
    raw = {**json.loads((tmp_path / "config.json").read_text()), **change}
    raw = {key: value for key, value in raw.items() if value is not None}
    with pytest.raises(ConversionError) as caught:
        parse_config(raw, name="x")
    assert caught.value.code == "E0705"


def test_weights_of_another_shape_are_refused(tmp_path) -> None:
    other = ImageClassifier(ImageConfig.from_widths((4, 12), height=8, width=8, channels=1, classes=3))
    for weights in (other.state_dict(), {"something": torch.ones(1)}):
        save_file(dict(weights), tmp_path / "w.safetensors")
        with pytest.raises(ConversionError) as caught:
            load_weights(image(), tmp_path / "w.safetensors")
        assert caught.value.code == "E0706"
        assert "w.safetensors" in caught.value.what


@torch.no_grad()
def test_foreign_module_comes_back_without_its_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Foreign()
    model(torch.randn(8, 1, 8, 8))  # moves the batch norm's statistics
    save_foreign_model(model, (torch.zeros(2, 1, 8, 8),), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    back = load_model(tmp_path)
    assert not isinstance(back, Foreign)
    for rows in (1, 2, 5, 64):
        images = torch.randn(rows, 1, 8, 8)
        torch.testing.assert_close(back(images), model.eval()(images), rtol=0, atol=1e-6)


class Choosy(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x


def test_module_that_cannot_be_traced_is_refused(tmp_path) -> None:
    with pytest.raises(ConversionError) as caught:
        save_foreign_model(Choosy(), (torch.zeros(2, 3),), tmp_path)
    assert caught.value.code == "E0707"
    assert "Choosy" in caught.value.what
    assert not list(tmp_path.iterdir())
