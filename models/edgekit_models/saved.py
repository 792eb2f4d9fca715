"""Models on disk: ``config.json`` and ``model.safetensors``; foreign modules as exported programs. Never a pickle."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgekit_models.image_classifier import ConvConfig, ImageClassifier, ImageConfig
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import ConversionError

__all__ = [
    "Classifier",
    "build_model",
    "load_model",
    "load_own_model",
    "load_weights",
    "parse_config",
    "read_config",
    "save_foreign_model",
    "save_model",
]

Classifier = TextClassifier | ImageClassifier

CONFIG, WEIGHTS, PROGRAM = "config.json", "model.safetensors", "model.pt2"
_TEXT, _IMAGE = "edgekit-text-classifier", "edgekit-image-classifier"


def save_model(model: Classifier, folder: Path) -> None:
    """Write config and weights; the same model gives the same bytes."""
    kind = _TEXT if isinstance(model, TextClassifier) else _IMAGE
    raw = {"model_type": kind, **dataclasses.asdict(model.config)}
    (folder / CONFIG).write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)


def build_model(raw: dict[str, Any], *, name: str) -> Classifier:
    """Make an untrained model from the content of a ``config.json`` that edgekit wrote."""
    config = parse_config(raw, name=name)
    return TextClassifier(config) if isinstance(config, TextConfig) else ImageClassifier(config)


def parse_config(raw: dict[str, Any], *, name: str) -> TextConfig | ImageConfig:
    """Turn the content of a ``config.json`` that edgekit wrote into a shape.

    Raises:
        ConversionError: The config is of another kind, lacks a key or has one too many.
    """
    raw = dict(raw)
    kind = raw.pop("model_type", None)
    try:
        if kind == _TEXT:
            layers = tuple(LayerConfig(**size) for size in raw.pop("layers"))
            return TextConfig(**raw, layers=layers)
        if kind == _IMAGE:
            convs = tuple(ConvConfig(**size) for size in raw.pop("convs"))
            return ImageConfig(**raw, convs=convs)
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError("E0705", f"the config of {name} does not describe a model: {error}") from error
    raise ConversionError(
        "E0704",
        f"the model type of {name} is {kind!r}",
        why=f"edgekit writes {_TEXT!r} and {_IMAGE!r}",
        fix="name a folder or config that edgekit wrote",
    )


def read_config(path: Path) -> TextConfig | ImageConfig:
    """Read a ``config.json`` that ``save_model`` wrote, without building the model."""
    return parse_config(json.loads(path.read_text(encoding="utf-8")), name=path.name)


def load_own_model(config: Path, weights: Path) -> Classifier:
    """Read a model of our own architectures from its config and its safetensors file."""
    model = build_model(json.loads(config.read_text(encoding="utf-8")), name=config.name)
    load_weights(model, weights)
    return model


def load_weights(model: Classifier, weights: Path) -> None:
    """Fill a model from a safetensors file and put it into evaluation mode.

    Raises:
        ConversionError: Names or shapes differ.
    """
    try:
        model.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ConversionError("E0706", f"{weights.name} does not fit its config", why=str(error)) from error
    model.eval()


def save_foreign_model(model: nn.Module, example: tuple[torch.Tensor, ...], folder: Path) -> None:
    """Write any module as an exported program whose first dimension is free; its code is not needed to load it.

    Args:
        model: In evaluation mode.
        example: Inputs with N >= 2 first.
        folder: Where ``model.pt2`` goes.

    Raises:
        ConversionError: ``torch.export`` cannot trace the module.
    """
    free = tuple({0: torch.export.Dim("rows")} for _ in example)
    try:
        program = torch.export.export(model.eval(), example, dynamic_shapes=free)
    except Exception as error:
        raise ConversionError(
            "E0707",
            f"torch.export cannot trace {type(model).__name__}",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="give a module whose forward has no data-dependent control flow",
        ) from error
    torch.export.save(program, folder / PROGRAM)


def load_model(folder: Path) -> nn.Module:
    """Read what ``save_model`` or ``save_foreign_model`` wrote, in evaluation mode."""
    if (folder / PROGRAM).is_file():
        return torch.export.load(folder / PROGRAM).module()  # an exported graph has one mode: evaluation
    return load_own_model(folder / CONFIG, folder / WEIGHTS)
