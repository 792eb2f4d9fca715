"""The plain convolutional module."""

import pytest
import torch

from edgekit_models.image_classifier import ConvConfig, ImageClassifier, ImageConfig


def test_widths_become_two_convolutions_each_and_later_ones_halve_the_image() -> None:
    config = ImageConfig.from_widths((8, 16), height=9, width=12, channels=3, classes=5)
    assert [(conv.channels, conv.stride) for conv in config.convs] == [(8, 1), (8, 1), (16, 2), (16, 1)]
    model = ImageClassifier(config).eval()
    image = torch.randn(2, 3, 9, 12)
    assert model.blocks(image).shape == (2, 16, 5, 6)
    assert model(image).shape == (2, 5)


@torch.no_grad()
def test_logits_are_the_classifier_of_the_mean_over_the_image() -> None:
    model = ImageClassifier(ImageConfig.from_widths((4,), height=6, width=6, channels=1, classes=3)).eval()
    image = torch.randn(2, 1, 6, 6)
    first, second = model.blocks
    x = torch.relu(first.norm(first.conv(image)))
    x = torch.relu(second.norm(second.conv(x)))
    expected = x.flatten(2).mean(2) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(image), expected)


def test_every_convolution_may_have_its_own_width() -> None:
    convs = tuple(ConvConfig(channels=size, stride=1) for size in (3, 7, 2))
    model = ImageClassifier(ImageConfig(height=4, width=4, channels=1, convs=convs, classes=2))
    assert [tuple(block.conv.weight.shape[:2]) for block in model.blocks] == [(3, 1), (7, 3), (2, 7)]


@pytest.mark.parametrize(("channels", "stride"), [(0, 1), (4, 0), (4, 3)])
def test_impossible_convolution_is_refused(channels, stride) -> None:
    with pytest.raises(ValueError, match="channels >= 1 and stride 1 or 2"):
        ConvConfig(channels=channels, stride=stride)
