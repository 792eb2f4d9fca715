"""Makes a student: a text model from chosen layers and channels of its teacher, an image model from its widths."""

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.recipe.spec import StudentSpec
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.text_classifier import EncoderLayer, TextClassifier
from edgekit_runtime.errors import UsageError

__all__ = ["check_student", "keep_channels", "keep_ffn", "keep_heads", "paired_layers", "text_student"]


def check_student(teacher: nn.Module, spec: StudentSpec) -> None:
    """Refuse a student that cannot be made from a teacher, before anything is trained.

    Raises:
        UsageError: A layer or a width that the teacher does not have, or no size for an image student.
    """
    if isinstance(teacher, TextClassifier):
        have = len(teacher.layers)
        if spec.layers and max(spec.layers) >= have:
            raise UsageError(
                "E0130",
                f"model.student.layers names layer {max(spec.layers)}, but the teacher has {have} layers",
                fix=f"name layers from 0 to {have - 1}",
            )
        if spec.hidden > teacher.config.hidden:
            raise UsageError(
                "E0132",
                f"model.student.hidden is {spec.hidden}, more than the teacher's {teacher.config.hidden}",
                fix=f"choose {teacher.config.hidden} or less, or leave it out",
            )
    elif not spec.widths and not isinstance(teacher, ImageClassifier):
        raise UsageError(
            "E0131",
            "model.student.widths is not given",
            why="the teacher is not one of edgekit's own networks, so the student's size cannot be taken from it",
            fix="add for example widths: [16, 32, 64]",
        )


def text_student(
    teacher: TextClassifier, *, layers: Sequence[int], hidden_order: Tensor | None = None
) -> TextClassifier:
    """Copy the embeddings, the chosen layers and the head of a teacher.

    Args:
        teacher: Left as it is.
        layers: Teacher layers in the order they take in the student, as ``check_student`` accepts them; empty = all.
        hidden_order: Channels of the residual stream to keep, integer, shape (hidden,); None = all.
    """
    chosen = list(layers) or list(range(len(teacher.layers)))
    student = copy.deepcopy(teacher)
    student.layers = nn.ModuleList(copy.deepcopy(teacher.layers[i]) for i in chosen)
    student.config = dataclasses.replace(teacher.config, layers=tuple(teacher.config.layers[i] for i in chosen))
    if hidden_order is not None:
        keep_channels(student, hidden_order)
    return student


def paired_layers(layers: Sequence[int], teacher_layers: int) -> list[int]:
    """Give for each hidden state of a student the teacher's that it imitates; 0 is the embedding output.

    A copied layer stands for all the teacher layers up to the next copied one, so it imitates the output of the last of
    them; the last student layer imitates the teacher's last.
    """
    chosen = list(layers) or list(range(teacher_layers))
    return [0, *chosen[1:], teacher_layers]


def _slice(linear: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    weight = linear.weight.detach()
    bias = linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    small = nn.Linear(weight.shape[1], weight.shape[0])
    small.weight = nn.Parameter(weight.clone())
    small.bias = nn.Parameter(bias.clone())
    return small


def _slice_norm(norm: nn.LayerNorm, keep: Tensor) -> nn.LayerNorm:
    small = nn.LayerNorm(len(keep), eps=norm.eps)
    small.weight = nn.Parameter(norm.weight.detach()[keep].clone())
    small.bias = nn.Parameter(norm.bias.detach()[keep].clone())
    return small


def keep_channels(model: TextClassifier, keep: Tensor) -> None:
    """Narrow the residual stream of ``model`` to the channels ``keep``, in place."""
    words = nn.Embedding(model.config.vocabulary, len(keep))
    words.weight = nn.Parameter(model.words.weight.detach()[:, keep].clone())
    model.words = words
    model.positions = nn.Parameter(model.positions.detach()[:, keep].clone())
    model.embedding_norm = _slice_norm(model.embedding_norm, keep)
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        attention = layer.attention
        for name in ("query", "key", "value"):
            setattr(attention, name, _slice(getattr(attention, name), columns=keep))
        attention.output = _slice(attention.output, rows=keep)
        layer.attention_norm = _slice_norm(layer.attention_norm, keep)
        layer.ffn_in = _slice(layer.ffn_in, columns=keep)
        layer.ffn_out = _slice(layer.ffn_out, rows=keep)
        layer.ffn_norm = _slice_norm(layer.ffn_norm, keep)
    if model.config.head != "none":
        model.head_dense = _slice(model.head_dense, rows=keep, columns=keep)
    model.classifier = _slice(model.classifier, columns=keep)
    model.config = dataclasses.replace(model.config, hidden=len(keep))


def _resize(model: TextClassifier, index: int, **size: int) -> None:
    layers = list(model.config.layers)
    layers[index] = dataclasses.replace(layers[index], **size)
    model.config = dataclasses.replace(model.config, layers=tuple(layers))


def keep_heads(model: TextClassifier, index: int, heads: Tensor) -> None:
    """Keep only ``heads`` (integer, sorted) in layer ``index``, in place."""
    layer = model.layers[index]
    assert isinstance(layer, EncoderLayer)
    attention = layer.attention
    size = attention.head_size
    keep = (heads[:, None] * size + torch.arange(size)).reshape(-1)
    for name in ("query", "key", "value"):
        setattr(attention, name, _slice(getattr(attention, name), rows=keep))
    attention.output = _slice(attention.output, columns=keep)
    attention.heads = len(heads)
    _resize(model, index, heads=len(heads))


def keep_ffn(model: TextClassifier, index: int, neurons: Tensor, *, mean: Tensor | None = None) -> None:
    """Keep only ``neurons`` (integer, sorted) of the feed-forward part of layer ``index``, in place.

    Args:
        model: Changed.
        index: Layer.
        neurons: What stays.
        mean: Mean activation of every neuron, shape (ffn,); what the removed ones gave on average goes into the bias.
    """
    layer = model.layers[index]
    assert isinstance(layer, EncoderLayer)
    if mean is not None:
        gone = torch.ones(layer.ffn_in.out_features, dtype=torch.bool)
        gone[neurons] = False
        layer.ffn_out.bias.data += layer.ffn_out.weight.detach()[:, gone] @ mean[gone]
    layer.ffn_in = _slice(layer.ffn_in, rows=neurons)
    layer.ffn_out = _slice(layer.ffn_out, columns=neurons)
    _resize(model, index, ffn=len(neurons))
