"""From a teacher's files or function to a torch module and, for text, its tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit.recipe.spec import ImageSpec, ModelSpec, SourceKind, Task
from edgekit_models.checkpoints import read_transformers_folder, text_classifier_from
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.preprocess import TOKENIZER
from edgekit_models.saved import build_model, load_weights
from edgekit_models.teachers import TeacherFiles
from edgekit_models.text_classifier import TextClassifier
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["Teacher", "build_teacher"]


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
            raise UsageError("E0260", f"the config of {source.location} is not that of a text model")
        load_weights(own, files.path)
        _check_classes(own.config.classes, classes, source.location)
        if own.config.max_length != length:
            raise UsageError(
                "E0261",
                f"{source.location} takes {own.config.max_length} tokens, the recipe says max_length {length}",
                fix=f"set model.student.max_length to {own.config.max_length}",
            )
        return Teacher(module=own, tokenizer=_tokenizer(files.path.parent))
    if source.kind is SourceKind.FACTORY:
        assert files.factory is not None
        return _made_text_teacher(files.factory(), model, classes)
    raise UsageError(
        "E0262",
        f"the architecture {source.location!r} does not take text",
        why="a text teacher that starts from nothing learns little",
        fix="name a folder, hub id or package with a pretrained BERT-like model",
    )


def _made_text_teacher(made: object, model: ModelSpec, classes: int) -> Teacher:
    """Accept our own module, or a transformers model, whose config and tensors are read and whose code is left behind."""
    source = model.teacher
    tokenizer = source.config.get("tokenizer")
    if not isinstance(tokenizer, str):
        raise UsageError(
            "E0263",
            f"the factory {source.location!r} makes a text model, but its tokenizer is not named",
            fix="add config: {tokenizer: folder-with-tokenizer.json} to model.teacher",
        )
    if isinstance(made, TextClassifier):
        _check_classes(made.config.classes, classes, source.location)
        module = made.eval()
    elif isinstance(made, nn.Module) and hasattr(made, "config") and hasattr(made.config, "to_dict"):
        module = text_classifier_from(
            made.config.to_dict(),
            made.state_dict(),
            name=source.location,
            classes=classes,
            max_length=model.student.max_length,
        )
    else:
        raise UsageError(
            "E0264",
            f"the factory {source.location!r} returned {type(made).__name__}",
            why="a text student copies layers of its teacher, so the layers must be known",
            fix="return a transformers BERT-like model or edgekit_models.text_classifier.TextClassifier",
        )
    return Teacher(module=module, tokenizer=_tokenizer(Path(tokenizer)))


def _image_module(files: TeacherFiles, model: ModelSpec, image: ImageSpec, classes: int) -> nn.Module:
    source = model.teacher
    if source.kind is SourceKind.FACTORY:
        assert files.factory is not None
        made = files.factory()
        if not isinstance(made, nn.Module):
            raise UsageError(
                "E0264", f"the factory {source.location!r} returned {type(made).__name__}, not a torch module"
            )
        return made
    if source.kind is SourceKind.WEIGHTS:
        assert files.path is not None
        own = build_model(dict(source.config), name=source.location)
        if not isinstance(own, ImageClassifier):
            raise UsageError("E0260", f"the config of {source.location} is not that of an image model")
        load_weights(own, files.path)
        _check_classes(own.config.classes, classes, source.location)
        return own
    if source.kind is SourceKind.ARCHITECTURE and source.location == "cnn":
        widths = source.config.get("widths")
        if not isinstance(widths, list | tuple) or not widths or not all(isinstance(w, int) and w > 0 for w in widths):
            raise UsageError(
                "E0265",
                f"architecture cnn needs config: {{widths: [...]}}, a list of channel numbers, not {widths!r}",
                fix="write for example config: {widths: [32, 64]}",
            )
        return ImageClassifier(
            ImageConfig.from_widths(
                tuple(widths), height=image.height, width=image.width, channels=image.channels, classes=classes
            )
        )
    raise UsageError(
        "E0262",
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
            fix="save it with transformers: AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)",
        ) from error


def _check_classes(have: int, wanted: int, name: str) -> None:
    if have != wanted:
        raise UsageError(
            "E0266",
            f"{name} gives {have} logits, but the data has {wanted} labels",
            fix="give a model with as many classes, or a checkpoint without a head",
        )

