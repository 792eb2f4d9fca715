"""What is refused, what is dropped and counted, and what is never touched."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.recipe.spec import DataSource, DataSpec, ImageSpec, Task
from edgekit_models.data import Dataset, load_dataset
from edgekit_runtime.errors import UsageError

Row = dict[str, object]


def load(folder: Path, train: list[Row], held_out: list[Row] | None = None, **more) -> Dataset:
    def source(name: str, rows: list[Row]) -> DataSource:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataSource(kind="jsonl", location=name)

    spec = DataSpec(
        train=source("train.jsonl", train),
        eval=None if held_out is None else source("eval.jsonl", held_out),
        **({"eval_rows": 0 if held_out is not None else 2} | more),
    )
    return load_dataset(spec, task=Task.TEXT_CLASSIFICATION, folder=folder, seed=0)


def rows(*texts: object, labels: object = None) -> list[Row]:
    given = labels if isinstance(labels, list) else [i % 2 for i in range(len(texts))]
    return [{"text": text, "label": label} for text, label in zip(texts, given, strict=True)]


def refused(code: str, folder: Path, train: list[Row], held_out: list[Row] | None = None, **more) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(folder, train, held_out, **more)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return caught.value


def test_rows_of_eval_leave_train_and_eval_stays_whole(tmp_path: Path) -> None:
    train = rows("Good  film ", "bad film", "fine film", "poor film", "GOOD\tFILM")
    held_out = rows("another", "good film", "good film", labels=[0, 1, 1])
    dataset = load(tmp_path, train, held_out)
    assert dataset.train.texts == ("bad film", "fine film", "poor film")
    assert dataset.evaluation.texts == ("another", "good film", "good film")
    assert dataset.evaluation.targets.tolist() == [0, 1, 1]
    assert [warning[:24] for warning in dataset.warnings] == ["2 training rows removed ", "1 evaluation rows repeat"]


def test_case_folding_knows_the_sharp_s(tmp_path: Path) -> None:
    dataset = load(tmp_path, rows("STRASSE", "weg", "allee"), rows("straße", "platz"))
    assert dataset.train.texts == ("weg", "allee")


def test_split_never_leaves_a_row_on_both_sides(tmp_path: Path) -> None:
    twice = rows(*[f"text {i}" for i in range(40)], labels=[i % 2 for i in range(40)]) * 2
    dataset = load(tmp_path, twice, eval_rows=20)
    assert len(dataset.evaluation) == 20
    assert not set(dataset.train.texts) & set(dataset.evaluation.texts)
    assert dataset.warnings


def test_duplicates_within_train_are_counted_and_kept(tmp_path: Path) -> None:
    train = rows("same", "Same", "other", "same", labels=[0, 0, 1, 1])
    dataset = load(tmp_path, train, rows("x", "y"))
    assert len(dataset.train) == 4
    assert dataset.warnings == (
        "2 training rows repeat an earlier one, 1 of them with another label than the first; they are kept",
    )


def test_train_that_lies_in_eval_wholly_is_refused(tmp_path: Path) -> None:
    refused("E0230", tmp_path, rows("a", "b"), rows("A", "B"))


def test_train_left_with_one_label_after_removal_is_refused(tmp_path: Path) -> None:
    refused("E0212", tmp_path, rows("a", "b", "c", labels=[0, 1, 1]), rows("a", "d"))


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    train = rows("a", "", "b", "  \n", None, float("nan"), "c", labels=[0, 0, 1, 1, 0, 0, 1])
    dataset = load(tmp_path, train, rows("x", "y"))
    assert dataset.train.texts == ("a", "b", "c")
    assert dataset.train.targets.tolist() == [0, 1, 1]
    assert dataset.warnings == ("train.jsonl: 4 of 7 rows dropped because their text is empty",)


@pytest.mark.parametrize("label", [float("nan"), None, "", "NaN", " "])
def test_missing_labels_are_refused_with_their_lines(tmp_path: Path, label: object) -> None:
    error = refused("E0213", tmp_path, rows("a", "b", "c", "d", labels=[0, label, 1, label]))
    assert "2 of 4 rows have no label (line 2, 4)" in error.what


@pytest.mark.parametrize("label", [0.5, [1], {"a": 1}, float("inf")])
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, label: object) -> None:
    assert "line 2" in refused("E0214", tmp_path, rows("a", "b", labels=[0, label])).what


def test_one_class_only_is_refused_on_either_side(tmp_path: Path) -> None:
    assert "training" in refused("E0212", tmp_path, rows("a", "b", labels=["yes", "yes"])).what
    error = refused("E0212", tmp_path, rows("a", "b"), rows("c", "d", labels=[1, 1]))
    assert "evaluation" in error.what


def test_eval_label_that_train_lacks_is_refused(tmp_path: Path) -> None:
    error = refused("E0218", tmp_path, rows("a", "b"), rows("c", "d", labels=[1, 2]))
    assert "'2'" in error.what


def test_class_that_eval_lacks_is_a_warning(tmp_path: Path) -> None:
    dataset = load(tmp_path, rows("a", "b", "c", labels=[0, 1, 2]), rows("d", "e"))
    assert dataset.warnings == ("the evaluation rows have no row with the label '2'",)


def test_label_without_a_name_is_refused(tmp_path: Path) -> None:
    error = refused("E0217", tmp_path, rows("a", "b", labels=["pos", "neg"]), labels={"pos": "good", "negg": "bad"})
    assert "did you mean 'negg'" in error.what


def test_named_label_without_rows_is_a_warning(tmp_path: Path) -> None:
    dataset = load(tmp_path, rows("a", "b"), rows("c", "d"), labels={"0": "bad", "1": "good", "2": "so-so"})
    assert dataset.labels == ("bad", "good")
    assert dataset.warnings == ("no training row has the label 'so-so'; the model will not know it",)


def test_two_raw_labels_may_share_a_name(tmp_path: Path) -> None:
    names = {"1": "bad", "2": "bad", "3": "good"}
    dataset = load(tmp_path, rows("a", "b", "c", labels=[3, 2, 1]), rows("d", "e", labels=[1, 3]), labels=names)
    assert dataset.labels == ("bad", "good")
    assert dataset.train.targets.tolist() == [1, 0, 0]


def test_whole_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    dataset = load(tmp_path, rows("a", "b", "c", labels=[10, 9.0, "-1"]), rows("d", "e", labels=["10", 9]))
    assert dataset.labels == ("-1", "9", "10")


def test_true_and_false_are_classes_of_their_own(tmp_path: Path) -> None:
    assert load(tmp_path, rows("a", "b", labels=[True, False]), rows("c", "d", labels=[True, False])).labels == (
        "false",
        "true",
    )


@pytest.mark.parametrize("text", [5, ["a"], True])
def test_text_of_another_type_is_refused(tmp_path: Path, text: object) -> None:
    assert "line 2" in refused("E0215", tmp_path, rows("a", text, "b")).what


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    refused("E0216", tmp_path, rows("a", "b\ud83d", "c"))


@pytest.mark.parametrize("eval_rows", [0, 1, 5, 6, 100])
def test_split_that_does_not_fit_is_refused(tmp_path: Path, eval_rows: int) -> None:
    error = refused("E0219", tmp_path, rows(*"abcdef"), eval_rows=eval_rows)
    assert "2 to 4" in error.what


def test_class_with_a_single_row_cannot_be_split(tmp_path: Path) -> None:
    assert "'9'" in refused("E0235", tmp_path, rows(*"abcde", labels=[0, 0, 1, 1, 9])).what


@pytest.mark.parametrize(("task", "kind"), [(Task.TEXT_CLASSIFICATION, "npz"), (Task.IMAGE_CLASSIFICATION, "csv")])
def test_source_that_does_not_fit_the_task_is_refused(tmp_path: Path, task: Task, kind: str) -> None:
    spec = DataSpec(train=DataSource(kind=kind, location="x"), eval_rows=2, image=ImageSpec(height=8, width=8))
    with pytest.raises(UsageError) as caught:
        load_dataset(spec, task=task, folder=tmp_path, seed=0)
    assert caught.value.code == "E0220"


def test_images_with_equal_bytes_leave_train(tmp_path: Path) -> None:
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    np.savez(tmp_path / "train.npz", x=images, y=np.array([0, 1, 0, 1, 0, 1]))
    np.savez(tmp_path / "eval.npz", x=images[[0, 5]], y=np.array([0, 1]))
    train, held_out = (DataSource(kind="npz", location=f"{name}.npz") for name in ("train", "eval"))
    spec = DataSpec(train=train, eval=held_out, image=ImageSpec(height=2, width=2))
    dataset = load_dataset(spec, task=Task.IMAGE_CLASSIFICATION, folder=tmp_path, seed=0)
    np.testing.assert_array_equal(dataset.train.images[..., 0], images[1:5])
    assert dataset.warnings == ("2 training rows removed because the evaluation rows hold the same input",)
