"""Reads BERT-like transformers checkpoints into ``TextClassifier``: their configs and tensors, without their code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import ConversionError, UsageError

__all__ = [
    "FAMILIES",
    "Family",
    "head_classes",
    "read_tensors",
    "read_transformers_folder",
    "text_classifier_from",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where one family of checkpoints keeps its parts.

    Attributes:
        prefix: What stands before every encoder name when the checkpoint also has a task head.
        embeddings: Names of the embedding block.
        layer: Name of layer ``{i}``.
        parts: Our layer attribute by the family's name within a layer.
        config: The family's config keys by our word.
        position_offset: First row of the position table that a real token uses.
        head: Our head by the family's name of its dense layer and of its output layer.
        head_kind: Activation between the two.
    """

    prefix: str
    embeddings: str = "embeddings."
    layer: str = "encoder.layer.{i}."
    parts: Mapping[str, str]
    config: Mapping[str, str]
    position_offset: int = 0
    head: tuple[str, str]
    head_kind: Literal["tanh", "relu"] = "tanh"


_BERT_PARTS = MappingProxyType(
    {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.output",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "ffn_in",
        "output.dense": "ffn_out",
        "output.LayerNorm": "ffn_norm",
    }
)
_BERT_CONFIG = MappingProxyType(
    {
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "ffn": "intermediate_size",
        "activation": "hidden_act",
    }
)
_ROBERTA = Family(
    prefix="roberta.",
    parts=_BERT_PARTS,
    config=_BERT_CONFIG,
    position_offset=2,  # transformers counts from padding_idx + 1
    head=("classifier.dense", "classifier.out_proj"),
)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family(
            prefix="bert.", parts=_BERT_PARTS, config=_BERT_CONFIG, head=("bert.pooler.dense", "classifier")
        ),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "distilbert": Family(
            prefix="distilbert.",
            layer="transformer.layer.{i}.",
            parts={
                "attention.q_lin": "attention.query",
                "attention.k_lin": "attention.key",
                "attention.v_lin": "attention.value",
                "attention.out_lin": "attention.output",
                "sa_layer_norm": "attention_norm",
                "ffn.lin1": "ffn_in",
                "ffn.lin2": "ffn_out",
                "output_layer_norm": "ffn_norm",
            },
            config={
                "hidden": "dim",
                "heads": "n_heads",
                "layers": "n_layers",
                "ffn": "hidden_dim",
                "activation": "activation",
            },
            head=("pre_classifier", "classifier"),
            head_kind="relu",
        ),
    }
)
_ACTIVATIONS: Mapping[str, Literal["gelu", "gelu_tanh"]] = MappingProxyType(
    {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
)


def read_transformers_folder(folder: Path, *, classes: int, max_length: int) -> TextClassifier:
    """Load a BERT-like folder; a task head in it is kept if it has ``classes`` outputs.

    A checkpoint without a fitting head gets mean pooling and a fresh linear classifier, drawn from torch's generator.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors``, or its shards and their index.
        classes: Number of logits wanted.
        max_length: Positions wanted; the rest of the position table is dropped.

    Raises:
        ConversionError: The family or its activation is not supported, or a tensor is missing.
        UsageError: ``max_length`` is more than the checkpoint knows.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return text_classifier_from(raw, read_tensors(folder), name=folder.name, classes=classes, max_length=max_length)


def head_classes(raw: Mapping[str, Any], tensors: Mapping[str, Tensor], *, name: str) -> int:
    """Give the number of logits of the classification head that a checkpoint holds; 0 without one."""
    dense, output = _family(raw, name).head
    has_head = {f"{dense}.weight", f"{output}.weight"} <= tensors.keys()
    return int(tensors[f"{output}.weight"].shape[0]) if has_head else 0


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read ``model.safetensors``, or the shards that its index names."""
    whole = folder / "model.safetensors"
    shards = [whole.name]
    if not whole.is_file():
        index = json.loads((folder / f"{whole.name}.index.json").read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= load_file(folder / shard)
    return tensors


def text_classifier_from(
    raw: Mapping[str, Any], tensors: Mapping[str, Tensor], *, name: str, classes: int, max_length: int
) -> TextClassifier:
    """Build the classifier from a transformers config and state dict; see ``read_transformers_folder``.

    Args:
        raw: The config as transformers writes it.
        tensors: The state dict.
        name: What errors call the model.
        classes: Number of logits wanted.
        max_length: Positions wanted.
    """
    family = _family(raw, name)
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    dense, output = family.head
    has_head = {f"{dense}.weight", f"{output}.weight"} <= tensors.keys() and tensors[f"{output}.weight"].shape[
        0
    ] == classes
    words = _tensor(tensors, prefix + family.embeddings + "word_embeddings.weight", name)
    positions = _tensor(tensors, prefix + family.embeddings + "position_embeddings.weight", name)
    known = positions.shape[0] - family.position_offset
    if max_length > known:
        raise UsageError(
            "E0270",
            f"max_length is {max_length}, but the model in {name} knows {known} positions",
            fix=f"set model.student.max_length, or --max-length of --quantize-only, to {known} or less",
        )
    size = LayerConfig(heads=raw[family.config["heads"]], ffn=raw[family.config["ffn"]])
    config = TextConfig(
        vocabulary=words.shape[0],
        hidden=words.shape[1],
        head_size=words.shape[1] // size.heads,
        layers=(size,) * raw[family.config["layers"]],
        max_length=max_length,
        classes=classes,
        pooling="first" if has_head else "mean",
        head=family.head_kind if has_head else "none",
        activation=_ACTIVATIONS[raw[family.config["activation"]]],
        norm_epsilon=raw.get("layer_norm_eps", 1e-12),
    )
    model = TextClassifier(config)
    state = _encoder_state(tensors, family, prefix, config, name)
    if has_head:
        for ours, theirs in (("head_dense", dense), ("classifier", output)):
            for part in ("weight", "bias"):
                state[f"{ours}.{part}"] = tensors[f"{theirs}.{part}"]
    else:
        state |= {f"classifier.{part}": value for part, value in model.classifier.state_dict().items()}
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def _family(raw: Mapping[str, object], model: str) -> Family:
    kind = str(raw.get("model_type", ""))
    if kind not in FAMILIES:
        raise ConversionError(
            "E0701",
            f"the model in {model} is of type {kind or 'unknown'!r}",
            why=f"its layers can be read for {', '.join(FAMILIES)}",
            fix="choose a model of one of these types",
        )
    family = FAMILIES[kind]
    lacking = [key for key in family.config.values() if key not in raw]
    if lacking:
        raise ConversionError(
            "E0708",
            f"the config of {model} lacks {', '.join(lacking)}",
            why="a size that the config leaves to a library's default may change with the library",
            fix="save it again in full: AutoConfig.from_pretrained(folder).save_pretrained(folder)",
        )
    activation = raw.get(family.config["activation"])
    if activation not in _ACTIVATIONS or raw.get("position_embedding_type", "absolute") != "absolute":
        raise ConversionError(
            "E0702",
            f"the model in {model} uses activation {activation!r} and "
            f"{raw.get('position_embedding_type', 'absolute')} positions",
            why=f"known are the activations {', '.join(_ACTIVATIONS)} with absolute positions",
            fix="choose another model",
        )
    return family


def _tensor(tensors: Mapping[str, Tensor], name: str, model: str) -> Tensor:
    try:
        return tensors[name]
    except KeyError:
        raise ConversionError(
            "E0703",
            f"{model} has no tensor {name!r}",
            why=f"it holds {len(tensors)} tensors, the first is {next(iter(tensors), 'none')!r}",
            fix="check that config.json and model.safetensors belong together",
        ) from None


def _encoder_state(
    tensors: Mapping[str, Tensor], family: Family, prefix: str, config: TextConfig, model: str
) -> dict[str, Tensor]:
    block = prefix + family.embeddings
    start = family.position_offset
    positions = _tensor(tensors, block + "position_embeddings.weight", model)[start : start + config.max_length]
    token_type = tensors.get(block + "token_type_embeddings.weight")
    if token_type is not None:
        positions = positions + token_type[0]
    state = {"words.weight": _tensor(tensors, block + "word_embeddings.weight", model), "positions": positions}
    for part in ("weight", "bias"):
        state[f"embedding_norm.{part}"] = _tensor(tensors, f"{block}LayerNorm.{part}", model)
        for i in range(len(config.layers)):
            for theirs, ours in family.parts.items():
                name = f"{prefix}{family.layer.format(i=i)}{theirs}.{part}"
                state[f"layers.{i}.{ours}.{part}"] = _tensor(tensors, name, model)
    return state
