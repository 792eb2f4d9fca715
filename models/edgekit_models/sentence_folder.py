"""Reads a transformers or sentence-transformers folder as it answers: a sentence embedding, or its head's logits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit_models.checkpoints import head_classes, read_tensors, text_classifier_from
from edgekit_models.text_classifier import TextClassifier
from edgekit_models.weights import check_safetensors, weight_files
from edgekit_runtime.errors import ConversionError, MissingError, UsageError

__all__ = ["SentenceEmbedder", "SentenceFolder", "read_sentence_folder"]

Pooling = Literal["mean", "first"]
_POOLING: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


class SentenceEmbedder(nn.Module):
    """Token ids to one vector a text."""

    def __init__(self, encoder: TextClassifier, *, pooling: Pooling, unit_length: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.unit_length = encoder, pooling, unit_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Give vectors, float32 (N, hidden), from integers of shape (N, T)."""
        last = self.encoder.hidden_states(input_ids, attention_mask)[-1]
        if self.pooling == "mean":
            weights = attention_mask[:, :, None].to(last.dtype)
            vector = (last * weights).sum(1) / weights.sum(1)
        else:
            vector = last[:, 0]
        return functional.normalize(vector) if self.unit_length else vector


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFolder:
    """What a folder holds.

    Attributes:
        module: Takes ``input_ids`` and ``attention_mask``.
        width: Of its answer.
        labels: Names of the classes; empty where the answer is an embedding.
        description: Pooling or head, for a report.
    """

    module: nn.Module
    width: int
    labels: tuple[str, ...]
    description: str


def read_sentence_folder(folder: Path, *, max_length: int) -> SentenceFolder:
    """Read ``config.json``, ``model.safetensors`` and, where they are, ``modules.json`` and the pooling's config.

    A classification head is kept. Without one, ``modules.json`` says how tokens become a vector; without that file it
    is the mean over real tokens.

    Raises:
        MissingError: A file is not there (E0614, E0253).
        UsageError: A file is damaged (E0155, E0243, E0252), or the weights are pickled (E0242).
        ConversionError: The architecture, the pooling or a module behind it is not supported (E07xx).
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise MissingError(
                "E0614",
                f"there is no {name} in '{folder.name}'",
                why="a model folder holds config.json, model.safetensors and tokenizer.json",
                fix="save the model and its fast tokenizer with save_pretrained into one folder",
            )
    raw: Mapping[str, Any] = _held(folder / "config.json", dict)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for name in weight_files(folder, names, title=f"the folder '{folder.name}'"):
        check_safetensors(folder / name, title=f"{name} of '{folder.name}'")
    tensors = read_tensors(folder)
    classes = head_classes(raw, tensors, name=folder.name)
    with torch.random.fork_rng():  # the unused head of an encoder draws weights
        encoder = text_classifier_from(raw, tensors, name=folder.name, classes=classes or 2, max_length=max_length)
    if classes:
        named = {str(place): str(label) for place, label in dict(raw.get("id2label") or {}).items()}
        labels = tuple(named.get(str(i), f"class-{i}") for i in range(classes))
        return SentenceFolder(module=encoder, width=classes, labels=labels, description=f"{classes} classes")
    pooling, unit_length = _answer(folder)
    embedder = SentenceEmbedder(encoder, pooling=pooling, unit_length=unit_length).eval()
    said = f"{pooling} pooling{', unit length' if unit_length else ''}"
    return SentenceFolder(module=embedder, width=encoder.config.hidden, labels=(), description=said)


def _answer(folder: Path) -> tuple[Pooling, bool]:
    """Give pooling, and whether vectors are scaled to length 1, as sentence-transformers' ``modules.json`` says."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return "mean", False
    pooling, unit_length = None, False
    for module in _held(listing, list):
        entry = module if isinstance(module, dict) else {}
        kind = str(entry.get("type", "a module without a type")).rpartition(".")[2]
        if kind == "Pooling":
            config = _held(folder / str(entry.get("path", "")) / "config.json", dict)
            modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
            if len(modes) != 1 or modes[0] not in _POOLING:
                raise _unknown(
                    folder, f"its pooling is {', '.join(modes) or 'not named'}; known: {', '.join(_POOLING)}"
                )
            pooling = _POOLING[modes[0]]
        elif kind == "Normalize":
            unit_length = True
        elif kind != "Transformer":
            raise _unknown(folder, f"modules.json holds {kind}; known: Transformer, Pooling, Normalize")
    return pooling or "mean", unit_length


def _held(path: Path, kind: type) -> Any:  # noqa: ANN401 - what a stranger's JSON holds is looked at by the caller
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, kind):
            return content
        why = f"it holds a {type(content).__name__}, not a {kind.__name__}"
    except FileNotFoundError as error:
        raise MissingError("E0614", f"there is no {path.name} in '{path.parent.name}'", fix="save it again") from error
    except ValueError as error:
        why = f"{type(error).__name__}: {error}"
    raise UsageError("E0155", f"{path.name} of '{path.parent.name}' is damaged", why=why, fix="fetch or save it again")


def _unknown(folder: Path, why: str) -> ConversionError:
    fix = "choose a model with mean or [CLS] pooling, or export it to ONNX and give that file"
    return ConversionError("E0709", f"the answer of '{folder.name}' cannot be built", why=why, fix=fix)
