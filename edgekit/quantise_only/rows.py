"""Rows to calibrate on and to judge by, read from a file of texts or of arrays; nobody needs labels."""

import csv
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.preprocess.text import TextPreprocess

__all__ = ["Feeds", "RowSet", "read_rows", "read_texts", "row_shapes", "split_rows"]

Feeds = Mapping[str, NDArray[np.generic]]
_TEXT_SUFFIXES = (".txt", ".csv", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """Rows in the form of the model contract.

    Attributes:
        feeds: One a row, batch 1.
        texts: What they were made from; empty for bare tensors.
    """

    feeds: tuple[Feeds, ...]
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.feeds)

    def take(self, places: Sequence[int]) -> "RowSet":
        """Give some of the rows."""
        texts = tuple(self.texts[i] for i in places) if self.texts else ()
        return RowSet(feeds=tuple(self.feeds[i] for i in places), texts=texts)

    @property
    def digest(self) -> str:
        """Sha256 (hex) of all rows."""
        digest = hashlib.sha256(json.dumps(self.texts).encode())
        for row in self.feeds:
            for name, value in row.items():
                digest.update(f"{name} {value.dtype.str} {value.shape}".encode() + value.tobytes())
        return digest.hexdigest()


def read_rows(path: Path, inputs: Sequence[TensorSpec], *, preprocess: TextPreprocess | None, column: str) -> RowSet:
    """Read a file.

    Args:
        path: For texts ``.txt`` (one a line), ``.csv`` or ``.jsonl``; for tensors ``.npz`` with one array an input,
            rows first.
        inputs: What the model takes.
        preprocess: What makes them from a text; None for a model of bare tensors.
        column: Of the texts in a table; the only column of a CSV file may have any name.

    Raises:
        MissingError: There is no such file (E0614).
        UsageError: It cannot be read (E0143), holds no rows (E0144) or does not fit the model (E0145).
    """
    if preprocess is None:
        _require(path, (".npz",), "arrays")
        return RowSet(feeds=_arrays(path, inputs))
    texts = read_texts(path, column=column)
    return RowSet(feeds=tuple(preprocess(text) for text in texts), texts=texts)


def read_texts(path: Path, *, column: str) -> tuple[str, ...]:
    """Read the texts of a ``.txt``, ``.csv`` or ``.jsonl`` file; blank ones are left out.

    Raises:
        MissingError: There is no such file (E0614).
        UsageError: It cannot be read (E0143) or holds no text (E0144).
    """
    _require(path, _TEXT_SUFFIXES, "texts")
    texts = tuple(text for text in _texts(path, column) if text.strip())
    if not texts:
        raise UsageError("E0144", f"'{path.name}' holds no text", fix="give at least a few dozen sentences")
    return texts


def _require(path: Path, wanted: Sequence[str], what: str) -> None:
    if not path.is_file():
        raise MissingError("E0614", f"there is no file '{path}'", fix="check the path")
    if path.suffix.lower() not in wanted:
        fix = f"give a file that ends in {', '.join(wanted)}"
        raise UsageError("E0143", f"'{path.name}' is no file of {what}, which the model takes", fix=fix)


def split_rows(given: RowSet, evaluation: RowSet | None, *, most: int) -> tuple[RowSet, RowSet]:
    """Give rows to calibrate on, spread over the file, and rows to judge by.

    Args:
        given: Of the calibration file.
        evaluation: Of the evaluation file; None = every fourth row of ``given`` is held out.
        most: Rows to calibrate on.

    Raises:
        UsageError: There are too few rows to hold some out (E0144).
    """
    if evaluation is None:
        if len(given) < 4:
            fix = "give more rows, or other rows with --eval"
            raise UsageError("E0144", f"{len(given)} rows are too few to hold some out for the comparison", fix=fix)
        held = range(3, len(given), 4)
        evaluation = given.take(held)
        given = given.take([i for i in range(len(given)) if i % 4 != 3])
    places = np.linspace(0, len(given) - 1, min(most, len(given))).astype(int)
    return given.take(sorted({int(place) for place in places})), evaluation


def _texts(path: Path, column: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            if path.suffix.lower() == ".txt":
                yield from (line.rstrip("\r\n") for line in stream)
            elif path.suffix.lower() == ".csv":
                yield from _csv_texts(csv.DictReader(stream), path.name, column)
            else:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield _json_text(json.loads(line), f"line {number} of {path.name}", column)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UsageError("E0143", f"'{path.name}' cannot be read", why=str(error), fix="save it as UTF-8") from error


def _csv_texts(rows: "csv.DictReader[str]", name: str, column: str) -> Iterator[str]:
    header = list(rows.fieldnames or ())
    chosen = header[0] if len(header) == 1 else column
    if chosen not in header:
        known = ", ".join(header) or "none"
        raise UsageError(
            "E0143", f"'{name}' has no column {column!r}", why=f"it has {known}", fix="name it with --text"
        )
    for row in rows:
        yield row[chosen] or ""


def _json_text(row: object, where: str, column: str) -> str:
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise UsageError("E0143", f"{where} has no text {column!r}", fix="name the key that holds it with --text")
    return text


def row_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Give the shape of one row, batch 1, of each array in an ``.npz`` file.

    Raises:
        UsageError: It cannot be read (E0143).
    """
    return {name: (1, *array.shape[1:]) for name, array in _read_arrays(path).items()}


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    fix = "save it with np.savez(path, name=array, ...)"
    if not zipfile.is_zipfile(path):
        raise UsageError("E0143", f"'{path.name}' is no .npz file", why="it is no archive", fix=fix)
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError("E0143", f"'{path.name}' is no plain .npz file", why=str(error), fix=fix) from error


def _arrays(path: Path, specs: Sequence[TensorSpec]) -> tuple[Feeds, ...]:
    arrays = _read_arrays(path)
    names = [spec.name for spec in specs]
    if set(arrays) != set(names):
        raise UsageError(
            "E0145",
            f"'{path.name}' holds {', '.join(arrays) or 'nothing'}; the model takes {', '.join(names)}",
            fix="save one array for each input, rows first: np.savez(path, name=array, ...)",
        )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise UsageError(
            "E0144", f"the arrays in '{path.name}' have {sorted(counts)} rows", fix="give each as many rows"
        )
    fitted = {spec.name: _fitted(arrays[spec.name], spec, path.name) for spec in specs}
    return tuple({name: array[i : i + 1] for name, array in fitted.items()} for i in range(counts.pop()))


def _fitted(array: NDArray[np.generic], spec: TensorSpec, file: str) -> NDArray[np.generic]:
    cast = array.astype(spec.dtype)
    exact = spec.dtype.startswith("float") or bool((cast == array).all())
    if array.shape[1:] != spec.shape[1:] or array.dtype.kind not in "fiu" or not exact:
        raise UsageError(
            "E0145",
            f"array {spec.name!r} in '{file}' is {array.dtype} {array.shape}",
            why=f"the model takes {spec.dtype}, and each row has shape {spec.shape[1:]}",
        )
    if not np.isfinite(cast.astype(np.float64)).all():
        raise UsageError("E0145", f"array {spec.name!r} in '{file}' holds NaN or infinity")
    return np.ascontiguousarray(cast)
