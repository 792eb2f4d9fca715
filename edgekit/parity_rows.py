"""The rows of a comparison: those that the build kept, the bundle's goldens, or a file of the user's."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.kept import kept_lane
from edgekit.recipe.spec import DataSource, DataSpec, ImageSpec, Task
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.rows import IMAGES, RawRows, golden_rows, read_rows, require_fit

__all__ = ["GOLDENS", "AskedRows", "DataOption", "load_asked", "spread"]

GOLDENS = "goldens"

_FileKind = Literal["csv", "jsonl", "parquet", "npz"]
_SUFFIXES: Mapping[str, _FileKind] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npz": "npz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOption:
    """Rows that the user names on the command line.

    Attributes:
        path: A CSV, JSONL, Parquet or npz file, a text file with one row a line, what ``RawRows.write`` wrote, a folder
            with one sub-folder of images per class, or the word ``goldens``.
        text: Column with the text.
        label: Column with the label.
    """

    path: Path
    text: str = "text"
    label: str = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRows:
    """Rows, and the right answers where they are known.

    Attributes:
        rows: Inputs before preprocessing.
        targets: Right classes, int64 (N,); None where nobody knows.
        source: Where they come from, in words.
        warnings: What was dropped or looks odd.
    """

    rows: RawRows
    targets: NDArray[np.int64] | None
    source: str
    warnings: tuple[str, ...] = ()


def load_asked(bundle: Bundle, path: Path, data: DataOption | None) -> AskedRows:
    """Find the rows.

    Args:
        bundle: Verified.
        path: Of the bundle.
        data: None takes the evaluation rows that the build kept.

    Raises:
        MissingError: The rows are not here.
        UsageError: They do not fit the bundle.
    """
    if data is None:
        return _kept(bundle, path)
    if str(data.path) == GOLDENS:
        return AskedRows(rows=golden_rows(bundle), targets=None, source="goldens of the bundle")
    if not data.path.exists():
        raise MissingError("E0658", f"there are no rows at '{data.path}'", fix="check the path after --data")
    suffix = data.path.suffix.lower()
    if suffix == ".json" or (suffix == ".npz" and (bundle.manifest.task == "tensors" or _holds_images(data.path))):
        rows = read_rows(data.path)
        require_fit(bundle, rows)
        return AskedRows(rows=rows, targets=None, source=data.path.name)
    if bundle.manifest.task == "tensors":
        what = f"the bundle takes tensors, and '{data.path}' holds none"
        raise UsageError("E0128", what, fix="give an .npz file with one array for each input, rows first")
    if suffix == ".txt" or bundle.manifest.task == "text-embedding":
        return _texts(bundle, data)
    return _labelled(bundle, data)


def _holds_images(path: Path) -> bool:
    """Tell images without labels, as ``RawRows.write`` keeps them, from the arrays ``x`` and ``y``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as held:
        return held.namelist() == [f"{IMAGES}.npy"]


def spread(asked: AskedRows, most: int | None) -> AskedRows:
    """Take at most ``most`` rows, evenly spread over all; None takes all."""
    count = len(asked.rows)
    if most is None or most >= count:
        return asked
    places = np.unique(np.linspace(0, count - 1, most).astype(np.int64))
    targets = None if asked.targets is None else asked.targets[places]
    source = f"{len(places)} of {count} rows of {asked.source}"
    return replace(asked, rows=asked.rows.take([int(place) for place in places]), targets=targets, source=source)


def _kept(bundle: Bundle, path: Path) -> AskedRows:
    from edgekit.quantise_only.parity import came_ready

    folder = kept_lane(path, "data")
    source = "evaluation rows of the build"
    if came_ready(bundle):
        return AskedRows(rows=_kept_ready(folder), targets=None, source=source)
    from edgekit_models.data.dataset import read_dataset

    data = read_dataset(folder)
    rows, targets = data.evaluation, _by_name(bundle, data.labels, data.evaluation.targets)
    return AskedRows(rows=_raw(rows.inputs), targets=targets, source=source)


def _by_name(bundle: Bundle, names: Sequence[str], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count classes as the bundle's own labels do: a right answer is a name, and the rows were kept by number."""
    held = cast("list[str]", bundle.json("labels.json"))
    if sorted(held) != sorted(names):
        what = f"the labels of the bundle are {', '.join(held)}; its rows were kept as {', '.join(names)}"
        raise UsageError("E0128", what, fix="keep the folder beside the bundle that it was built with")
    return np.array([held.index(name) for name in names], np.int64)[targets]


def _kept_ready(folder: Path) -> RawRows:
    texts = json.loads((folder / "eval.json").read_text(encoding="utf-8"))["texts"]
    if texts:
        return RawRows(texts=tuple(texts))
    files = sorted((folder / "eval").glob("*.npy"))
    return RawRows(arrays={file.stem: np.load(file, allow_pickle=False) for file in files})


def _raw(inputs: Sequence[str] | NDArray[np.generic]) -> RawRows:
    return RawRows(arrays={IMAGES: inputs}) if isinstance(inputs, np.ndarray) else RawRows(texts=tuple(inputs))


def _texts(bundle: Bundle, data: DataOption) -> AskedRows:
    from edgekit.quantise_only.rows import read_texts

    if bundle.manifest.task not in {"text-classification", "text-embedding"}:
        what = f"'{data.path.name}' is a file of texts; the bundle takes {bundle.manifest.task.split('-')[0]}s"
        raise UsageError("E0128", what, fix="give a folder of images, or an .npz file")
    texts = read_texts(data.path, column=data.text)
    return AskedRows(rows=RawRows(texts=texts), targets=None, source=data.path.name)


def _labelled(bundle: Bundle, data: DataOption) -> AskedRows:
    from edgekit_models.data.load import load_rows

    suffix = data.path.suffix.lower()
    kind: _FileKind | Literal["images"] | None = "images" if data.path.is_dir() else _SUFFIXES.get(suffix)
    if kind is None:
        raise UsageError(
            "E0128",
            f"--data {data.path} is of an unknown kind",
            fix=f"give a folder of images, or a file that ends in .txt, .json, {', '.join(_SUFFIXES)}",
        )
    task = Task(bundle.manifest.task)
    if (task is Task.IMAGE_CLASSIFICATION) != (kind in {"images", "npz"}):
        fits = "a folder of images, or an .npz file" if task is Task.IMAGE_CLASSIFICATION else "a file of texts"
        raise UsageError("E0128", f"the bundle takes no rows of the kind '{kind}'", fix=f"give {fits}")
    spec = DataSpec(
        train=DataSource(kind=kind, location=str(data.path.absolute())),
        text=data.text,
        label=data.label,
        image=_image(bundle) if task is Task.IMAGE_CLASSIFICATION else None,
    )
    labels = cast("list[str]", bundle.json("labels.json"))
    try:
        rows, warnings = load_rows(spec, task=task, folder=Path(), labels=labels)
    except UsageError as error:
        if error.code != "E0208":
            raise
        fix = "name the columns with --text and --label"  # the message of a build speaks of its recipe
        raise UsageError(error.code, error.what, why=error.why, fix=fix) from error
    return AskedRows(rows=_raw(rows.inputs), targets=rows.targets, source=data.path.name, warnings=warnings)


def _image(bundle: Bundle) -> ImageSpec:
    config = json.loads(bundle.read("preprocess.json"))
    return ImageSpec(height=config["height"], width=config["width"], channels=config["channels"])
