"""A BERT-like text classifier as one plain module that exports the same way to ONNX and TFLite, whole or pruned.

Every layer has its own number of heads and feed-forward neurons, so a pruned model is an ordinary smaller model: a
config and a state dict, no masks and no pickle.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MASK_VALUE", "LayerConfig", "TextClassifier", "TextConfig"]

# Added to the attention scores of padding. exp(-50) is 2e-22, so float results do not change, but the value stays
# inside a range that int8 can hold; -3.4e38 or -inf would stretch the scale of the scores until nothing is left.
MASK_VALUE = -50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """Size of one encoder layer.

    Attributes:
        heads: Attention heads, at least 1.
        ffn: Feed-forward neurons, at least 1.
    """

    heads: int
    ffn: int

    def __post_init__(self) -> None:
        if self.heads < 1 or self.ffn < 1:
            raise ValueError(f"a layer needs at least one head and one neuron, not {self.heads} and {self.ffn}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Shape of a text classifier.

    Attributes:
        vocabulary: Number of token ids.
        hidden: Width of the residual stream.
        head_size: Width of one attention head.
        layers: Size of each encoder layer.
        max_length: Positions that the model knows.
        classes: Number of logits.
        pooling: ``mean`` over real tokens, or the ``first`` token.
        head: What stands between pooling and the logits: nothing, or a dense layer with ``tanh`` or ``relu``.
        activation: ``gelu`` (exact) or ``gelu_tanh``.
        norm_epsilon: Epsilon of the layer norms.
    """

    vocabulary: int
    hidden: int
    head_size: int
    layers: tuple[LayerConfig, ...]
    max_length: int
    classes: int
    pooling: Literal["mean", "first"] = "mean"
    head: Literal["none", "tanh", "relu"] = "none"
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    norm_epsilon: float = 1e-12


class SelfAttention(nn.Module):
    """Multi-head attention written out, so that both exporters see the same plain operators."""

    def __init__(self, hidden: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        inner = heads * head_size
        self.query = nn.Linear(hidden, inner)
        self.key = nn.Linear(hidden, inner)
        self.value = nn.Linear(hidden, inner)
        self.output = nn.Linear(inner, hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, T, hidden) to (N, T, hidden); ``mask`` (N, 1, 1, T) is added to the scores."""
        n, t, _ = x.shape
        query, key, value = (
            layer(x).reshape(n, t, self.heads, self.head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5 + mask
        context = scores.softmax(-1) @ value
        return self.output(context.transpose(1, 2).reshape(n, t, self.heads * self.head_size))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual and a layer norm after it (post-norm, as in BERT)."""

    def __init__(self, config: TextConfig, size: LayerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.hidden, size.heads, config.head_size)
        self.attention_norm = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)
        self.ffn_in = nn.Linear(config.hidden, size.ffn)
        self.ffn_out = nn.Linear(size.ffn, config.hidden)
        self.ffn_norm = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, T, hidden) to (N, T, hidden)."""
        x = self.attention_norm(x + self.attention(x, mask))
        inner = functional.gelu(self.ffn_in(x), approximate=self.approximate)
        return self.ffn_norm(x + self.ffn_out(inner))  # type: ignore[no-any-return]


class TextClassifier(nn.Module):
    """Token ids to logits."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.hidden)
        # Token type 0 is folded in when a BERT is loaded: these models only ever see one segment.
        self.positions = nn.Parameter(torch.zeros(config.max_length, config.hidden))
        self.embedding_norm = nn.LayerNorm(config.hidden, eps=config.norm_epsilon)
        self.layers = nn.ModuleList(EncoderLayer(config, size) for size in config.layers)
        if config.head != "none":
            self.head_dense = nn.Linear(config.hidden, config.hidden)
        self.classifier = nn.Linear(config.hidden, config.classes)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Give the embedding output and the output of each layer.

        Args:
            input_ids: Token ids, integer, shape (N, T) with T <= ``max_length``.
            attention_mask: 1 for tokens and 0 for padding, integer, shape (N, T).

        Returns:
            ``len(layers) + 1`` tensors of shape (N, T, hidden).
        """
        x = self.embedding_norm(self.words(input_ids) + self.positions[: input_ids.shape[1]])
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * MASK_VALUE
        states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        return states

    def classify(self, last: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool the last hidden state (N, T, hidden) and give logits (N, classes)."""
        if self.config.pooling == "mean":
            weights = attention_mask[:, :, None].to(last.dtype)
            pooled = (last * weights).sum(1) / weights.sum(1)
        else:
            pooled = last[:, 0]
        if self.config.head == "tanh":
            pooled = torch.tanh(self.head_dense(pooled))
        elif self.config.head == "relu":
            pooled = torch.relu(self.head_dense(pooled))
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Give logits, float32 (N, classes)."""
        return self.classify(self.hidden_states(input_ids, attention_mask)[-1], attention_mask)
