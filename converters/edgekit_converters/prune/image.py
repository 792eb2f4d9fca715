"""Structured pruning of an image classifier: whole channels, through torch-pruning's dependency graph."""

import copy
import dataclasses
import math

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.recipe.spec import PruneSpec
from edgekit_converters.training import ImageRows
from edgekit_models.image_classifier import ConvBlock, ConvConfig, ImageClassifier

__all__ = ["prune_image"]

_SAMPLE_ROWS = 256


def prune_image(model: ImageClassifier, spec: PruneSpec, rows: ImageRows) -> tuple[ImageClassifier, str]:
    """Give a smaller plain model.

    Each convolution keeps ``channels * (1 - spec.channels)`` channels, rounded up to ``spec.multiple``. A channel's
    score is the norm of its weights times its batch-norm gain, or its mean activation on training rows.

    Args:
        model: Left as it is.
        spec: Share of channels to remove and criterion.
        rows: Training rows; the first 256 are run where activations are wanted.

    Returns:
        The smaller model and one line on what was removed.

    Source:
        Li et al. 2017, "Pruning filters for efficient ConvNets" (magnitude).
    """
    import torch_pruning

    small = copy.deepcopy(model)
    config = model.config
    graph = torch_pruning.DependencyGraph().build_dependency(
        small, example_inputs=torch.zeros(1, config.channels, config.height, config.width)
    )
    scores = _scores(small, spec, rows)
    sizes = []
    for block, score in zip(_blocks(small), scores, strict=True):
        have = block.conv.out_channels
        keep = min(have, _kept(have, spec))
        sizes.append(keep)
        if keep < have:
            gone = sorted(score.argsort()[: have - keep].tolist())
            graph.get_pruning_group(block.conv, torch_pruning.prune_conv_out_channels, idxs=gone).prune()
    plain = ImageClassifier(
        dataclasses.replace(
            config,
            convs=tuple(
                ConvConfig(channels=keep, stride=old.stride) for keep, old in zip(sizes, config.convs, strict=True)
            ),
        )
    )
    plain.load_state_dict(small.state_dict())
    before = ",".join(str(size.channels) for size in config.convs)
    return plain.eval(), f"channels {before} -> {','.join(map(str, sizes))}"


def _kept(have: int, spec: PruneSpec) -> int:
    """Give the channels to keep; ``80 * (1 - 0.7)`` is 24.000000000000004 and means 24, not the next multiple."""
    return math.ceil(round(have * (1.0 - spec.channels) / spec.multiple, 9)) * spec.multiple


def _blocks(model: ImageClassifier) -> list[ConvBlock]:
    return [block for block in model.blocks if isinstance(block, ConvBlock)]


@torch.no_grad()
def _scores(model: ImageClassifier, spec: PruneSpec, rows: ImageRows) -> list[Tensor]:
    """Score the channels of each convolution, each of shape (channels,)."""
    blocks = _blocks(model)
    if spec.criterion == "magnitude":
        return [block.conv.weight.flatten(1).norm(dim=1) * block.norm.weight.abs() for block in blocks]
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = output.abs().mean((0, 2, 3))

    hooks = [block.register_forward_hook(note) for block in blocks]
    model(*rows.batch(np.arange(min(_SAMPLE_ROWS, len(rows)))).inputs)
    for hook in hooks:
        hook.remove()
    return [seen[block] for block in blocks]
