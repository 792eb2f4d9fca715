"""Tables: CSV, JSON lines, Parquet, packages and the ``datasets`` library."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgekit.recipe.spec import DataSource, DataSpec, Task
from edgekit_models.data import Dataset, load_dataset
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError

ROWS = [(f"text number {i}", "good" if i % 2 else "bad") for i in range(12)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)


def load(folder: Path, train: DataSource, **more) -> Dataset:
    spec = DataSpec(train=train, **({"eval_rows": 4} | more))
    return load_dataset(spec, task=Task.TEXT_CLASSIFICATION, folder=folder, seed=0)


def csv_source(folder: Path, text: str | bytes, name: str = "rows.csv", **more) -> DataSource:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return DataSource(kind="csv", location=name, **more)


def fault(kind: type[EdgekitError], code: str, folder: Path, train: DataSource, **more) -> EdgekitError:
    with pytest.raises(kind) as caught:
        load(folder, train, **more)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return caught.value


def all_texts(dataset: Dataset) -> set[str]:
    return {*dataset.train.texts, *dataset.evaluation.texts}


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
    (tmp_path / "rows.jsonl").write_text(lines)
    table = pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    tabs = csv_source(tmp_path, CSV.replace(",", "\t"), "rows.tsv")
    sources = [
        csv_source(tmp_path, CSV),
        tabs,
        csv_source(tmp_path, "\ufeff" + CSV.replace("\n", "\r\n"), "bom.csv"),
        DataSource(kind="jsonl", location="rows.jsonl"),
        DataSource(kind="parquet", location="rows.parquet"),
    ]
    for source in sources:
        dataset = load(tmp_path, source)
        assert dataset.labels == ("bad", "good"), source
        assert all_texts(dataset) == {text for text, _ in ROWS}, source
        assert dataset.warnings == (), source
        pairs = dict(zip(dataset.train.texts, dataset.train.targets.tolist(), strict=True))
        assert all(dataset.labels[target] == dict(ROWS)[text] for text, target in pairs.items()), source


def test_words_that_look_like_missing_values_stay_words(tmp_path: Path) -> None:
    text = "text,label\nNA,none\nnull,NA\nNone,none\n007,NA\n"
    dataset = load(tmp_path, csv_source(tmp_path, text), eval_rows=2)
    assert all_texts(dataset) == {"NA", "null", "None", "007"}
    assert dataset.labels == ("NA", "none")


def test_quoted_cells_hold_separators_and_line_ends(tmp_path: Path) -> None:
    text = 'text,label\n"one, two",a\n"three\nfour",b\n"say ""five""",a\nsix,b\n'
    assert all_texts(load(tmp_path, csv_source(tmp_path, text), eval_rows=2)) == {
        "one, two",
        "three\nfour",
        'say "five"',
        "six",
    }


def test_where_and_labels_choose_and_name_rows(tmp_path: Path) -> None:
    text = "text,label,source\na,0,x\nb,1,x\nc,0,x\nd,1,x\ne,7,y\n"
    more = {"eval_rows": 2, "where": {"source": "x"}, "labels": {"1": "good", "0": "bad"}}
    dataset = load(tmp_path, csv_source(tmp_path, text), **more)
    assert dataset.labels == ("bad", "good")  # in the order of the raw values 0, 1
    assert all_texts(dataset) == set("abcd")


def test_where_compares_numbers_of_typed_formats_as_text(tmp_path: Path) -> None:
    table = pa.table({"text": list("abcde"), "label": [0, 1, 0, 1, 0], "part": [1.0, 1.0, 1.0, 1.0, 2.0]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    dataset = load(tmp_path, DataSource(kind="parquet", location="rows.parquet"), eval_rows=2, where={"part": "1"})
    assert all_texts(dataset) == set("abcd")


def test_where_that_keeps_nothing_names_the_values(tmp_path: Path) -> None:
    source = csv_source(tmp_path, "text,label,source\na,0,imdb\nb,1,tomatoes\n")
    error = fault(UsageError, "E0229", tmp_path, source, where={"source": "tomatos"})
    assert "did you mean 'tomatoes'" in error.what


def test_missing_file_names_the_nearest_in_its_folder(tmp_path: Path) -> None:
    csv_source(tmp_path, CSV)
    error = fault(MissingError, "E0201", tmp_path, DataSource(kind="csv", location="row.csv"))
    assert "did you mean 'rows.csv'" in error.what
    fault(MissingError, "E0201", tmp_path, DataSource(kind="csv", location="no/such/rows.csv"))


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    fault(UsageError, "E0231", tmp_path, DataSource(kind="csv", location="rows"))


def test_missing_column_names_the_columns(tmp_path: Path) -> None:
    error = fault(UsageError, "E0208", tmp_path, csv_source(tmp_path, CSV), label="lable")
    assert "did you mean 'label'" in error.what
    assert "'text', 'label'" in error.why
    error = fault(UsageError, "E0208", tmp_path, csv_source(tmp_path, CSV.replace(",", ";")))
    assert "separator" in error.why


@pytest.mark.parametrize("text", ["", "\n\n", "text,label\n", "text,label\n,bad\n  ,good\n"])
def test_empty_set_is_refused(tmp_path: Path, text: str) -> None:
    fault(UsageError, "E0211", tmp_path, csv_source(tmp_path, text))


@pytest.mark.parametrize(
    ("data", "offset", "line", "encoding"),
    [
        (CSV.encode() + "caf\u00e9,good\n".encode("latin-1"), len(CSV) + 3, 14, "WINDOWS-1252"),
        (CSV.encode("utf-16"), 0, 1, "UTF-16"),
    ],
)
def test_wrong_encoding_names_byte_line_and_conversion(
    tmp_path: Path, data: bytes, offset: int, line: int, encoding: str
) -> None:
    error = fault(UsageError, "E0206", tmp_path, csv_source(tmp_path, data))
    assert f"at offset {offset} (line {line})" in error.what
    assert f"iconv -f {encoding} -t UTF-8" in error.fix


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CSV + "too,many,cells\n", 14),
        (CSV + "too few\n", 14),
        (CSV + '"never closed,good\n', 14),
        ("text,label,text\na,b,c\n", None),
    ],
)
def test_damaged_csv_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None) -> None:
    error = fault(UsageError, "E0207", tmp_path, csv_source(tmp_path, text))
    assert line is None or f"line {line}" in error.what


@pytest.mark.parametrize("bad", ["{not json", "[1, 2]", '"a text"'])
def test_damaged_json_line_is_refused_with_its_line(tmp_path: Path, bad: str) -> None:
    good = '{"text": "a", "label": 0}\n'
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{good}{bad}\n")
    error = fault(UsageError, "E0207", tmp_path, DataSource(kind="jsonl", location="rows.jsonl"))
    assert "line 4" in error.what


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 but nothing more")
    fault(UsageError, "E0207", tmp_path, DataSource(kind="parquet", location="rows.parquet"))


def test_line_separators_inside_json_texts_do_not_split_rows(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\u0085four", "five", "six"]
    lines = [json.dumps({"text": text, "label": i % 2}, ensure_ascii=False) for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = load(tmp_path, DataSource(kind="jsonl", location="rows.jsonl"), eval_rows=2)
    assert all_texts(dataset) == set(texts)


def test_digest_of_the_file_is_checked(tmp_path: Path) -> None:
    right = hashlib.sha256(CSV.encode()).hexdigest()
    load(tmp_path, csv_source(tmp_path, CSV, sha256=right))
    error = fault(UsageError, "E0202", tmp_path, csv_source(tmp_path, CSV + "one more,good\n", sha256=right))
    assert right in error.what


def test_package_file_is_found_without_importing_the_package(tmp_path: Path, install) -> None:
    files = {"reviews/__init__.py": b"raise RuntimeError('imported')", "reviews/data/rows.csv": CSV.encode()}
    install("some-reviews", "1.2", files)
    for package in ("some-reviews", "some-reviews==1.2", "Some_Reviews"):
        source = DataSource(kind="csv", location="reviews/data/rows.csv", package=package)
        assert len(load(tmp_path, source).evaluation) == 4
    assert "reviews" not in sys.modules
    wrong_path = DataSource(kind="csv", location="reviews/rows.csv", package="some-reviews")
    assert "did you mean 'reviews/data/rows.csv'" in fault(MissingError, "E0204", tmp_path, wrong_path).what
    outside = DataSource(kind="csv", location="../rows.csv", package="some-reviews")
    (tmp_path / "rows.csv").write_text(CSV)
    fault(MissingError, "E0204", tmp_path, outside)
    other = DataSource(kind="csv", location="reviews/data/rows.csv", package="some-reviews==2.0")
    assert "some-reviews==2.0" in fault(UsageError, "E0205", tmp_path, other).fix
    absent = DataSource(kind="csv", location="rows.csv", package="no-such-reviews")
    assert "pip install" in fault(MissingError, "E0203", tmp_path, absent).fix


def test_library_that_is_not_installed_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = fault(MissingError, "E0209", tmp_path, DataSource(kind="datasets", location="rotten_tomatoes"))
    assert error.fix == "pip install datasets 'huggingface-hub<1'"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").touch()
    assert (
        "edgekit[build]"
        in fault(MissingError, "E0227", tmp_path, DataSource(kind="parquet", location="rows.parquet")).fix
    )


class Table(dict[str, list[object]]):
    """Answers as ``datasets.Dataset`` does where edgekit asks it."""

    features: Mapping[str, object] = {}

    @property
    def column_names(self) -> list[str]:
        return list(self)

    def __len__(self) -> int:
        return len(next(iter(self.values())))


@pytest.fixture
def datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's interface; the library itself is not among edgekit's dependencies."""

    def load_dataset_by_name(name: str) -> dict[str, Table]:
        if name != "known":
            raise FileNotFoundError(f"Couldn't find any data file at {name}")
        rows = Table(text=[text for text, _ in ROWS], label=[i % 2 for i in range(12)])
        rows.features = {"label": SimpleNamespace(names=["minus", "plus"])}
        return {"train": rows, "test": Table(text=["an unseen text", "another"], label=["plus", "minus"])}

    module = ModuleType("datasets")
    module.load_dataset = load_dataset_by_name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.usefixtures("datasets_library")
def test_named_data_set_is_read_by_split(tmp_path: Path) -> None:
    train, test = (DataSource(kind="datasets", location="known", split=split) for split in ("train", "test"))
    dataset = load(tmp_path, train, eval=test, eval_rows=0)
    assert (len(dataset.train), len(dataset.evaluation)) == (12, 2)
    assert dataset.evaluation.texts == ("an unseen text", "another")
    assert dataset.labels == ("minus", "plus")
    assert dataset.evaluation.targets.tolist() == [1, 0]
    assert load(tmp_path, train, labels={"0": "bad", "1": "good"}).labels == ("bad", "good")
    error = fault(UsageError, "E0234", tmp_path, DataSource(kind="datasets", location="known", split="tests"))
    assert "did you mean 'test'" in error.what
    fault(UsageError, "E0234", tmp_path, DataSource(kind="datasets", location="known"))
    fault(UsageError, "E0210", tmp_path, DataSource(kind="datasets", location="unknown"))
