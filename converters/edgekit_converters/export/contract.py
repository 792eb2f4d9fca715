"""What every exported model takes and gives, and the form of the module that the exporters see."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgekit_models.image_classifier import ConvBlock, ImageClassifier, ImageConfig
from edgekit_models.saved import Classifier
from edgekit_models.text_classifier import TextClassifier, TextConfig
from edgekit_runtime.manifest import TensorSpec

__all__ = ["ModelContract", "contract_of", "exportable"]

_DTYPES = {"int32": torch.int32, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """Inputs and outputs, both formats alike; ``tensor`` equals ``name`` until a converter renames it.

    Attributes:
        inputs: ``input_ids`` and ``attention_mask``, int32 (1, L); or ``image``, float32 (1, H, W, C).
        outputs: ``logits``, float32 (1, classes).
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Give inputs that the exporters trace with: ones."""
        return tuple(torch.ones(spec.shape, dtype=_DTYPES[spec.dtype]) for spec in self.inputs)


def contract_of(config: TextConfig | ImageConfig) -> ModelContract:
    """Give the contract that a model of this shape fulfils once it is ``exportable``."""
    shape: tuple[int, ...]
    if isinstance(config, TextConfig):
        shape = (1, config.max_length)
        inputs = tuple(
            TensorSpec(name=name, tensor=name, dtype="int32", shape=shape) for name in ("input_ids", "attention_mask")
        )
    else:
        shape = (1, config.height, config.width, config.channels)
        inputs = (TensorSpec(name="image", tensor="image", dtype="float32", shape=shape),)
    logits = TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, config.classes))
    return ModelContract(inputs=inputs, outputs=(logits,))


class _ChannelsLast(nn.Module):
    """Takes images as cameras and TFLite give them, (N, H, W, C)."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def exportable(model: Classifier) -> nn.Module:
    """Give a copy in evaluation mode with batch norms folded into their convolutions and images channels-last."""
    module = copy.deepcopy(model).eval()
    if isinstance(module, TextClassifier):
        return module
    for block in module.blocks:
        assert isinstance(block, ConvBlock)
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = nn.Identity()  # type: ignore[assignment]
    return _ChannelsLast(module).eval()
