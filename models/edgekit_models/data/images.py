"""Reading images: a folder by class, npz arrays, idx files, scikit-learn's digits, the ``datasets`` library."""

import gzip
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgekit.recipe.spec import DataSource, DataSpec, ImageSpec
from edgekit_models.data.pixels import Picture, decode_file, decode_picture, fit
from edgekit_models.data.raw import RawImages
from edgekit_models.data.sources import find_source_file, find_source_folder, load_named_dataset, named_labels
from edgekit_models.files import near
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["read_images"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_images(source: DataSource, spec: DataSpec, *, folder: Path) -> RawImages:
    """Read all images of a source, before preprocessing.

    Images of files and of the ``datasets`` library are brought to the recipe's size and channels here, because they may
    differ in both; arrays stay as they are.

    Raises:
        MissingError: The file, the package or a library is not here.
        UsageError: The source is not what it should be.
    """
    if spec.image is None:
        raise UsageError("E0237", "the recipe has no data.image", fix="give data.image: {height: .., width: ..}")
    raw = _READERS[source.kind](source, spec, folder)
    count = len(raw.images)
    if not count:
        raise UsageError("E0211", f"{raw.title!r} gives no rows", why="it holds no images", fix="name another source")
    if len(raw.labels) != count:
        raise UsageError(
            "E0238", f"{raw.title!r} has {count} images but {len(raw.labels)} labels", fix="mend the source"
        )
    return raw


def _read_folder(source: DataSource, spec: DataSpec, folder: Path) -> RawImages:
    root = find_source_folder(source, folder=folder)
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UsageError(
            "E0221",
            f"{source.location!r} has no sub-folders",
            why="an image folder holds one sub-folder per class, named as the class",
            fix="sort the images into sub-folders",
        )
    files = [(path, entry.name) for entry in classes for path in sorted(entry.rglob("*")) if path.is_file()]
    images = [(path, label) for path, label in files if path.suffix.lower() in _SUFFIXES]
    arrays = (decode_file(path, title=path.relative_to(root).as_posix()) for path, _ in images)
    notes = [f"{len(files) - len(images)} files ignored that are no images by their name"] * (len(files) > len(images))
    return RawImages(
        title=source.location,
        images=_stack(arrays, len(images), _image(spec)),
        labels=[label for _, label in images],
        notes=tuple(notes),
    )


def _read_named(source: DataSource, spec: DataSpec, _folder: Path) -> RawImages:
    rows = load_named_dataset(source)
    if spec.label not in rows.column_names:
        hint = near(spec.label, rows.column_names)
        raise UsageError(
            "E0208",
            f"{source.location!r} has no column {spec.label!r}{hint}",
            why=f"the columns are {', '.join(map(repr, rows.column_names))}",
            fix="set data.label to a column that exists",
        )
    arrays = (decode_picture(_picture(row, title=source.location)) for row in rows)
    images = _stack(arrays, len(rows), _image(spec))
    return RawImages(title=source.location, images=images, labels=named_labels(rows, spec))


def _picture(row: Mapping[str, object], *, title: str) -> Picture:
    for cell in row.values():
        if hasattr(cell, "convert") and hasattr(cell, "mode"):
            return cast("Picture", cell)
    raise UsageError(
        "E0239",
        f"{title!r} has a row without an image",
        why=f"its columns are {', '.join(map(repr, row))}",
        fix="name a data set with a column of images",
    )


def _read_npz(source: DataSource, _spec: DataSpec, folder: Path) -> RawImages:
    title = source.location
    images, labels = _npz_arrays(find_source_file(source, folder=folder), title=title)
    if labels.ndim != 1:
        raise UsageError(
            "E0224",
            f"{title!r}: the labels 'y' have shape {labels.shape}; wanted is (N,)",
            fix="save class numbers or names, not one-hot rows",
        )
    return RawImages(title=title, images=_as_images(images, title=title), labels=labels.tolist())


def _npz_arrays(path: Path, *, title: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        if {"x", "y"} <= set(names):
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["x"], arrays["y"]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            "E0240",
            f"{title!r} cannot be read as an npz file of plain arrays",
            why=f"{error}; arrays of Python objects are never loaded, because unpickling runs code",
            fix="save numeric arrays with numpy.savez(path, x=images, y=labels)",
        ) from error
    raise UsageError(
        "E0223",
        f"{title!r} lacks the array {'y' if 'x' in names else 'x'!r}",
        why=f"it holds {', '.join(map(repr, names)) or 'nothing'}",
        fix="save it with numpy.savez(path, x=images, y=labels)",
    )


def _read_idx(source: DataSource, _spec: DataSpec, folder: Path) -> RawImages:
    root = find_source_folder(source, folder=folder)
    split = source.split or "train"
    images = _idx_array(_idx_file(root, f"{split}-images", 3), dimensions=3)
    labels = _idx_array(_idx_file(root, f"{split}-labels", 1), dimensions=1)
    title = f"{source.location} ({split})"
    return RawImages(title=title, images=_as_images(images, title=title), labels=labels.tolist())


def _idx_file(root: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{joint}idx{dimensions}-ubyte{end}" for joint in ("-", ".") for end in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    have = sorted(entry.name for entry in root.iterdir())
    raise MissingError(
        "E0201",
        f"no file {names[0]!r} (or {names[1]!r}) in {str(root)!r}{near(names[0], have)}",
        why="an idx source is a folder with a pair of MNIST-style files; 'split' is train or t10k",
        fix="correct the folder or 'split'",
    )


def _idx_array(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: ``00 00 08 n``, then n big-endian sizes, then the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError) as error:
        raise _bad_idx(path, f"it cannot be unpacked: {error}") from error
    if data[:4] != bytes([0, 0, 8, dimensions]):
        raise _bad_idx(path, f"it starts with {data[:4].hex(' ')}, not 00 00 08 {dimensions:02x}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise _bad_idx(path, "its header is cut off")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    if len(data) - start != math.prod(shape):
        raise _bad_idx(path, f"it holds {len(data) - start} values, its header says {math.prod(shape)}")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _bad_idx(path: Path, why: str) -> UsageError:
    return UsageError("E0225", f"{path.name!r} is no idx file of unsigned bytes", why=why, fix="fetch the file again")


def _read_sklearn(source: DataSource, _spec: DataSpec, _folder: Path) -> RawImages:
    if source.location != "digits":
        raise UsageError(
            "E0226",
            f"no scikit-learn image set {source.location!r}",
            why="digits is the only image set that scikit-learn carries; the others are downloads",
            fix="use {sklearn: digits}",
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingError("E0227", "scikit-learn is not installed", fix="pip install 'edgekit[build]'") from error
    digits = load_digits()
    title = "sklearn digits"
    return RawImages(title=title, images=_as_images(digits.images, title=title), labels=digits.target.tolist())


def _as_images(array: NDArray[np.generic], *, title: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Bring an array to (N, H, W, C) and to uint8 or float32.

    Raises:
        UsageError: E0224, its shape, type or values are not those of images.
    """
    shaped = array[..., np.newaxis] if array.ndim == 3 else array
    if shaped.ndim != 4 or shaped.shape[3] not in (1, 3):
        channels_first = shaped.ndim == 4 and shaped.shape[1] in (1, 3)
        fix = "save x.transpose(0, 2, 3, 1)" if channels_first else "save grey or RGB images as one array"
        raise UsageError(
            "E0224",
            f"{title!r}: the images have shape {array.shape}; wanted is (N, H, W) or (N, H, W, C) with C 1 or 3",
            why="channels come last" if channels_first else "",
            fix=fix,
        )
    if array.dtype.kind not in "buif":
        raise UsageError("E0224", f"{title!r}: the images have dtype {array.dtype}", fix="save uint8 or float32 values")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(shaped, dtype=np.uint8)
    floats = np.ascontiguousarray(shaped, dtype=np.float32)
    if not np.isfinite(floats).all():
        raise UsageError("E0224", f"{title!r}: the images hold NaN or infinite values", fix="mend the values")
    return floats


def _stack(arrays: Iterator[NDArray[np.uint8]], count: int, image: ImageSpec) -> NDArray[np.uint8]:
    stacked = np.empty((count, image.height, image.width, image.channels), dtype=np.uint8)
    for i, array in enumerate(arrays):
        stacked[i] = fit(array, image)
    return stacked


def _image(spec: DataSpec) -> ImageSpec:
    if spec.image is None:
        raise AssertionError("read_images checks data.image first")
    return spec.image


_Reader = Callable[[DataSource, DataSpec, Path], RawImages]
_READERS: Mapping[str, _Reader] = MappingProxyType(
    {
        "images": _read_folder,
        "npz": _read_npz,
        "idx": _read_idx,
        "sklearn": _read_sklearn,
        "datasets": _read_named,
    }
)
