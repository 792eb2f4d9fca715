"""From the recipe's data section to checked rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.recipe.spec import DataSource, DataSpec, Task
from edgekit_models.data.checks import (
    class_names,
    clean_texts,
    label_names,
    remove_leaks,
    require_classes,
    targets_of,
)
from edgekit_models.data.dataset import Dataset, Inputs, Rows
from edgekit_models.data.images import read_images
from edgekit_models.data.split import stratified_split
from edgekit_models.data.tables import read_table
from edgekit_runtime.errors import UsageError

__all__ = ["load_dataset", "load_rows"]

_KINDS = {
    Task.TEXT_CLASSIFICATION: ("csv", "jsonl", "parquet", "datasets"),
    Task.IMAGE_CLASSIFICATION: ("images", "npz", "idx", "sklearn", "datasets"),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One source, read and cleaned; ``raw`` are its label values."""

    title: str
    inputs: Inputs
    raw: Sequence[str]


def load_dataset(spec: DataSpec, *, task: Task, folder: Path, seed: int) -> Dataset:
    """Read, check and split the rows of a recipe.

    Args:
        spec: The recipe's data section.
        task: What the rows are for.
        folder: The recipe's folder; relative paths start there.
        seed: Seed of the split.

    Returns:
        Rows in the order of their sources. No training row is in the evaluation rows.

    Raises:
        MissingError: A file, a package or a library is not here.
        UsageError: The rows cannot be used; the codes E0201 to E0240 say why.
    """
    warnings: list[str] = []
    warn = warnings.append
    train = _read(spec.train, spec, task=task, folder=folder, warn=warn)
    classes = class_names(train.raw, spec.labels)
    named = list(dict.fromkeys(spec.labels.values()))
    absent = [name for name in named if name not in classes]
    if absent:
        warn(f"no training row has the label {', '.join(map(repr, absent))}; the model will not know it")
    rows = Rows(inputs=train.inputs, targets=targets_of(train.raw, spec.labels, classes, title=train.title))
    require_classes(rows, classes, title="the training rows", warn=warn)
    if spec.eval is None:
        rows, evaluation = _split(rows, classes, eval_rows=spec.eval_rows, seed=seed)
    else:
        held_out = _read(spec.eval, spec, task=task, folder=folder, warn=warn)
        _require_same_images(train, held_out)
        targets = targets_of(held_out.raw, spec.labels, classes, title=held_out.title)
        evaluation = Rows(inputs=held_out.inputs, targets=targets)
    require_classes(evaluation, classes, title="the evaluation rows", warn=warn)
    rows = remove_leaks(rows, evaluation, warn=warn)
    if not len(rows):
        raise UsageError(
            "E0230",
            "no training row is left",
            why="every training row is among the evaluation rows too",
            fix="name different sources for data.train and data.eval",
        )
    require_classes(rows, classes, title="the training rows that are not evaluation rows too", warn=warn)
    return Dataset(task=task, labels=classes, train=rows, evaluation=evaluation, warnings=tuple(warnings))


def load_rows(spec: DataSpec, *, task: Task, folder: Path, labels: Sequence[str]) -> tuple[Rows, tuple[str, ...]]:
    """Read rows for a finished model, whose labels are given.

    Args:
        spec: ``train`` is the source.
        task: What the rows are for.
        folder: Relative paths start there.
        labels: Names of the classes in the model's order; a source may hold the names, or their indices.

    Returns:
        The rows, and what was dropped or looks odd.

    Raises:
        MissingError: A file, a package or a library is not here.
        UsageError: The rows cannot be used, or hold a label that the model does not know (E0244).
    """
    warnings: list[str] = []
    part = _read(spec.train, spec, task=task, folder=folder, warn=warnings.append)
    places = {str(i): i for i in range(len(labels))} | {name: i for i, name in enumerate(labels)}
    unknown = sorted({name for name in part.raw if name not in places})
    if unknown:
        raise UsageError(
            "E0244",
            f"{part.title!r} holds the label {unknown[0]!r}, which the model does not know",
            why=f"its labels are {', '.join(labels[:12])}{' and others' if len(labels) > 12 else ''}",
            fix="name the column with --label, or rename the values to the model's labels or their indices",
        )
    targets = np.array([places[name] for name in part.raw], np.int64)
    return Rows(inputs=part.inputs, targets=targets), tuple(warnings)


def _read(source: DataSource, spec: DataSpec, *, task: Task, folder: Path, warn: Callable[[str], None]) -> _Part:
    if source.kind not in _KINDS[task]:
        raise UsageError(
            "E0220",
            f"a source of kind {source.kind!r} does not fit the task {task.value!r}",
            why=f"this task reads {', '.join(_KINDS[task])}",
            fix="change model.task or the source",
        )
    inputs: Inputs
    if task is Task.TEXT_CLASSIFICATION:
        table = read_table(source, spec, folder=folder)
        inputs, labels, numbers = clean_texts(table, warn=warn)
        title, unit = table.title, table.unit
    else:
        raw = read_images(source, spec, folder=folder)
        inputs, labels, numbers = raw.images, list(raw.labels), list(range(1, len(raw.labels) + 1))
        title, unit = raw.title, "image"
        for note in raw.notes:
            warn(f"{title}: {note}")
    names = label_names(labels, spec.labels, title=title, numbers=numbers, unit=unit)
    return _Part(title, inputs, names)


def _split(rows: Rows, classes: Sequence[str], *, eval_rows: int, seed: int) -> tuple[Rows, Rows]:
    counts = np.bincount(rows.targets, minlength=len(classes))
    if counts.min() < 2:
        rare = classes[int(counts.argmin())]
        raise UsageError(
            "E0235",
            f"the label {rare!r} has a single row; it cannot be in both train and eval",
            fix="give more rows of it, map it to another name in data.labels, or name data.eval",
        )
    most = len(rows) - len(classes)
    if not len(classes) <= eval_rows <= most:
        raise UsageError(
            "E0219",
            f"data.eval_rows is {eval_rows}; it must be {len(classes)} to {most} here",
            why=f"the source has {len(rows)} rows of {len(classes)} labels, and each label needs a row in both sets",
            fix="set data.eval_rows in that range, or name data.eval",
        )
    train, evaluation = stratified_split(rows.targets, eval_rows=eval_rows, seed=seed)
    return rows.take(train), rows.take(evaluation)


def _require_same_images(train: _Part, evaluation: _Part) -> None:
    if isinstance(train.inputs, tuple) or isinstance(evaluation.inputs, tuple):
        return
    ours = f"{train.inputs.dtype} {train.inputs.shape[1:]}"
    theirs = f"{evaluation.inputs.dtype} {evaluation.inputs.shape[1:]}"
    if ours != theirs:
        raise UsageError(
            "E0236",
            f"the images of {train.title!r} are {ours}, those of {evaluation.title!r} {theirs}",
            why="the same preprocessing must fit both",
            fix="save both sets with one shape (height, width, channels) and one dtype",
        )
