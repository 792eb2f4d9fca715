"""Raw rows in one portable file: what a comparison asks every lane, on this machine or on a device."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import BundleError, MissingError, UsageError

__all__ = ["IMAGES", "RawRows", "golden_rows", "read_rows", "require_fit"]

IMAGES: Final = "images"

_Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Inputs before preprocessing; exactly one of both attributes is filled.

    Attributes:
        texts: Of a text task.
        arrays: ``images`` (N, H, W) or (N, H, W, C), uint8 or float32, of an image task; the inputs of the model by
            name, (N, ...), of the task ``tensors``.
    """

    texts: tuple[str, ...] = ()
    arrays: _Arrays = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        counts = {len(array) for array in self.arrays.values()}
        if bool(self.texts) == bool(self.arrays) or len(counts) > 1 or 0 in counts:
            raise UsageError("E0917", "rows are texts, or arrays of one length; there must be at least one")

    def __len__(self) -> int:
        return len(self.texts) or len(next(iter(self.arrays.values())))

    def take(self, places: Sequence[int]) -> "RawRows":
        """Give the rows at ``places``, in that order."""
        if self.texts:
            return RawRows(texts=tuple(self.texts[place] for place in places))
        return RawRows(arrays={name: array[list(places)] for name, array in self.arrays.items()})

    def digest(self) -> str:
        """Give the sha256 of the content, hex; the same rows give the same on every machine."""
        total = hashlib.sha256()
        for text in self.texts:
            data = text.encode("utf-8", "surrogatepass")
            total.update(len(data).to_bytes(8, "little") + data)
        for name, array in sorted(self.arrays.items()):
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            total.update(f"{name} {little.dtype.str} {little.shape}\n".encode() + little.tobytes())
        return total.hexdigest()

    def write(self, path: Path) -> None:
        """Write ``path``, whose name must end in ``.json`` for texts and in ``.npz`` for arrays."""
        if self.texts:
            path.write_text(json.dumps({"texts": list(self.texts)}), encoding="utf-8")
            return
        np.savez(path, **cast("dict[str, Any]", dict(self.arrays)))

    @property
    def suffix(self) -> str:
        """Ending of the file that ``write`` makes."""
        return ".json" if self.texts else ".npz"


def read_rows(path: str | os.PathLike[str]) -> RawRows:
    """Read what ``RawRows.write`` wrote.

    Raises:
        MissingError: No such file (E0658).
        UsageError: It holds no rows (E0917).
    """
    file = Path(path)
    if not file.is_file():
        raise MissingError("E0658", f"there is no file of rows {os.fspath(path)!r}", fix="check the path")
    try:
        if file.suffix == ".json":
            return RawRows(texts=_texts(json.loads(file.read_bytes())["texts"]))
        with np.load(file, allow_pickle=False) as held:
            return RawRows(arrays={name: held[name] for name in held.files})
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UsageError(
            "E0917",
            f"{file.name} holds no rows",
            why=f"{type(error).__name__}: {error}"
            if file.suffix in {".json", ".npz"}
            else "it is no .json or .npz file",
            fix="write them on the desktop: edgekit parity BUNDLE --save-rows FILE",
        ) from error


def _texts(held: object) -> tuple[str, ...]:
    if not isinstance(held, list) or not all(isinstance(text, str) for text in held):
        raise TypeError("texts is no list of texts")
    return tuple(held)


def require_fit(bundle: Bundle, rows: RawRows) -> None:
    """See that rows are what a bundle takes, before anything answers them.

    Raises:
        UsageError: They are not (E0198).
    """
    task = bundle.manifest.task
    arrays = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in rows.arrays.items())
    if task == "tensors":
        specs = next(iter(bundle.manifest.models.values())).inputs
        given = {name: (array.dtype.name, array.shape[1:]) for name, array in rows.arrays.items()}
        fits = given == {spec.name: (spec.dtype, tuple(spec.shape[1:])) for spec in specs}
        shapes = {spec.name: ", ".join(["rows", *map(str, spec.shape[1:])]) for spec in specs}
        wanted = ", ".join(f"{spec.name} {spec.dtype} ({shapes[spec.name]})" for spec in specs)
    elif task == "image-classification":
        fits = rows.arrays.keys() == {IMAGES} and rows.arrays[IMAGES].ndim in {3, 4}
        wanted = f"{IMAGES} (rows, height, width) or (rows, height, width, channels)"
    else:
        fits, wanted = bool(rows.texts), "texts"
    if not fits:
        why = f"it takes {wanted}; these are {arrays or 'texts'}"
        fix = "give such rows; edgekit parity BUNDLE --save-rows FILE writes some"
        raise UsageError("E0198", "the rows do not fit the bundle", why=why, fix=fix)


def golden_rows(bundle: Bundle) -> RawRows:
    """Give the inputs that the bundle carries for its self-test.

    Raises:
        BundleError: It carries none (E0518).
    """
    try:
        return _golden(bundle)
    except (KeyError, TypeError, UsageError) as error:
        raise BundleError("E0518", "the bundle holds no goldens to run", why=str(error)) from None


def _golden(bundle: Bundle) -> RawRows:
    if bundle.manifest.task == "tensors":
        names = [spec.name for spec in next(iter(bundle.manifest.models.values())).inputs]
        return RawRows(arrays={name: bundle.npy(f"golden/{name}.npy") for name in names})
    if bundle.manifest.task == "image-classification":
        return RawRows(arrays={IMAGES: bundle.npy("golden/input.npy")})
    return RawRows(texts=_texts(cast("Mapping[str, object]", bundle.json("golden.json"))["texts"]))
