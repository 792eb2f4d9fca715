"""Checks of a recipe that look at more than one section."""

import difflib
from collections.abc import Iterator

from edgekit.recipe.schema import RecipeModel
from edgekit.recipe.spec import AdaptSpec
from edgekit.targets import TARGETS

__all__ = ["IMAGE_ONLY", "TEXT_ONLY", "cross_faults"]

# Keys that mean nothing to the other task.
TEXT_ONLY = (
    ("model", "student", "layers"),
    ("model", "student", "hidden"),
    ("model", "student", "max_length"),
    ("data", "text"),
    ("adapt", "frozen_layers"),
    ("distill", "hidden_weight"),
    ("prune", "heads"),
    ("prune", "ffn"),
    ("quantize", "ffn_output"),
    ("quantize", "embedding"),
    ("quantize", "weights"),
    ("quantize", "rounding"),
    ("quantize", "block"),
    ("quantize", "whole_network"),
)
IMAGE_ONLY = (
    ("model", "student", "widths"),
    ("data", "image"),
    ("prune", "channels"),
)
_TEXT_SOURCES = ("csv", "jsonl", "parquet", "datasets")
_IMAGE_SOURCES = ("datasets", "images", "npz", "idx", "sklearn")

Path = tuple[str | int, ...]


def cross_faults(model: RecipeModel) -> Iterator[tuple[Path, str]]:
    """Yield (path of the key, fault) for each pair of sections that do not fit together."""
    given = set(model.given_keys())
    is_text = model.model.task == "text-classification"
    for path in IMAGE_ONLY if is_text else TEXT_ONLY:
        if path in given:
            yield path, f"has no meaning for the task '{model.model.task}'; remove it"
    yield from _data_faults(model, given, is_text=is_text)
    if model.quantize.whole_network not in (None, "off") and model.export.formats != ["onnx"]:
        yield ("quantize", "whole_network"), "is written into ONNX alone; set export.formats: [onnx]"
    if model.model.teacher.architecture is not None:
        epochs = AdaptSpec().epochs if model.adapt.epochs is None else model.adapt.epochs
        if epochs == 0:
            yield ("adapt", "epochs"), "must be above 0: a teacher given by 'architecture' has not learned anything yet"
    for index, name in enumerate(model.targets or ()):
        if name not in TARGETS:
            near = difflib.get_close_matches(name, TARGETS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ";"
            yield ("targets", index), f"no target '{name}'{hint} known: {', '.join(TARGETS)}"


def _data_faults(model: RecipeModel, given: set[tuple[str, ...]], *, is_text: bool) -> Iterator[tuple[Path, str]]:
    for part, source in (("train", model.data.train), ("eval", model.data.eval)):
        if ("data", part) in given:
            yield from _source_faults(part, source.build().kind, given, is_text=is_text)
    if not is_text:
        if ("data", "image") not in given:
            yield ("data",), "needs 'image': the height and width that the model takes"
        return
    for key in ("text", "label"):
        if ("data", key) not in given:
            yield ("data",), f"needs '{key}': the column that holds the {key}"
    if model.data.text is not None and model.data.text == model.data.label:
        yield ("data", "label"), f"names the same column as 'text': '{model.data.text}'"


def _source_faults(part: str, kind: str, given: set[tuple[str, ...]], *, is_text: bool) -> Iterator[tuple[Path, str]]:
    sources = _TEXT_SOURCES if is_text else _IMAGE_SOURCES
    if kind not in sources:
        yield ("data", part, kind), f"holds no {'texts' if is_text else 'images'}; the task takes: {', '.join(sources)}"
    elif kind not in _TEXT_SOURCES and part == "train":
        for key in ("where", "label"):
            if ("data", key) in given:
                yield ("data", key), f"has no meaning for a source of kind '{kind}', which has no columns; remove it"
