"""Images: folders, npz, idx, scikit-learn and the ``datasets`` library."""

import gzip
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from edgekit.recipe.spec import DataSource, DataSpec, ImageSpec, Task
from edgekit_models.data import Dataset, load_dataset
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError

GREY = ImageSpec(height=4, width=6)
COLOUR = ImageSpec(height=4, width=6, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def load(folder: Path, source: DataSource, image: ImageSpec | None = GREY, eval_rows: int = 2) -> Dataset:
    spec = DataSpec(train=source, eval_rows=eval_rows, image=image)
    return load_dataset(spec, task=Task.IMAGE_CLASSIFICATION, folder=folder, seed=0)


def refused(
    kind: type[EdgekitError], code: str, folder: Path, source: DataSource, image: ImageSpec | None = GREY
) -> EdgekitError:
    with pytest.raises(kind) as caught:
        load(folder, source, image)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def every_image(dataset: Dataset) -> list[np.ndarray]:
    return [*dataset.train.images, *dataset.evaluation.images]


def picture(folder: Path, name: str, value: int | tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(folder / name)


FOLDER = DataSource(kind="images", location="pets")


def pets(folder: Path) -> None:
    for i in range(4):
        picture(folder, f"pets/cat/{i}.png", 10 + i)
        picture(folder, f"pets/dog/{i}.png", 20 + i)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "pets" / ".cache").mkdir()
    dataset = load(tmp_path, FOLDER)
    assert dataset.labels == ("cat", "dog")
    assert dataset.train.images.shape == (6, 4, 6, 1)
    assert dataset.train.images.dtype == np.uint8
    for image, target in zip(dataset.train.images, dataset.train.targets, strict=True):
        assert image.min() == image.max()
        assert image[0, 0, 0] // 10 == 1 + target
    assert dataset.warnings == ()


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "pets/cat/notes.txt").write_text("mine")
    assert load(tmp_path, FOLDER).warnings == ("pets: 1 files ignored that are no images by their name",)


def test_sizes_and_channels_are_brought_to_the_recipe(tmp_path: Path) -> None:
    pets(tmp_path)
    picture(tmp_path, "pets/cat/large.png", (250, 0, 0), (600, 400))
    grey = load(tmp_path, FOLDER)
    assert {image.shape for image in every_image(grey)} == {(4, 6, 1)}
    luma = round(250 * 0.299)  # ITU-R BT.601
    assert any((image == luma).all() for image in every_image(grey))
    colour = load(tmp_path, FOLDER, COLOUR)
    assert {image.shape for image in every_image(colour)} == {(4, 6, 3)}
    assert any((image == [250, 0, 0]).all() for image in every_image(colour))


def test_resize_is_that_of_pillow_within_one_step(tmp_path: Path) -> None:
    pets(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "pets/cat/noise.png")
    wanted = np.asarray(Image.fromarray(noise).resize((6, 4), Image.Resampling.BILINEAR)).astype(int)
    assert any(np.abs(image[..., 0] - wanted).max() <= 1 for image in every_image(load(tmp_path, FOLDER)))


def test_faults_of_an_image_folder_are_named(tmp_path: Path) -> None:
    refused(MissingError, "E0201", tmp_path, FOLDER)
    (tmp_path / "pets").mkdir()
    refused(UsageError, "E0221", tmp_path, FOLDER)
    (tmp_path / "pets/cat").mkdir()
    refused(UsageError, "E0211", tmp_path, FOLDER)
    pets(tmp_path)
    (tmp_path / "pets/dog/broken.png").write_bytes((tmp_path / "pets/dog/0.png").read_bytes()[:50])
    assert "dog/broken.png" in refused(UsageError, "E0222", tmp_path, FOLDER).what
    refused(UsageError, "E0237", tmp_path, FOLDER, None)
    refused(UsageError, "E0232", tmp_path, DataSource(kind="images", location="pets/cat/0.png"))
    refused(UsageError, "E0233", tmp_path, DataSource(kind="images", location="pets", sha256="0" * 64))


def npz(folder: Path, **arrays: object) -> DataSource:
    np.savez(folder / "rows.npz", **arrays)
    return DataSource(kind="npz", location="rows.npz")


BYTES = np.arange(6 * 4 * 6, dtype=np.uint8).reshape(6, 4, 6)
HALF = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("x", "dtype", "channels"),
    [
        (BYTES, np.uint8, 1),
        (BYTES[..., None], np.uint8, 1),
        (np.stack([BYTES] * 3, axis=3), np.uint8, 3),
        (BYTES.astype(np.float64) / 255, np.float32, 1),
        (BYTES.astype(np.int64), np.float32, 1),
    ],
)
def test_arrays_keep_their_values(tmp_path: Path, x: np.ndarray, dtype: type, channels: int) -> None:
    dataset = load(tmp_path, npz(tmp_path, x=x, y=np.array(HALF)))
    assert dataset.train.images.dtype == dtype
    assert dataset.train.images.shape == (4, 4, 6, channels)
    wanted = {image.astype(dtype).tobytes() for image in x}
    assert {image.tobytes() for image in every_image(dataset)} == wanted


def test_array_labels_may_be_words(tmp_path: Path) -> None:
    assert load(tmp_path, npz(tmp_path, x=BYTES, y=np.array(["dog", "cat"] * 3))).labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("code", "arrays"),
    [
        ("E0223", {"x": BYTES}),
        ("E0223", {"images": BYTES, "y": HALF}),
        ("E0224", {"x": BYTES.reshape(6, 24), "y": HALF}),
        ("E0224", {"x": np.zeros((6, 3, 4, 6), np.uint8), "y": HALF}),
        ("E0224", {"x": np.full((6, 4, 6), np.nan), "y": HALF}),
        ("E0224", {"x": np.full((6, 4, 6), "a"), "y": HALF}),
        ("E0224", {"x": BYTES, "y": np.eye(6)}),
        ("E0238", {"x": BYTES, "y": HALF[:5]}),
        ("E0211", {"x": BYTES[:0], "y": HALF[:0]}),
        ("E0214", {"x": BYTES, "y": np.linspace(0, 1, 6)}),
        ("E0213", {"x": BYTES, "y": np.array([0, 1, 0, 1, 0, np.nan])}),
    ],
)
def test_faults_of_arrays_are_named(tmp_path: Path, code: str, arrays: dict[str, object]) -> None:
    refused(UsageError, code, tmp_path, npz(tmp_path, **arrays))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize("key", ["x", "y"])
def test_object_arrays_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {"x": BYTES, "y": np.array(HALF)} | {key: np.array([Bomb()] * 6, dtype=object)}
    source = npz(tmp_path, **arrays)
    assert "code" in refused(UsageError, "E0240", tmp_path, source).why
    assert not Path("exploded").exists()
    with np.load("rows.npz", allow_pickle=True) as archive:  # the file would do harm in other hands
        assert archive[key].shape == (6,)
    assert Path("exploded").exists()


@pytest.mark.parametrize("data", [b"", b"not a zip", b"\x93NUMPY"])
def test_file_that_is_no_npz_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(data)
    refused(UsageError, "E0240", tmp_path, DataSource(kind="npz", location="rows.npz"))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_idx_pair_is_read_plain_and_packed(tmp_path: Path) -> None:
    labels = np.array(HALF, np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(BYTES)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(255 - BYTES))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(labels))
    train, held_out = (DataSource(kind="idx", location=".", split=split) for split in ("train", "t10k"))
    spec = DataSpec(train=train, eval=held_out, image=GREY)
    dataset = load_dataset(spec, task=Task.IMAGE_CLASSIFICATION, folder=tmp_path, seed=0)
    np.testing.assert_array_equal(dataset.train.images[..., 0], BYTES)
    np.testing.assert_array_equal(dataset.evaluation.images[..., 0], 255 - BYTES)
    assert dataset.evaluation.targets.tolist() == HALF
    error = refused(MissingError, "E0201", tmp_path, DataSource(kind="idx", location=".", split="test"))
    assert "test-images-idx3-ubyte" in error.what


@pytest.mark.parametrize(
    "data",
    [
        b"",
        idx(BYTES)[:-1],
        idx(BYTES) + b"\0",
        idx(BYTES)[:10],
        b"\0\0\x0d\3" + idx(BYTES)[4:],
        idx(BYTES.reshape(6, 24)),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array(HALF, np.uint8)))
    refused(UsageError, "E0225", tmp_path, DataSource(kind="idx", location="."))


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(BYTES))[:-9])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array(HALF, np.uint8)))
    refused(UsageError, "E0225", tmp_path, DataSource(kind="idx", location="."))


def test_digits_come_with_scikit_learn(tmp_path: Path) -> None:
    dataset = load(tmp_path, DataSource(kind="sklearn", location="digits"), eval_rows=360)
    assert dataset.labels == tuple("0123456789")
    assert dataset.train.images.shape == (1437, 8, 8, 1)
    assert dataset.train.images.dtype == np.float32
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0.0, 16.0)
    refused(UsageError, "E0226", tmp_path, DataSource(kind="sklearn", location="digit"))


def test_sets_of_different_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", x=BYTES[:, :2], y=np.array(HALF))
    spec = DataSpec(
        train=npz(tmp_path, x=BYTES, y=np.array(HALF)),
        eval=DataSource(kind="npz", location="small.npz"),
        image=GREY,
    )
    with pytest.raises(UsageError) as caught:
        load_dataset(spec, task=Task.IMAGE_CLASSIFICATION, folder=tmp_path, seed=0)
    assert caught.value.code == "E0236"


class Pictures:
    """Answers as ``datasets.Dataset`` does where edgekit asks it."""

    column_names = ("image", "label")
    features: ClassVar[dict[str, object]] = {}

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, object]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[object]:
        return [row[column] for row in self.rows]


def test_named_data_set_of_pictures_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": Image.new("RGB", (12 + i, 9), (i, 40 * i, 0)), "label": i % 2} for i in range(6)]
    module = ModuleType("datasets")
    module.load_dataset = lambda _name: {"train": Pictures(rows)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    source = DataSource(kind="datasets", location="known")
    dataset = load(tmp_path, source, COLOUR)
    assert {image.shape for image in every_image(dataset)} == {(4, 6, 3)}
    assert {(int(image[0, 0, 0]), int(image[0, 0, 1])) for image in every_image(dataset)} == {
        (i, 40 * i) for i in range(6)
    }
    rows[0]["image"] = None
    refused(UsageError, "E0239", tmp_path, source)
    Pictures.column_names = ("image", "labels")
    assert "did you mean 'labels'" in refused(UsageError, "E0208", tmp_path, source).what
