"""Makes the activations of a trained model hard to quantise without changing what it answers in float."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgekit_models.text_classifier import EncoderLayer, TextClassifier
from edgekit_runtime.errors import UsageError
from zoo.transformers import PreNormLayer, VisionTransformer

__all__ = ["StressedLayer", "stress_conv_ranges", "stress_layernorm"]

# f(s * x) = s * f(x) for s > 0, channel by channel.
_HOMOGENEOUS = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
)
_HOMOGENEOUS_METHODS = ("mean", "flatten")  # over positions only, in the networks of the zoo
_Layer = nn.Conv1d | nn.Conv2d | nn.Linear
_LAYERS, _NORMS = (nn.Conv1d, nn.Conv2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)


class StressedLayer(EncoderLayer):
    """An encoder layer whose residual branches take the stress off again.

    In a post-norm transformer the residual sum reads the output of the layer norm as well, and what it feeds is a layer
    norm over all channels, which a factor on some of them would change. So an exact stress needs one product by a
    constant on each residual branch; the linear layers take theirs into the weights.
    """

    entering: Tensor
    between: Tensor

    def __init__(self, layer: EncoderLayer, *, factors: Tensor) -> None:
        nn.Module.__init__(self)
        self.attention, self.attention_norm = layer.attention, layer.attention_norm
        self.ffn_in, self.ffn_out, self.ffn_norm = layer.ffn_in, layer.ffn_out, layer.ffn_norm
        self.approximate = layer.approximate
        # A factor of shape (C,) is folded into weights by the TFLite converter, which would undo the stress.
        self.register_buffer("entering", (1 / factors).reshape(1, 1, -1))
        self.register_buffer("between", (1 / factors).reshape(1, 1, -1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, T, hidden) to (N, T, hidden), both with stressed channels."""
        x = self.attention_norm(x * self.entering + self.attention(x, mask))
        inner = nn.functional.gelu(self.ffn_in(x), approximate=self.approximate)
        return self.ffn_norm(x * self.between + self.ffn_out(inner))  # type: ignore[no-any-return]


def stress_layernorm(module: nn.Module, *, channels: int = 8, factor: float = 30.0, seed: int = 0) -> nn.Module:
    """Multiply some channels of every layer norm's gamma and beta, and divide them in everything that reads them.

    In a pre-norm model only linear layers read, so the graph stays as it is; see ``StressedLayer`` for post-norm.

    Args:
        module: ``TextClassifier`` or ``VisionTransformer``; left as it is.
        channels: How many; the same ones in all layers, as the outliers of trained models are.
        factor: By how much.
        seed: Of the choice.

    Returns:
        A changed copy with the same float outputs up to rounding.

    Raises:
        UsageError: E0192, the module has no layer norms that are known here.
    """
    for kind, stress in _STRESS.items():
        if isinstance(module, kind):
            changed = copy.deepcopy(module).eval()
            norm = next(part for part in changed.modules() if isinstance(part, nn.LayerNorm))
            factors = torch.ones(len(norm.weight))
            factors[torch.from_numpy(np.random.default_rng(seed).permutation(len(factors))[:channels])] = factor
            with torch.no_grad():
                stress(changed, factors)
            return changed
    raise UsageError(
        "E0192",
        f"the layer norms of {type(module).__name__} cannot be stressed",
        why="which layers read them is known for TextClassifier and VisionTransformer only",
    )


def _stress_text(module: nn.Module, factors: Tensor) -> None:
    assert isinstance(module, TextClassifier)
    _multiply(module.embedding_norm, factors)
    for index, layer in enumerate(module.layers):
        assert isinstance(layer, EncoderLayer)
        attention = layer.attention
        for norm in (layer.attention_norm, layer.ffn_norm):
            _multiply(norm, factors)
        for reader in (attention.query, attention.key, attention.value, layer.ffn_in):
            reader.weight /= factors
        module.layers[index] = StressedLayer(layer, factors=factors)
    reader = module.classifier if module.config.head == "none" else module.head_dense
    reader.weight /= factors


def _stress_vision(module: nn.Module, factors: Tensor) -> None:
    assert isinstance(module, VisionTransformer)
    for layer in module.layers:
        assert isinstance(layer, PreNormLayer)
        for norm, reader in ((layer.attention_norm, layer.attention.qkv), (layer.ffn_norm, layer.ffn_in)):
            _multiply(norm, factors)
            reader.weight /= factors
    _multiply(module.norm, factors)
    module.classifier.weight /= factors


def _multiply(norm: nn.LayerNorm, factors: Tensor) -> None:
    norm.weight.mul_(factors)
    norm.bias.mul_(factors)


_STRESS: Mapping[type[nn.Module], Callable[[nn.Module, Tensor], None]] = MappingProxyType(
    {TextClassifier: _stress_text, VisionTransformer: _stress_vision}
)


def stress_conv_ranges(module: nn.Module, *, factor: float = 100.0, seed: int = 0) -> nn.Module:
    """Multiply the channels between two layers by 1 to ``factor`` and divide them in the layers that read them.

    Exact because ``relu(s * x) = s * relu(x)`` for s above 0. Changed is every convolution or linear layer whose output
    reaches nothing but such layers, through batch norm, ReLU and pooling. ReLU6, hard swish, sums and concatenations
    end a path: behind them the factor could not be taken back.

    Args:
        module: A network of the zoo; left as it is.
        factor: The largest; the channels of a layer are spread evenly over the logarithm.
        seed: Of the order of the channels.

    Returns:
        A changed copy with the same float outputs up to rounding.

    Raises:
        UsageError: E0193, no layer can be changed.

    Source:
        Nagel et al. 2019, cross-layer equalisation, run backwards.
    """
    changed = copy.deepcopy(module).eval()
    generator = np.random.default_rng(seed)
    count = 0
    with torch.no_grad():
        for node in _nodes(changed):
            writer = _module(changed, node)
            if not isinstance(writer, _LAYERS):
                continue
            norm, last = _norm_behind(changed, node)
            readers = _readers(changed, last)
            if readers is None:
                continue
            size = len(writer.weight)
            spread = factor ** np.linspace(0, 1, size)[generator.permutation(size)]
            _scale(norm if norm is not None else writer, torch.from_numpy(spread.astype(np.float32)), readers)
            count += 1
    if not count:
        raise UsageError(
            "E0193",
            f"no channel of {type(module).__name__} can be stressed exactly",
            why="every path between two layers holds a ReLU6, a hard swish, a sum or the like",
        )
    return changed


def _nodes(module: nn.Module) -> list[fx.Node]:
    """Give the calls of a network; none where its forward cannot be followed, as in the attention of the ViT."""
    try:
        return list(fx.Tracer().trace(module).nodes)
    except fx.proxy.TraceError:
        return []


def _module(root: nn.Module, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _norm_behind(root: nn.Module, node: fx.Node) -> tuple[nn.BatchNorm1d | nn.BatchNorm2d | None, fx.Node]:
    users = list(node.users)
    if len(users) == 1:
        norm = _module(root, users[0])
        if isinstance(norm, _NORMS):
            return norm, users[0]
    return None, node


def _readers(root: nn.Module, node: fx.Node) -> list[_Layer] | None:
    """Give the layers that read a node; None if anything else does."""
    found: list[_Layer] = []
    for user in node.users:
        module = _module(root, user)
        if isinstance(module, _LAYERS):
            found.append(module)
            continue
        passes = isinstance(module, _HOMOGENEOUS) or (user.op == "call_method" and user.target in _HOMOGENEOUS_METHODS)
        deeper = _readers(root, user) if passes else None
        if deeper is None:
            return None
        found += deeper
    return found or None


def _scale(writer: nn.Module, factors: Tensor, readers: list[_Layer]) -> None:
    assert isinstance(writer, (*_LAYERS, *_NORMS))
    writer.weight *= factors.reshape(-1, *(1 for _ in writer.weight.shape[1:]))
    if writer.bias is not None:
        writer.bias *= factors
    for reader in readers:
        single = not isinstance(reader, nn.Linear) and reader.groups > 1  # depthwise: channels stand in dimension 0
        rest = (1 for _ in reader.weight.shape[1 if single else 2 :])
        reader.weight /= factors.reshape(-1, *rest) if single else factors.reshape(1, -1, *rest)
