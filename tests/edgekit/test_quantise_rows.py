"""Rows without labels: what is read, what is refused, and what is held out."""

import numpy as np
import pytest

from edgekit.quantise_only.rows import RowSet, read_rows, split_rows
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import TensorSpec

INPUTS = (
    TensorSpec(name="x", tensor="x", dtype="float32", shape=(1, 2, 3)),
    TensorSpec(name="n", tensor="n", dtype="int32", shape=(1, 4)),
)


def letters(text: str) -> dict[str, np.ndarray]:
    """Stands for a tokenizer: one number a text."""
    return {"input_ids": np.array([[len(text)]], np.int32)}


def texts_of(path, column="text") -> tuple[str, ...]:
    return read_rows(path, (), preprocess=letters, column=column).texts


def test_texts_come_from_lines_tables_and_json_lines(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \nthree")
    assert texts_of(tmp_path / "a.txt") == ("one", " two ", "three")
    (tmp_path / "a.csv").write_text('id,text\n1,"one, or so"\n2,two\n')
    assert texts_of(tmp_path / "a.csv") == ("one, or so", "two")
    (tmp_path / "only.csv").write_text("sentence\none\n")
    assert texts_of(tmp_path / "only.csv") == ("one",)
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": "two"}\n')
    assert texts_of(tmp_path / "a.jsonl", "body") == ("one", "two")


def refused(path, code, preprocess=letters, column="text") -> str:
    with pytest.raises((UsageError, MissingError)) as caught:
        read_rows(path, INPUTS, preprocess=preprocess, column=column)
    assert caught.value.code == code
    return str(caught.value)


def test_files_of_texts_that_do_not_fit_say_what_is_wrong(tmp_path) -> None:
    refused(tmp_path / "none.txt", "E0614")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert "it has a, b" in refused(tmp_path / "a.csv", "E0143")
    (tmp_path / "a.jsonl").write_text('{"text": 3}\n')
    assert "line 1" in refused(tmp_path / "a.jsonl", "E0143")
    (tmp_path / "b.jsonl").write_text("{\n")
    refused(tmp_path / "b.jsonl", "E0143")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\n")
    assert "UTF-8" in refused(tmp_path / "a.txt", "E0143")
    (tmp_path / "empty.txt").write_text("\n  \n")
    refused(tmp_path / "empty.txt", "E0144")
    (tmp_path / "a.npz").write_bytes(b"")
    assert ".txt" in refused(tmp_path / "a.npz", "E0143")


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_become_rows_of_the_models_types(tmp_path) -> None:
    x, n = np.arange(18.0).reshape(3, 2, 3), np.arange(12).reshape(3, 4)
    rows = read_rows(save(tmp_path / "a.npz", x=x, n=n), INPUTS, preprocess=None, column="text")
    assert len(rows) == 3
    assert rows.texts == ()
    assert rows.feeds[1]["x"].dtype == np.float32
    assert rows.feeds[1]["n"].dtype == np.int32
    np.testing.assert_array_equal(rows.feeds[1]["x"], x[1:2])
    np.testing.assert_array_equal(rows.feeds[2]["n"], n[2:3])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"n": np.zeros((2, 4))}, "E0144"),  # as many rows of each
        ({"x": np.zeros((3, 2, 4))}, "E0145"),
        ({"n": np.full((3, 4), 0.5)}, "E0145"),  # 0.5 is no int32
        ({"x": np.full((3, 2, 3), np.nan)}, "E0145"),
        ({"y": np.zeros(3)}, "E0145"),
        ({"x": np.zeros((0, 2, 3)), "n": np.zeros((0, 4))}, "E0144"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, code) -> None:
    arrays = {"x": np.zeros((3, 2, 3)), "n": np.zeros((3, 4)), **changes}
    refused(save(tmp_path / "a.npz", **arrays), code, preprocess=None)


def test_pickles_are_not_opened(tmp_path) -> None:
    refused(save(tmp_path / "a.npz", x=np.array([{}], object), n=np.zeros(1)), "E0143", preprocess=None)


def test_noise_is_called_no_archive_and_not_a_pickle_to_be_trusted(tmp_path) -> None:
    (tmp_path / "a.npz").write_bytes(b"noise" * 9)
    said = refused(tmp_path / "a.npz", "E0143", preprocess=None)
    assert "no archive" in said
    assert "pickle" not in said


def numbered(count: int) -> RowSet:
    return RowSet(feeds=tuple({"x": np.array([[i]])} for i in range(count)), texts=tuple(map(str, range(count))))


def test_every_fourth_row_is_held_out_and_never_calibrated_on() -> None:
    calibration, evaluation = split_rows(numbered(10), None, most=256)
    assert evaluation.texts == ("3", "7")
    assert calibration.texts == ("0", "1", "2", "4", "5", "6", "8", "9")
    assert [int(row["x"][0, 0]) for row in evaluation.feeds] == [3, 7]


def test_rows_of_another_file_leave_all_for_calibration_and_most_bounds_them() -> None:
    calibration, evaluation = split_rows(numbered(10), numbered(2), most=4)
    assert evaluation.texts == ("0", "1")
    assert calibration.texts == ("0", "3", "6", "9")


def test_three_rows_cannot_be_split() -> None:
    with pytest.raises(UsageError) as caught:
        split_rows(numbered(3), None, most=4)
    assert caught.value.code == "E0144"


def test_the_digest_sees_texts_and_tensors() -> None:
    other = numbered(3).take([0, 2])
    assert numbered(3).digest == numbered(3).digest
    assert len({numbered(3).digest, numbered(2).digest, other.digest}) == 3
