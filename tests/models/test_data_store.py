"""A data set kept in a folder."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.recipe.spec import Task
from edgekit_models.data import Dataset, Rows, read_dataset, save_dataset
from edgekit_runtime.errors import UsageError

TEXTS = (
    "plain",
    "caf\u00e9 \u4e2d\u6587 \U0001f600",
    'quotes " and \\ and\nlines\r\n',
    "one\u2028two\u0085three",
    "\x00\x1f",
)


def text_set() -> Dataset:
    return Dataset(
        task=Task.TEXT_CLASSIFICATION,
        labels=("no", "yes"),
        train=Rows(inputs=TEXTS, targets=np.array([0, 1, 1, 0, 1])),
        evaluation=Rows(inputs=("held", "out"), targets=np.array([1, 0])),
        warnings=("2 rows are odd",),
    )


def image_set(dtype: type) -> Dataset:
    images = np.arange(5 * 2 * 3, dtype=dtype).reshape(5, 2, 3, 1)
    return Dataset(
        task=Task.IMAGE_CLASSIFICATION,
        labels=("a", "b"),
        train=Rows(inputs=images[::2], targets=np.array([0, 1, 1])),  # a strided view: its bytes are elsewhere
        evaluation=Rows(inputs=images[3:], targets=np.array([1, 0])),
    )


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dataset", [text_set(), image_set(np.uint8), image_set(np.float32)])
def test_what_is_saved_is_read_and_saved_again_byte_for_byte(tmp_path: Path, dataset: Dataset) -> None:
    save_dataset(dataset, tmp_path / "one")
    again = read_dataset(tmp_path / "one")
    assert (again.task, again.labels, again.warnings) == (dataset.task, dataset.labels, dataset.warnings)
    for ours, theirs in ((dataset.train, again.train), (dataset.evaluation, again.evaluation)):
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        if isinstance(ours.inputs, tuple):
            assert ours.inputs == theirs.inputs
        else:
            assert ours.inputs.dtype == theirs.images.dtype
            np.testing.assert_array_equal(ours.inputs, theirs.images)
    save_dataset(again, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_text_files_are_as_written_by_hand(tmp_path: Path) -> None:
    save_dataset(text_set(), tmp_path)
    assert (tmp_path / "eval.jsonl").read_bytes() == b'{"label":1,"text":"held"}\n{"label":0,"text":"out"}\n'
    assert (tmp_path / "dataset.json").read_bytes() == (
        b'{"labels":["no","yes"],"rows":{"eval":2,"train":5},"schema":1,"task":"text-classification",'
        b'"warnings":["2 rows are odd"]}\n'
    )


def damage_label(folder: Path) -> None:
    (folder / "eval.jsonl").write_bytes(b'{"label":1,"text":"held"}\n{"label":2,"text":"out"}\n')


def cut_rows(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes().partition(b"\n")[0])


def remove_index(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def raise_schema(folder: Path) -> None:
    index = json.loads((folder / "dataset.json").read_bytes())
    (folder / "dataset.json").write_text(json.dumps(index | {"schema": 2}))


@pytest.mark.parametrize("damage", [damage_label, cut_rows, remove_index, raise_schema])
def test_damaged_folder_is_refused(tmp_path: Path, damage) -> None:
    save_dataset(text_set(), tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError) as caught:
        read_dataset(tmp_path)
    assert caught.value.code == "E0228"


def test_rows_check_themselves() -> None:
    with pytest.raises(ValueError, match="2 inputs but 1 targets"):
        Rows(inputs=("a", "b"), targets=np.array([0]))
    with pytest.raises(ValueError, match="int64"):
        Rows(inputs=("a",), targets=np.array([0.0]))
    with pytest.raises(TypeError, match="are texts"):
        _ = text_set().train.images
    with pytest.raises(TypeError, match="are images"):
        _ = image_set(np.uint8).train.texts
