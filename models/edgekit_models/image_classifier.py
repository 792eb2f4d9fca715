"""A small convolutional classifier as one plain module that exports alike to ONNX and TFLite, whole or pruned."""

from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["ConvConfig", "ImageClassifier", "ImageConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvConfig:
    """One 3x3 convolution with batch norm and ReLU.

    Attributes:
        channels: Output channels, at least 1.
        stride: 1, or 2 to halve height and width.
    """

    channels: int
    stride: int

    def __post_init__(self) -> None:
        if self.channels < 1 or self.stride not in (1, 2):
            raise ValueError(f"a convolution needs channels >= 1 and stride 1 or 2, not {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Shape of an image classifier.

    Attributes:
        height: Rows of the input in pixels.
        width: Columns of the input in pixels.
        channels: Channels of the input.
        convs: The convolutions in order.
        classes: Number of logits.
    """

    height: int
    width: int
    channels: int
    convs: tuple[ConvConfig, ...]
    classes: int

    @classmethod
    def from_widths(
        cls, widths: tuple[int, ...], *, height: int, width: int, channels: int, classes: int
    ) -> "ImageConfig":
        """Give two convolutions per width; each width after the first starts with stride 2."""
        convs = tuple(
            ConvConfig(channels=size, stride=2 if block > 0 and half == 0 else 1)
            for block, size in enumerate(widths)
            for half in range(2)
        )
        return cls(height=height, width=width, channels=channels, convs=convs, classes=classes)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels: int, size: ConvConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, size.channels, 3, size.stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(size.channels)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        return self.activation(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class ImageClassifier(nn.Module):
    """Preprocessed images to logits."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [config.channels, *(size.channels for size in config.convs)]
        self.blocks = nn.Sequential(
            *(ConvBlock(channels, size) for channels, size in zip(inputs, config.convs, strict=False))
        )
        self.classifier = nn.Linear(inputs[-1], config.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 images (N, channels, height, width) to logits (N, classes)."""
        return self.classifier(self.blocks(image).mean((2, 3)))  # type: ignore[no-any-return]
