"""What table and image sources share: their file, and data sets of the ``datasets`` library."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.recipe.spec import DataSource, DataSpec
from edgekit_models.files import check_sha256, find_file, find_package_file, find_package_folder, near
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["NamedDataset", "find_source_file", "find_source_folder", "load_named_dataset", "named_labels"]


class NamedDataset(Protocol):
    """The part of ``datasets.Dataset`` that is used here."""

    @property
    def column_names(self) -> list[str]: ...

    @property
    def features(self) -> Mapping[str, object]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, column: str, /) -> Sequence[object]: ...

    def __iter__(self) -> Iterator[dict[str, object]]: ...


def find_source_file(source: DataSource, *, folder: Path) -> Path:
    """Find the file of a source and check its digest.

    Raises:
        MissingError: It is not here.
        UsageError: E0202, its digest is another one; E0231, it is a folder.
    """
    if source.package:
        path = find_package_file(source.package, source.location)
    else:
        path = find_file(source.location, folder=folder)
    if not path.is_file():
        raise UsageError(
            "E0231",
            f"{source.location!r} is a folder; a {source.kind} source is a file",
            fix="name the file, or use 'images' for a folder of images and 'idx' for a folder of idx files",
        )
    check_sha256(path, source.sha256, title=repr(source.location))
    return path


def find_source_folder(source: DataSource, *, folder: Path) -> Path:
    """Find the folder of a source.

    Raises:
        MissingError: It is not here.
        UsageError: E0232, it is a file; E0233, the recipe gives a sha256, which a folder does not have.
    """
    if source.sha256:
        raise UsageError("E0233", f"a {source.kind} source is a folder and has no sha256", fix="remove 'sha256'")
    if source.package:
        return find_package_folder(source.package, source.location)
    path = find_file(source.location, folder=folder)
    if not path.is_dir():
        raise UsageError(
            "E0232", f"{source.location!r} is a file; a {source.kind} source is a folder", fix="name the folder"
        )
    return path


def load_named_dataset(source: DataSource) -> NamedDataset:
    """Load one split of a data set by name through the ``datasets`` library; this may use the network.

    Raises:
        MissingError: E0209, the library is not installed.
        UsageError: E0210, the data set or the split cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingError(
            "E0209",
            "the library 'datasets' is not installed",
            why=f"the recipe names the data set {source.location!r}",
            fix="pip install datasets 'huggingface-hub<1'",  # newer ones do not go with our transformers
        ) from error
    try:
        loaded = datasets.load_dataset(source.location)
    except Exception as error:
        raise UsageError(
            "E0210",
            f"the data set {source.location!r} cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            fix="check the name and the network, or save the rows as a CSV or Parquet file and name that",
        ) from error
    splits: dict[str, NamedDataset] = {str(name): rows for name, rows in loaded.items()}
    if not source.split and len(splits) == 1:
        return next(iter(splits.values()))
    if source.split not in splits:
        raise UsageError(
            "E0234",
            f"the data set {source.location!r} has no split {source.split!r}{near(source.split, splits)}",
            why=f"its splits are {', '.join(splits)}",
            fix="set 'split' beside 'datasets'",
        )
    return splits[source.split]


def named_labels(rows: NamedDataset, spec: DataSpec) -> Sequence[object]:
    """Give the label column; codes of a ``ClassLabel`` become its names unless the recipe names the raw values."""
    cells = rows[spec.label]
    names = getattr(rows.features.get(spec.label), "names", None)
    if names is None or spec.labels:
        return cells
    # The library writes -1 where the label is not known.
    return [names[cell] if isinstance(cell, int) and cell >= 0 else None for cell in cells]
