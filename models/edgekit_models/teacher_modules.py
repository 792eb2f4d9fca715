"""From a teacher's files or function to a torch module and, for text, its tokenizer."""

import hashlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekit.recipe.spec import ImageSpec, ModelSpec, SourceKind, Task
from edgekit_models.checkpoints import read_transformers_folder, text_classifier_from
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.preprocess import TOKENIZER
from edgekit_models.saved import build_model, load_weights
from edgekit_models.teachers import TeacherFiles
from edgekit_models.text_classifier import TextClassifier
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["Teacher", "build_teacher", "factory_digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher ready to train.

    Attributes:
        module: ``TextClassifier`` for text; for images any module from (N, C, H, W) to logits.
        tokenizer: Content of ``tokenizer.json`` (text), else None.
    """

    module: nn.Module
    tokenizer: bytes | None


def build_teacher(files: TeacherFiles, model: ModelSpec, *, image: ImageSpec | None, classes: int) -> Teacher:
    """Make the teacher's module; a fresh classifier is drawn from torch's generator where it has none.

    Args:
        files: From ``resolve_teacher``.
        model: Task, source and student of the recipe.
        image: Preprocessing (images only).
        classes: Number of labels in the data.

    Raises:
        UsageError: The source does not fit the task or the labels.
        ConversionError: The checkpoint cannot be read.
        MissingError: The tokenizer is not there.
    """
    if model.task is Task.TEXT_CLASSIFICATION:
        return _text_teacher(files, model, classes)
    assert image is not None  # the recipe's checks
    return Teacher(module=_image_module(files, model, image, classes), tokenizer=None)


def _text_teacher(files: TeacherFiles, model: ModelSpec, classes: int) -> Teacher:
    source, length = model.teacher, model.student.max_length
    if source.kind in (SourceKind.FOLDER, SourceKind.HUB, SourceKind.PACKAGE):
        assert files.path is not None
        module = read_transformers_folder(files.path, classes=classes, max_length=length)
        return Teacher(module=module, tokenizer=_tokenizer(files.path))
    if source.kind is SourceKind.WEIGHTS:
        assert files.path is not None
        own = build_model(dict(source.config), name=source.location)
        if not isinstance(own, TextClassifier):
            raise UsageError("E0271", f"the config of {source.location} is not that of a text model")
        load_weights(own, files.path)
        _check_classes(own.config.classes, classes, source.location)
        _check_length(own, length, source.location)
        return Teacher(module=own, tokenizer=_tokenizer(files.path.parent))
    if source.kind is SourceKind.FACTORY:
        assert files.factory is not None
        return _made_text_teacher(_made(files, source.location), files.path, model, classes)
    raise UsageError(
        "E0273",
        f"the architecture {source.location!r} does not take text",
        why="a text teacher that starts from nothing learns little",
        fix="name a folder, hub id or package with a pretrained BERT-like model",
    )


def _made_text_teacher(made: object, folder: Path | None, model: ModelSpec, classes: int) -> Teacher:
    """Accept our own module, or a transformers model: its config and tensors are read, its code is left behind."""
    source = model.teacher
    if folder is None:
        raise UsageError(
            "E0274",
            f"the factory {source.location!r} makes a text model, but its tokenizer is not named",
            fix="add config: {tokenizer: folder-with-tokenizer.json} to model.teacher",
        )
    if isinstance(made, TextClassifier):
        _check_classes(made.config.classes, classes, source.location)
        _check_length(made, model.student.max_length, source.location)
        module = made.eval()
    elif isinstance(made, nn.Module) and hasattr(made, "config") and hasattr(made.config, "to_dict"):
        config = cast("Any", made.config)  # of transformers, which has no types
        module = text_classifier_from(
            config.to_dict(),
            made.state_dict(),
            name=source.location,
            classes=classes,
            max_length=model.student.max_length,
        )
    else:
        raise UsageError(
            "E0275",
            f"the factory {source.location!r} returned {type(made).__name__}",
            why="a text student copies layers of its teacher, so the layers must be known",
            fix="return a transformers BERT-like model or edgekit_models.text_classifier.TextClassifier",
        )
    return Teacher(module=module, tokenizer=_tokenizer(folder))


def _image_module(files: TeacherFiles, model: ModelSpec, image: ImageSpec, classes: int) -> nn.Module:
    source = model.teacher
    if source.kind is SourceKind.FACTORY:
        assert files.factory is not None
        made = _made(files, source.location)
        if not isinstance(made, nn.Module):
            raise UsageError(
                "E0275", f"the factory {source.location!r} returned {type(made).__name__}, not a torch module"
            )
        _check_answer(made, image, classes, source.location)
        return made
    if source.kind is SourceKind.WEIGHTS:
        assert files.path is not None
        own = build_model(dict(source.config), name=source.location)
        if not isinstance(own, ImageClassifier):
            raise UsageError("E0271", f"the config of {source.location} is not that of an image model")
        load_weights(own, files.path)
        _check_classes(own.config.classes, classes, source.location)
        _check_size(own, image, source.location)
        return own
    if source.kind is SourceKind.ARCHITECTURE and source.location == "cnn":
        widths = source.config.get("widths")
        if not isinstance(widths, list | tuple) or not widths or not all(isinstance(w, int) and w > 0 for w in widths):
            raise UsageError(
                "E0276",
                f"architecture cnn needs config: {{widths: [...]}}, a list of channel numbers, not {widths!r}",
                fix="write for example config: {widths: [32, 64]}",
            )
        return ImageClassifier(
            ImageConfig.from_widths(
                tuple(widths), height=image.height, width=image.width, channels=image.channels, classes=classes
            )
        )
    raise UsageError(
        "E0273",
        f"the {source.kind.value} source {source.location!r} does not give an image model",
        fix="use architecture: cnn, weights with a config of edgekit's own, or factory: module:function",
    )


def _tokenizer(folder: Path) -> bytes:
    path = folder / TOKENIZER
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingError(
            "E0640",
            f"there is no {TOKENIZER} in {folder.name}",
            why="a text model needs the tokenizer that it was trained with",
            fix="AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder) writes it",
        ) from error


def factory_digest(files: TeacherFiles, name: str) -> str:
    """Give the sha256 (hex) of what a factory makes: its weights and its form.

    The function may read weights that changed since the last build, so its source alone says too little.
    """
    made = _made(files, name)
    digest = hashlib.sha256(repr(made).encode())
    if isinstance(made, nn.Module):
        for key, value in made.state_dict().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _made(files: TeacherFiles, name: str) -> object:
    """Call the user's factory; a fault in it is the user's."""
    assert files.factory is not None
    try:
        return files.factory()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            "E0281",
            f"the factory {name!r} raised {type(error).__name__}: {error}",
            why=f"{frame.filename}:{frame.lineno}: {frame.line}",
            fix="mend the function; it must return a module without arguments",
        ) from error


def _check_classes(have: int, wanted: int, name: str) -> None:
    if have != wanted:
        raise UsageError(
            "E0277",
            f"{name} gives {have} logits, but the data has {wanted} labels",
            fix="give a model with as many classes, or a checkpoint without a head",
        )


def _check_length(model: TextClassifier, wanted: int, name: str) -> None:
    have = model.config.max_length
    if have != wanted:
        raise UsageError(
            "E0272",
            f"{name} takes {have} tokens, the recipe says max_length {wanted}",
            fix=f"set model.student.max_length to {have}",
        )


def _check_size(model: ImageClassifier, image: ImageSpec, name: str) -> None:
    config = model.config
    have, wanted = (config.height, config.width, config.channels), (image.height, image.width, image.channels)
    if have != wanted:
        raise UsageError(
            "E0278",
            f"{name} takes images of height, width and channels {have}, the recipe says {wanted}",
            fix="correct data.image",
        )


def _check_answer(module: nn.Module, image: ImageSpec, classes: int, name: str) -> None:
    """Run two black images, so that a module of unknown make fails here and not after an hour."""
    if isinstance(module, ImageClassifier):
        _check_size(module, image, name)
    example = torch.zeros(2, image.channels, image.height, image.width)
    fix = "return a module that maps images (N, C, H, W) to logits (N, classes)"
    try:
        with torch.no_grad():
            logits = module.eval()(example)
    except Exception as error:
        raise UsageError(
            "E0279",
            f"the module of {name} does not take images of shape {tuple(example.shape)}",
            why=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError("E0280", f"the module of {name} answers two images with {got}", fix=fix)
    _check_classes(logits.shape[1], classes, name)
