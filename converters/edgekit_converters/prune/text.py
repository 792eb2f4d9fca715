"""Structured pruning of a text classifier: whole attention heads and feed-forward neurons."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.recipe.spec import PruneSpec
from edgekit_converters.training import TextRows
from edgekit_models.students import keep_ffn, keep_heads
from edgekit_models.text_classifier import EncoderLayer, TextClassifier

__all__ = ["head_scores", "neuron_scores", "prune_text"]

_SAMPLE_ROWS = 512
_BATCH = 64


def prune_text(model: TextClassifier, spec: PruneSpec, rows: TextRows) -> str:
    """Make ``model`` smaller in place.

    A neuron's score is the mean size of its activation times the norm of its outgoing weights (Wanda's criterion, per
    neuron instead of per weight), or the product of its weight norms; a head's is the sum over its outputs. What
    removed neurons gave on average moves into the bias of the next layer.

    Args:
        model: Changed.
        spec: Sizes to keep and criterion.
        rows: Training rows; the first 512 are run where activations are wanted.

    Returns:
        One line on what was removed.

    Source:
        Michel et al. 2019 (heads); Sun et al. 2024, "A simple and effective pruning approach for large language models"
        (activation times weight).
    """
    inner, context = _activations(model, rows)
    notes = []
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, EncoderLayer)
        heads, size = layer.attention.heads, model.config.head_size
        if spec.heads and spec.heads < heads:
            scores = head_scores(layer, context[i], size=size, criterion=spec.criterion)
            keep_heads(model, i, scores.topk(spec.heads).indices.sort().values)
        neurons = layer.ffn_in.out_features
        wanted = math.ceil(spec.ffn / spec.multiple) * spec.multiple
        if wanted and wanted < neurons:
            scores = neuron_scores(layer, inner[i], criterion=spec.criterion)
            keep = scores.topk(wanted).indices.sort().values
            keep_ffn(model, i, keep, mean=inner[i].mean(0))
        notes.append(f"{heads}->{layer.attention.heads} heads, {neurons}->{layer.ffn_in.out_features} neurons")
    return "; ".join(dict.fromkeys(notes))


def neuron_scores(layer: EncoderLayer, inner: Tensor, *, criterion: Literal["magnitude", "activation"]) -> Tensor:
    """Score the feed-forward neurons of a layer, shape (ffn,).

    Args:
        layer: The layer.
        inner: Activations behind the GELU on real tokens, shape (tokens, ffn).
        criterion: See ``prune_text``.
    """
    outgoing: Tensor = layer.ffn_out.weight.detach().norm(dim=0)
    incoming: Tensor = layer.ffn_in.weight.detach().norm(dim=1) if criterion == "magnitude" else inner.abs().mean(0)
    return outgoing * incoming


def head_scores(
    layer: EncoderLayer, context: Tensor, *, size: int, criterion: Literal["magnitude", "activation"]
) -> Tensor:
    """Score the attention heads of a layer, shape (heads,).

    Args:
        layer: The layer.
        context: Input of the output projection on real tokens, shape (tokens, heads * size).
        size: Width of a head.
        criterion: See ``prune_text``.
    """
    outgoing: Tensor = layer.attention.output.weight.detach().norm(dim=0)
    if criterion == "magnitude":
        channel = outgoing * layer.attention.value.weight.detach().norm(dim=1)
    else:
        channel = outgoing * context.abs().mean(0)
    scores: Tensor = channel.reshape(-1, size).sum(1)
    return scores


@torch.no_grad()
def _activations(model: TextClassifier, rows: TextRows) -> tuple[list[Tensor], list[Tensor]]:
    """Give what enters ``ffn_out`` and ``attention.output`` of each layer on real tokens of the first rows."""
    seen: dict[nn.Module, list[Tensor]] = {}
    mask = torch.empty(0)

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        seen.setdefault(module, []).append(inputs[0][mask])

    layers = [layer for layer in model.layers if isinstance(layer, EncoderLayer)]
    watched = [layer.ffn_out for layer in layers] + [layer.attention.output for layer in layers]
    hooks = [module.register_forward_hook(note) for module in watched]
    count = min(_SAMPLE_ROWS, len(rows))
    for start in range(0, count, _BATCH):
        batch = rows.batch(np.arange(start, min(start + _BATCH, count)))
        mask = batch.inputs[1].bool()
        model(*batch.inputs)
    for hook in hooks:
        hook.remove()
    tokens = [torch.cat(seen[module]) for module in watched]
    return tokens[: len(layers)], tokens[len(layers) :]
