"""The zoo's transformers: four cut from all-MiniLM-L6-v2, with the outliers that its training left, and a small ViT."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit_converters.prune.text import head_scores, neuron_scores
from edgekit_models.checkpoints import read_transformers_folder
from edgekit_models.files import find_package_folder
from edgekit_models.students import keep_ffn, keep_heads, text_student
from edgekit_models.text_classifier import EncoderLayer, TextClassifier
from zoo.data import MINILM

__all__ = ["Cut", "VisionTransformer", "cut_minilm", "vision_transformer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What stays of MiniLM's 6 layers, 384 channels, 12 heads and 1,536 feed-forward neurons.

    Attributes:
        layers: Which layers, counted from 0.
        hidden: Channels of the residual stream.
        heads: Heads of each layer.
        ffn: Feed-forward neurons of each layer.
    """

    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    hidden: int = 384
    heads: int = 12
    ffn: int = 1_536


def cut_minilm(seed: int, cut: Cut, *, classes: int, max_length: int) -> TextClassifier:
    """Give a classifier with MiniLM's weights, pruned by the size of the weights; only the last layer is drawn.

    Args:
        seed: Of the classifier's weights.
        cut: What stays.
        classes: Number of logits.
        max_length: Tokens.
    """
    torch.manual_seed(seed)
    whole = read_transformers_folder(find_package_folder(*MINILM), classes=classes, max_length=max_length)
    order = None if cut.hidden == whole.config.hidden else _loud_channels(whole, cut.hidden)
    model = text_student(whole, layers=cut.layers, hidden_order=order)
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, EncoderLayer)
        unused = torch.empty(0)  # the criterion `magnitude` looks at weights alone
        if cut.heads < layer.attention.heads:
            scores = head_scores(layer, unused, size=model.config.head_size, criterion="magnitude")
            keep_heads(model, index, scores.topk(cut.heads).indices.sort().values)
        if cut.ffn < layer.ffn_in.out_features:
            scores = neuron_scores(layer, unused, criterion="magnitude")
            keep_ffn(model, index, scores.topk(cut.ffn).indices.sort().values)
    return model


def _loud_channels(model: TextClassifier, count: int) -> Tensor:
    """Give the channels that the layers write most to; the outliers are among them."""
    written = torch.zeros(model.config.hidden)
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        written += layer.ffn_out.weight.detach().norm(dim=1) * layer.ffn_norm.weight.detach().abs()
    return written.topk(count).indices.sort().values


class FusedAttention(nn.Module):
    """Multi-head attention whose queries, keys and values come out of one linear layer, as in most image models."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, hidden) to (N, T, hidden)."""
        n, t, hidden = x.shape
        query, key, value = (
            part.reshape(n, t, self.heads, self.head_size).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5
        context = scores.softmax(-1) @ value
        return self.output(context.transpose(1, 2).reshape(n, t, hidden))  # type: ignore[no-any-return]


class PreNormLayer(nn.Module):
    """Attention and feed-forward, each with a layer norm before it and a residual around both."""

    def __init__(self, hidden: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = FusedAttention(hidden, heads)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.ffn_in = nn.Linear(hidden, ffn)
        self.ffn_out = nn.Linear(ffn, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, hidden) to (N, T, hidden)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn_out(functional.gelu(self.ffn_in(self.ffn_norm(x))))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """28x28 images, cut into 49 patches of 4x4, to logits; pre-norm, mean over the patches, no class token.

    Source:
        Dosovitskiy et al. 2021, at toy size.
    """

    def __init__(self, *, hidden: int, heads: int, ffn: int, layers: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(16, hidden)
        self.positions = nn.Parameter(torch.randn(49, hidden) * 0.02)
        self.layers = nn.Sequential(*(PreNormLayer(hidden, heads, ffn) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map images, float32 (N, 1, 28, 28), to logits (N, classes)."""
        n = image.shape[0]
        patches = image.reshape(n, 7, 4, 7, 4).transpose(2, 3).reshape(n, 49, 16)
        x = self.layers(self.patches(patches) + self.positions)
        return self.classifier(self.norm(x).mean(1))  # type: ignore[no-any-return]


def vision_transformer(seed: int) -> VisionTransformer:
    """Give an untrained ViT of 3 layers and 96 channels."""
    torch.manual_seed(seed)
    return VisionTransformer(hidden=96, heads=4, ffn=288, layers=3, classes=10)
