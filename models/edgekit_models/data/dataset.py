"""The checked rows of a build, in memory and in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.recipe.spec import Task
from edgekit_runtime.errors import UsageError

__all__ = ["Dataset", "Inputs", "Rows", "read_dataset", "save_dataset"]

Inputs = tuple[str, ...] | NDArray[np.uint8] | NDArray[np.float32]

_SCHEMA = 1
_INDEX = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Inputs and their classes, in one order.

    Attributes:
        inputs: Texts, or raw images (before preprocessing) as uint8 or float32 of shape (N, H, W, C).
        targets: Class of each row as an index into the data set's labels, int64 of shape (N,).
    """

    inputs: Inputs
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.targets)} targets")
        if self.targets.dtype != np.int64 or self.targets.ndim != 1:
            raise ValueError(f"targets must be int64 of shape (N,), not {self.targets.dtype} {self.targets.shape}")

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: NDArray[np.int64]) -> "Rows":
        """Give the rows at ``indices``, in that order."""
        inputs = self.inputs
        chosen: Inputs = tuple(inputs[int(i)] for i in indices) if isinstance(inputs, tuple) else inputs[indices]
        return Rows(inputs=chosen, targets=self.targets[indices])

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs of a text task."""
        if not isinstance(self.inputs, tuple):
            raise TypeError("these rows are images")
        return self.inputs

    @property
    def images(self) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The inputs of an image task."""
        if isinstance(self.inputs, tuple):
            raise TypeError("these rows are texts")
        return self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows that passed every check.

    Attributes:
        task: What the rows are for.
        labels: Class names; a target is an index into them.
        train: Rows to learn from; none of them is in ``evaluation``.
        evaluation: Rows to judge by.
        warnings: What was dropped or looks odd, each with its count.
    """

    task: Task
    labels: tuple[str, ...]
    train: Rows
    evaluation: Rows
    warnings: tuple[str, ...] = ()


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a data set into a folder; the same rows give the same bytes on every machine.

    Texts go to ``train.jsonl`` and ``eval.jsonl``, images to ``*_inputs.npy`` and ``*_targets.npy``, the rest to
    ``dataset.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = {
        "schema": _SCHEMA,
        "task": dataset.task.value,
        "labels": list(dataset.labels),
        "warnings": list(dataset.warnings),
        "rows": {"train": len(dataset.train), "eval": len(dataset.evaluation)},
    }
    (folder / _INDEX).write_bytes(_json_line(index))
    for name, rows in (("train", dataset.train), ("eval", dataset.evaluation)):
        if isinstance(rows.inputs, tuple):
            pairs = zip(rows.targets.tolist(), rows.inputs, strict=True)
            lines = [_json_line({"label": target, "text": text}) for target, text in pairs]
            (folder / f"{name}.jsonl").write_bytes(b"".join(lines))
        else:
            inputs_type = "|u1" if rows.inputs.dtype == np.uint8 else "<f4"
            _save_array(folder / f"{name}_inputs.npy", rows.inputs, inputs_type)
            _save_array(folder / f"{name}_targets.npy", rows.targets, "<i8")


def read_dataset(folder: Path) -> Dataset:
    """Read what `save_dataset` wrote.

    Raises:
        UsageError: E0228, the folder holds no data set, or a damaged one.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "E0228",
            f"{str(folder)!r} holds no complete data set",
            why=f"{type(error).__name__}: {error}",
            fix="build again; the data stage writes this folder",
        ) from error


def _read(folder: Path) -> Dataset:
    index = json.loads((folder / _INDEX).read_bytes())
    if index["schema"] != _SCHEMA:
        raise ValueError(f"schema {index['schema']!r} is not {_SCHEMA}")
    task = Task(index["task"])
    labels = tuple(str(label) for label in index["labels"])
    train, evaluation = (_read_rows(folder, name, task) for name in ("train", "eval"))
    for name, rows in (("train", train), ("eval", evaluation)):
        if len(rows) != index["rows"][name] or not np.isin(rows.targets, np.arange(len(labels))).all():
            raise ValueError(f"the rows of {name} do not fit the index")
    warnings = tuple(str(warning) for warning in index["warnings"])
    return Dataset(task=task, labels=labels, train=train, evaluation=evaluation, warnings=warnings)


def _read_rows(folder: Path, name: str, task: Task) -> Rows:
    if task is Task.IMAGE_CLASSIFICATION:
        inputs = np.load(folder / f"{name}_inputs.npy", allow_pickle=False)
        targets = np.load(folder / f"{name}_targets.npy", allow_pickle=False)
        return Rows(inputs=inputs, targets=targets)
    # Split at line feeds only: a text may hold other characters that str.splitlines takes for line ends.
    lines = (folder / f"{name}.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines if line]
    texts = tuple(str(row["text"]) for row in rows)
    return Rows(inputs=texts, targets=np.array([row["label"] for row in rows], dtype=np.int64))


def _json_line(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def _save_array(path: Path, array: NDArray[np.generic], dtype: str) -> None:
    np.save(path, np.ascontiguousarray(array, dtype=np.dtype(dtype)), allow_pickle=False)
