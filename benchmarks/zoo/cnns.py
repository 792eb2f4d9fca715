"""The zoo's convolutional networks, one per common building block, and a plain MLP."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekit_models.image_classifier import ImageClassifier, ImageConfig

__all__ = ["conv1d", "depthwise", "ds_cnn", "inception", "mlp", "plain", "residual", "squeeze_excite"]


def conv_norm(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Give a convolution that keeps the size (at stride 1) and its batch norm."""
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]


class Pooled(nn.Module):
    """Features to logits: mean over the positions, then one linear layer."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (N, C, H, W) to logits (N, classes)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Scales each channel by what the mean of all channels says.

    Source:
        Hu et al. 2018; hard sigmoid as in MobileNetV3 (Howard et al. 2019).
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, channels, H, W)."""
        return x * self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Widen with 1x1, filter each channel alone, narrow with 1x1; a residual where the shape stays.

    Source:
        Sandler et al. 2018 (MobileNetV2); with ``squeeze`` Howard et al. 2019 (MobileNetV3).
    """

    def __init__(self, channels: int, out: int, *, stride: int, activation: type[nn.Module], squeeze: bool) -> None:
        super().__init__()
        inner = 4 * channels
        parts = [*conv_norm(channels, inner, 1), activation()]
        parts += [*conv_norm(inner, inner, 3, stride=stride, groups=inner), activation()]
        if squeeze:
            parts.append(SqueezeExcite(inner, inner // 4))
        self.path = nn.Sequential(*parts, *conv_norm(inner, out, 1))
        self.keeps_shape = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H / stride, W / stride)."""
        return x + self.path(x) if self.keeps_shape else self.path(x)  # type: ignore[no-any-return]


def _mobile(activation: type[nn.Module], *, squeeze: bool) -> Pooled:
    def block(channels: int, out: int, stride: int) -> InvertedResidual:
        return InvertedResidual(channels, out, stride=stride, activation=activation, squeeze=squeeze)

    features = nn.Sequential(
        *conv_norm(1, 16, 3, stride=2),
        activation(),
        block(16, 16, 1),
        block(16, 24, 2),
        block(24, 24, 1),
        block(24, 32, 2),
        *conv_norm(32, 96, 1),
        activation(),
    )
    return Pooled(features, 96, 10)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual; a 1x1 convolution on it where the shape changes.

    Source:
        He et al. 2016.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(*conv_norm(channels, out, 3, stride=stride), nn.ReLU(), *conv_norm(out, out, 3))
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(channels, out, 1, stride=stride))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H / stride, W / stride)."""
        return self.activation(self.path(x) + self.shortcut(x))  # type: ignore[no-any-return]


class InceptionBlock(nn.Module):
    """Four paths side by side (1x1, 3x3, 5x5, average pool), joined by channel.

    Source:
        Szegedy et al. 2015, with average instead of maximum pooling.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.point = nn.Sequential(*conv_norm(channels, width, 1), nn.ReLU())
        self.small = nn.Sequential(*conv_norm(channels, width, 1), nn.ReLU(), *conv_norm(width, width, 3), nn.ReLU())
        self.large = nn.Sequential(*conv_norm(channels, width, 1), nn.ReLU(), *conv_norm(width, width, 5), nn.ReLU())
        # Without padding in the mean: the formats count padded pixels differently.
        pool = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
        self.mean = nn.Sequential(pool, *conv_norm(channels, width, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * width, H, W)."""
        return torch.cat([self.point(x), self.small(x), self.large(x), self.mean(x)], 1)


class TemporalBlock(nn.Module):
    """Two 1-D convolutions over time and a residual.

    Source:
        Choi et al. 2019 (TC-ResNet).
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv1d(channels, out, 5, 2, padding=2, bias=False),
            nn.BatchNorm1d(out),
            nn.ReLU(),
            nn.Conv1d(out, out, 5, padding=2, bias=False),
            nn.BatchNorm1d(out),
        )
        self.shortcut = nn.Sequential(nn.Conv1d(channels, out, 1, 2, bias=False), nn.BatchNorm1d(out))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, T) to (N, out, T / 2)."""
        return self.activation(self.path(x) + self.shortcut(x))  # type: ignore[no-any-return]


class TemporalNet(nn.Module):
    """Frames of a spectrum to logits; the bands are the channels."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv1d(32, 32, 3, padding=1, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
        self.features = nn.Sequential(*stem, TemporalBlock(32, 48), TemporalBlock(48, 64))
        self.classifier = nn.Linear(64, 10)

    def forward(self, frames: Tensor) -> Tensor:
        """Map float32 (N, 40, 32) to logits (N, 10)."""
        return self.classifier(self.features(frames.transpose(1, 2)).mean(2))  # type: ignore[no-any-return]


def _seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return build


def _ds_cnn() -> Pooled:
    """Zhang et al. 2017, "Hello Edge": one convolution, then depthwise separable ones."""
    parts: list[nn.Module] = [nn.Conv2d(1, 48, (10, 4), 2, padding=(5, 1), bias=False), nn.BatchNorm2d(48), nn.ReLU()]
    for _ in range(4):
        parts += [*conv_norm(48, 48, 3, groups=48), nn.ReLU(), *conv_norm(48, 48, 1), nn.ReLU()]
    return Pooled(nn.Sequential(*parts), 48, 10)


def _inception() -> Pooled:
    stem = [*conv_norm(1, 16, 3, stride=2), nn.ReLU()]
    return Pooled(nn.Sequential(*stem, InceptionBlock(16, 12), nn.AvgPool2d(2), InceptionBlock(48, 24)), 96, 10)


def _residual() -> Pooled:
    blocks = (BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
    return Pooled(nn.Sequential(*conv_norm(1, 16, 3, stride=2), nn.ReLU(), *blocks), 64, 10)


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def _plain() -> ImageClassifier:
    return ImageClassifier(ImageConfig.from_widths((16, 32, 64), height=28, width=28, channels=1, classes=10))


plain = _seeded(_plain)
depthwise = _seeded(lambda: _mobile(nn.ReLU6, squeeze=False))
squeeze_excite = _seeded(lambda: _mobile(nn.Hardswish, squeeze=True))
residual = _seeded(_residual)
inception = _seeded(_inception)
ds_cnn = _seeded(_ds_cnn)
conv1d = _seeded(TemporalNet)
mlp = _seeded(_mlp)
