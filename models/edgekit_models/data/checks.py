"""Checks on rows: what is refused, what is dropped and counted."""

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from edgekit_models.data.dataset import Inputs, Rows
from edgekit_models.data.raw import RawTable, raw_label
from edgekit_models.files import near
from edgekit_runtime.errors import UsageError

__all__ = ["class_names", "clean_texts", "label_names", "remove_leaks", "require_classes", "targets_of"]


def clean_texts(table: RawTable, *, warn: Callable[[str], None]) -> tuple[tuple[str, ...], list[object], list[int]]:
    """Drop rows without a text, counted in one warning.

    Returns:
        Texts, label cells and row numbers of the rows that stay.

    Raises:
        UsageError: E0211, no row stays; E0215, a text cell is no text; E0216, a text is not valid Unicode.
    """
    texts: list[str] = []
    labels: list[object] = []
    numbers: list[int] = []
    for text, label, number in zip(table.texts, table.labels, table.numbers, strict=True):
        if text is None or (isinstance(text, float) and math.isnan(text)):
            continue
        if not isinstance(text, str):
            raise UsageError(
                "E0215",
                f"{table.title!r}, {table.unit} {number}: the text is {text!r}, a {type(text).__name__}",
                why="a text classifier reads text",
                fix="set data.text to the column that holds texts",
            )
        if not text.strip():
            continue
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(
                "E0216",
                f"{table.title!r}, {table.unit} {number}: the text holds half of a surrogate pair",
                why="such a text is not valid Unicode; no tokenizer reads it",
                fix="remove or mend the row",
            )
        texts.append(text)
        labels.append(label)
        numbers.append(number)
    dropped = len(table.texts) - len(texts)
    if not texts:
        why = f"all of its {dropped} texts are empty" if dropped else "it holds no rows"
        raise UsageError("E0211", f"{table.title!r} gives no rows", why=why, fix="name a source with rows")
    if dropped:
        warn(f"{table.title}: {dropped} of {len(table.texts)} rows dropped because their text is empty")
    return tuple(texts), labels, numbers


def label_names(
    labels: Sequence[object], names: Mapping[str, str], *, title: str, numbers: Sequence[int], unit: str
) -> list[str]:
    """Turn label cells into raw label values, all of which ``names`` knows if it is not empty.

    Raises:
        UsageError: E0213, a label is missing; E0214, a label is no class; E0217, ``names`` lacks a label.
    """
    raw: list[str] = []
    missing: list[int] = []
    for label, number in zip(labels, numbers, strict=True):
        try:
            value = raw_label(label)
        except TypeError as error:
            raise UsageError(
                "E0214",
                f"{title!r}, {unit} {number}: the label {label!r} ({type(label).__name__}) is no class",
                why="labels are whole numbers, words or true/false; a fraction would be a regression",
                fix="set data.label to the column that holds classes",
            ) from error
        if value is None:
            missing.append(number)
            continue
        if names and value not in names:
            raise UsageError(
                "E0217",
                f"{title!r}, {unit} {number}: data.labels has no name for the label {value!r}{near(value, names)}",
                why=f"data.labels names {', '.join(map(repr, names))}",
                fix="add the label to data.labels, or leave its rows out with 'where'",
            )
        raw.append(value)
    if missing:
        shown = ", ".join([*map(str, missing[:5]), *["..."] * (len(missing) > 5)])
        raise UsageError(
            "E0213",
            f"{title!r}: {len(missing)} of {len(labels)} rows have no label ({unit} {shown})",
            why="a row without a label can neither teach nor judge",
            fix="label these rows or remove them",
        )
    return raw


def class_names(raw: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Give the class names in their order: by raw value, as numbers if all are whole numbers, else as text.

    Two raw values with one name are one class, which stands where the first of them would.
    """
    values = set(raw)
    whole = all(value.lstrip("-").isdecimal() for value in values)
    ordered = sorted(values, key=lambda value: (int(value), value) if whole else (0, value))
    return tuple(dict.fromkeys(names.get(value, value) for value in ordered))


def targets_of(
    raw: Sequence[str], names: Mapping[str, str], classes: Sequence[str], *, title: str
) -> NDArray[np.int64]:
    """Turn raw label values into class indices.

    Raises:
        UsageError: E0218, a label is not among the classes, which are those of the training rows.
    """
    index = {name: i for i, name in enumerate(classes)}
    wanted = [names.get(value, value) for value in raw]
    unseen = sorted({name for name in wanted if name not in index})
    if unseen:
        raise UsageError(
            "E0218",
            f"{title!r} has labels that no training row has: {', '.join(map(repr, unseen[:8]))}",
            why=f"the training rows have {', '.join(map(repr, list(classes)[:20]))}",
            fix="name the same labels in both sets; data.labels can map raw values to names",
        )
    return np.array([index[name] for name in wanted], dtype=np.int64)


def require_classes(rows: Rows, classes: Sequence[str], *, title: str, warn: Callable[[str], None]) -> None:
    """Refuse rows of a single class; warn of classes that have no row.

    Raises:
        UsageError: E0212, all rows have one label.
    """
    counts = np.bincount(rows.targets, minlength=len(classes))
    if np.count_nonzero(counts) < 2:
        only = classes[int(counts.argmax())]
        raise UsageError(
            "E0212",
            f"{title} have one label only: {only!r}",
            why="with one class there is nothing to tell apart, and accuracy means nothing",
            fix="give rows of at least two labels; check data.label, data.labels and 'where'",
        )
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        warn(f"{title} have no row with the label {', '.join(map(repr, absent))}")


def remove_leaks(train: Rows, evaluation: Rows, *, warn: Callable[[str], None]) -> Rows:
    """Remove from train what eval holds too; count duplicates within each set.

    Texts are equal if they are after case folding and with runs of white space as one space; images if their bytes are.
    Eval is never touched, so that a score stays comparable with other people's.
    """
    train_keys, eval_keys = _keys(train.inputs), _keys(evaluation.inputs)
    held_out = set(eval_keys)
    kept = [i for i, key in enumerate(train_keys) if key not in held_out]
    if len(kept) < len(train_keys):
        removed = len(train_keys) - len(kept)
        warn(f"{removed} training rows removed because the evaluation rows hold the same input")
        train = train.take(np.array(kept, dtype=np.int64))
    _count_duplicates([train_keys[i] for i in kept], train.targets, title="training rows", warn=warn)
    _count_duplicates(eval_keys, evaluation.targets, title="evaluation rows", warn=warn)
    return train


def _keys(inputs: Inputs) -> list[bytes]:
    if isinstance(inputs, tuple):
        return [" ".join(text.casefold().split()).encode() for text in inputs]
    return [blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest() for image in inputs]


def _count_duplicates(
    keys: Sequence[bytes], targets: NDArray[np.int64], *, title: str, warn: Callable[[str], None]
) -> None:
    first: dict[bytes, int] = {}
    repeated = conflicts = 0
    for key, target in zip(keys, targets.tolist(), strict=True):
        seen = first.setdefault(key, target)
        conflicts += seen != target
    repeated = len(keys) - len(first)
    if repeated:
        more = f", {conflicts} of them with another label than the first" if conflicts else ""
        warn(f"{repeated} {title} repeat an earlier one{more}; they are kept")
