"""A calibration that was interrupted goes on from a file, and ends with the same ranges."""

import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.observers import Observer, make_observer
from edgekit_converters.quantize.calibration.spec import ObserverSpec
from edgekit_runtime.errors import ConversionError

__all__ = ["CalibrationState", "load_state", "save_state"]

_FORMAT = 1
_HEAD = "head"
# What zipfile, numpy and json raise on files with one wrong bit. RuntimeError: it looks encrypted or too new.
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationState:
    """What a file held.

    Attributes:
        observers: By tensor name, ready for the next row.
        rows_done: How many rows they have seen, 0 or more: the next one to run.
    """

    observers: Mapping[str, Observer]
    rows_done: int


def save_state(path: Path, observers: Mapping[str, Observer], *, rows_done: int, fingerprint: str) -> None:
    """Write observers as one ``.npz`` without pickle; a crash never leaves half of one.

    Args:
        path: Written to as named; its folder exists.
        observers: By tensor name.
        rows_done: How many rows they have seen.
        fingerprint: Of all that the ranges depend on: the calibration set, and the model if that may change in between.
    """
    head = {
        "format": _FORMAT,
        "rows_done": rows_done,
        "fingerprint": fingerprint,
        "observers": [{"tensor": name, "spec": asdict(observer.spec)} for name, observer in observers.items()],
    }
    arrays: dict[str, NDArray[np.generic]] = {_HEAD: np.frombuffer(json.dumps(head).encode(), np.uint8)}
    for i, observer in enumerate(observers.values()):
        arrays |= {f"{i}/{key}": array for key, array in observer.state().items()}
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_state(path: Path, specs: Mapping[str, ObserverSpec], *, fingerprint: str) -> CalibrationState:
    """Read what ``save_state`` wrote.

    Args:
        path: Of the file.
        specs: What is wanted now, by tensor name.
        fingerprint: Of what is calibrated now.

    Raises:
        ConversionError: E0741, the file belongs to another fingerprint; E0745, it cannot be read, is damaged, or holds
            other tensors or settings.
    """
    try:
        arrays = _read(path)
        head = json.loads(arrays[_HEAD].tobytes())
        found = str(head["fingerprint"])
        if found == fingerprint:
            return _restore(head, arrays, specs)
    except _UNREADABLE as error:
        raise ConversionError(
            "E0745",
            f"calibration state {path.name} cannot be gone on from: {error}",
            fix="delete the file and calibrate from the first row",
        ) from error
    raise ConversionError(
        "E0741",
        f"calibration state {path.name} belongs to fingerprint {found[:12]}, this calibration has {fingerprint[:12]}",
        why="rows or model changed since it was written; mixing both would give ranges of neither",
        fix="delete the file and calibrate from the first row, or bring back the former rows",
    )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    # From memory: numpy leaves a file open that turns out not to be an archive.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _restore(
    head: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]], specs: Mapping[str, ObserverSpec]
) -> CalibrationState:
    entries, rows_done = head["observers"], head["rows_done"]
    if head["format"] != _FORMAT:
        raise ValueError(f"format {head['format']}, known is {_FORMAT}")
    if not (isinstance(entries, list) and isinstance(rows_done, int) and rows_done >= 0):
        raise TypeError("its head is not one of ours")
    saved = {entry["tensor"]: ObserverSpec(**entry["spec"]) for entry in entries}
    differing = sorted(name for name in {*saved, *specs} if saved.get(name) != specs.get(name))
    if differing:
        raise ValueError(f"other tensors or settings: {', '.join(differing[:3])} ({len(differing)} differ)")
    observers: dict[str, Observer] = {}
    for i, (name, spec) in enumerate(saved.items()):
        observers[name] = make_observer(spec, name)
        prefix = f"{i}/"
        observers[name].restore({key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)})
    return CalibrationState(observers=observers, rows_done=rows_done)
