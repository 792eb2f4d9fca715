"""The table of the zoo, and the one way to get a trained model out of it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from edgekit_models.files import near
from edgekit_runtime.errors import UsageError
from zoo import cnns, data, recurrent
from zoo.fetch import ROOT
from zoo.rows import ZooData
from zoo.train import TrainSettings, train_model
from zoo.transformers import Cut, cut_minilm, vision_transformer

__all__ = ["SEEDS", "ZOO", "ZooModel", "get_model", "load_trained"]

SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model of the zoo.

    Attributes:
        name: What tables call it.
        kind: Which goal of the benchmark it counts for.
        build: Gives the untrained module for a seed; inputs are batch-first and of fixed size.
        data: Gives its rows.
        training: How it is trained.
        per_tensor: The target takes one scale per weight tensor and none per channel.
        weights_of: Name of the row whose trained weights it shares; empty = its own.
        notes: What it is there to show.
    """

    name: str
    kind: Literal["transformer", "cnn", "rnn"]
    build: Callable[[int], nn.Module]
    data: Callable[[], ZooData]
    training: TrainSettings
    per_tensor: bool = False
    weights_of: str = ""
    notes: str


_TEXT = TrainSettings(epochs=1, batch_size=32, learning_rate=2e-4, precision="bfloat16", frozen=("words.", "positions"))
_IMAGE = TrainSettings(epochs=3, batch_size=64, learning_rate=4e-3)
_SPEECH = TrainSettings(epochs=12, batch_size=64, learning_rate=4e-3)
_DEMO = Cut(layers=(0, 1, 3, 5), heads=6, ffn=384)  # sizes of examples/sentiment.yaml
_NARROW = Cut(layers=(0, 5), hidden=192, heads=6, ffn=384)

_TRANSFORMERS = (
    ZooModel(
        name="minilm_demo",
        kind="transformer",
        build=partial(cut_minilm, cut=_DEMO, classes=2, max_length=64),
        data=data.reviews,
        training=dataclasses.replace(_TEXT, epochs=1.5),
        notes="the student of the demo: 4 layers, 6 heads, 384 neurons; fine-tuned, not distilled",
    ),
    ZooModel(
        name="minilm_l6",
        kind="transformer",
        build=partial(cut_minilm, cut=Cut(), classes=2, max_length=64),
        data=data.reviews,
        training=dataclasses.replace(
            _TEXT, epochs=0.5, frozen=("words.", "positions", "embedding_norm.", *(f"layers.{i}." for i in range(4)))
        ),
        notes="all of MiniLM-L6 with its outliers; the lower four layers are as published",
    ),
    ZooModel(
        name="minilm_l3_complaints",
        kind="transformer",
        build=partial(cut_minilm, cut=Cut(layers=(0, 2, 5)), classes=8, max_length=64),
        data=data.complaints,
        training=dataclasses.replace(_TEXT, frozen=("words.", "positions", "embedding_norm.", "layers.0.")),
        notes="3 whole layers, 8 classes, texts that fill all 64 tokens",
    ),
    ZooModel(
        name="minilm_narrow_toxic",
        kind="transformer",
        build=partial(cut_minilm, cut=_NARROW, classes=2, max_length=64),
        data=data.toxic,
        training=dataclasses.replace(_TEXT, epochs=1.5, learning_rate=4e-4),
        notes="2 layers of 192 channels; 79 % of the rows are of one class",
    ),
    ZooModel(
        name="vit_fashion",
        kind="transformer",
        build=vision_transformer,
        data=data.fashion,
        training=TrainSettings(epochs=5, batch_size=64, learning_rate=2e-3),
        notes="images, pre-norm, one linear layer for query, key and value; trained from scratch",
    ),
)
_NETS = (
    ZooModel(
        name="plain_fashion",
        kind="cnn",
        build=cnns.plain,
        data=data.fashion,
        training=_IMAGE,
        notes="edgekit's own ImageClassifier: 3x3 convolutions, batch norm, ReLU",
    ),
    ZooModel(
        name="depthwise_fashion",
        kind="cnn",
        build=cnns.depthwise,
        data=data.fashion,
        training=_IMAGE,
        notes="MobileNetV2: depthwise convolutions, ReLU6, residuals",
    ),
    ZooModel(
        name="se_hardswish_fashion",
        kind="cnn",
        build=cnns.squeeze_excite,
        data=data.fashion,
        training=_IMAGE,
        notes="MobileNetV3: squeeze-and-excite, hard swish, hard sigmoid",
    ),
    ZooModel(
        name="residual_fashion",
        kind="cnn",
        build=cnns.residual,
        data=data.fashion,
        training=_IMAGE,
        notes="ResNet: sums of two scales",
    ),
    ZooModel(
        name="inception_fashion",
        kind="cnn",
        build=cnns.inception,
        data=data.fashion,
        training=dataclasses.replace(_IMAGE, epochs=5),
        notes="average pooling, and concatenation of four scales",
    ),
    ZooModel(
        name="ds_cnn_keywords",
        kind="cnn",
        build=cnns.ds_cnn,
        data=data.keywords,
        training=_SPEECH,
        notes="DS-CNN for keyword spotting; synthetic speech",
    ),
    ZooModel(
        name="conv1d_keywords",
        kind="cnn",
        build=cnns.conv1d,
        data=data.keyword_frames,
        training=_SPEECH,
        notes="1-D convolutions over time, residuals; synthetic speech",
    ),
    ZooModel(
        name="mlp_digits",
        kind="cnn",
        build=cnns.mlp,
        data=data.digits,
        training=TrainSettings(epochs=40, batch_size=32, learning_rate=3e-3),
        notes="three linear layers; the smallest of all",
    ),
    ZooModel(
        name="lstm_keywords",
        kind="rnn",
        build=recurrent.lstm,
        data=data.keyword_frames,
        training=dataclasses.replace(_SPEECH, epochs=20),
        notes="LSTM of 20 steps; synthetic speech",
    ),
    ZooModel(
        name="gru_fashion",
        kind="rnn",
        build=recurrent.gru,
        data=data.fashion_rows,
        training=dataclasses.replace(_IMAGE, epochs=10),
        notes="GRU of 14 steps over the rows of real images",
    ),
    ZooModel(
        name="conv_gru_keywords",
        kind="rnn",
        build=recurrent.conv_gru,
        data=data.keywords,
        training=_SPEECH,
        notes="convolutions before a GRU of 10 steps; synthetic speech",
    ),
)


def _per_tensor(name: str, notes: str) -> ZooModel:
    row = next(row for row in _NETS if row.name == name)
    return dataclasses.replace(row, name=f"{name}_per_tensor", per_tensor=True, weights_of=name, notes=notes)


_PER_TENSOR = (
    _per_tensor("plain_fashion", "the same weights for a target without per-channel scales"),
    _per_tensor("depthwise_fashion", "the hard case: depthwise channels of unlike size share one scale"),
)
ZOO: Mapping[str, ZooModel] = MappingProxyType({row.name: row for row in (*_TRANSFORMERS, *_NETS, *_PER_TENSOR)})


def get_model(name: str) -> ZooModel:
    """Give a row of the zoo.

    Raises:
        UsageError: E0191, there is none of this name.
    """
    try:
        return ZOO[name]
    except KeyError:
        raise UsageError(
            "E0191", f"the zoo has no model {name!r}{near(name, ZOO)}", fix=f"choose one of {', '.join(ZOO)}"
        ) from None


def load_trained(name: str, seed: int, root: Path = ROOT) -> tuple[nn.Module, ZooData]:
    """Give a trained model in evaluation mode and its rows; trains it where ``root`` has no fitting file.

    The file is ``<root>/<name>-s<seed>.safetensors``. It fits when rows, settings and the shapes of all tensors are
    those that it was trained with.

    Args:
        name: Of a row.
        seed: Of the first weights and of the order of the rows.
        root: Where trained weights are kept.
    """
    model = get_model(name)
    rows = model.data()
    module = model.build(seed)
    path = root / f"{model.weights_of or model.name}-s{seed}.safetensors"
    print_ = _fingerprint(model, module, rows)
    if not _load(module, path, print_):
        train_model(module, rows, model.training, seed=seed)
        root.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, part, metadata={"fingerprint": print_})
        part.replace(path)
    return module.eval(), rows


def _load(module: nn.Module, path: Path, fingerprint: str) -> bool:
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as archive:
        if (archive.metadata() or {}).get("fingerprint") != fingerprint:
            return False
        module.load_state_dict({key: archive.get_tensor(key) for key in archive.keys()})  # noqa: SIM118 - not a dict
    return True


def _fingerprint(model: ZooModel, module: nn.Module, rows: ZooData) -> str:
    """Give a digest of what decides the trained weights, as far as it can be seen from outside of the code."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.training), sort_keys=True).encode())
    digest.update(repr([(key, tuple(value.shape)) for key, value in module.state_dict().items()]).encode())
    for array in (*rows.train_inputs, rows.train_targets):
        digest.update(array.tobytes())
    return digest.hexdigest()
