"""The whole line on texts: from a CSV and a local BERT-like folder to a bundle, without a network."""

import csv
import random
import re

import pytest
from command_line import Built, edgekit
from text_teacher import write_teacher

import edgekit_runtime
from edgekit_runtime.bundle import verify

RECIPE = """\
name: tiny-text
version: 0.1.0
model:
  task: text-classification
  teacher: {folder: my-bert, licence: MIT}
  student: {layers: [0, 2], max_length: 24}
data:
  train: {csv: reviews.csv}
  eval_rows: 200
  text: review
  label: stars
  labels: {1: bad, 5: good}
adapt: {epochs: 3, learning_rate: 2e-3}
distill: {epochs: 2, learning_rate: 2e-3}
prune: {heads: 2, ffn: 32, multiple: 16, recover_epochs: 1}
quantize: {calibration_rows: 64}
budget: {max_drop: 2 points, max_changed: 4 points}
targets: [x86-64]
"""
GOOD = ("wonderful", "funny", "warm", "great", "lovely", "bright")
BAD = ("dull", "tedious", "cold", "awful", "clumsy", "bleak")
PLAIN = ("the", "film", "story", "is", "and", "a", "with", "its", "music", "cast")


def write_reviews(path, rows=1000):
    """Write sentences whose label is the kind of word that most of them hold."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(["review", "stars"])
        for _ in range(rows):
            good = draw.random() < 0.5
            kinds = draw.choices(GOOD if good else BAD, k=3) + draw.choices(BAD if good else GOOD, k=1)
            words = kinds + draw.choices(PLAIN, k=draw.randint(3, 12))
            draw.shuffle(words)
            out.writerow([" ".join(words), 5 if good else 1])


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_teacher(folder / "my-bert", words=(*GOOD, *BAD, *PLAIN))
    write_reviews(folder / "reviews.csv")
    (folder / "text.yaml").write_text(RECIPE)
    cache = folder / "cache"
    run = edgekit("build", "text.yaml", "-o", "out", cwd=folder, cache=cache)
    assert run.code == 0, run.err
    return Built(folder, cache, run, folder / "out/tiny-text-x86-64.edge")


def test_own_csv_and_own_bert_folder_become_a_bundle(reviews):
    table = reviews.run.out
    assert re.search(r"^onnx-int8 ", table, re.MULTILINE)
    assert re.search(r"^tflite-int8 ", table, re.MULTILINE)
    accuracy = float(re.search(r"^onnx-int8 .*?(0\.\d{4}) \(", table, re.MULTILINE)[1])
    assert accuracy > 0.9  # two classes: chance is 0.5
    assert f"bundle: {reviews.bundle.relative_to(reviews.folder)}" in table


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_the_device_answers_texts(reviews, engine):
    with edgekit_runtime.load(reviews.bundle, engine=engine) as model:
        assert model("a wonderful and funny film").label == "good"
        assert model("the dull , tedious story").label == "bad"
        assert model.selftest().passed


def test_linear_layers_are_int8_and_the_classifier_is_float(reviews):
    notes = re.search(r"^QuantizeOnnx: .*layers: (.*?);", reviews.run.err, re.MULTILINE)[1]
    # Two layers: query, key, value, attention output and feed-forward input static; feed-forward output dynamic. A
    # split gives each feed-forward layer of a block a second part.
    split = "split loud GELU channels" in _kept(reviews)
    assert notes == f"{12 if split else 10} static, {4 if split else 2} dynamic, 1 float, 1 embedding"


def _kept(built) -> set[str]:
    plan = verify(built.bundle).json("plan.json")
    return {technique["name"] for technique in plan["techniques"] if technique["kept"]}


def test_inspect_explains_the_plan(reviews):
    shown = edgekit("inspect", reviews.bundle, cwd=reviews.folder, cache=reviews.cache).out
    assert "quantisation plan: " in shown
    assert re.search(r"layers\.0\.attention\.query +linear +static", shown)
    assert "dB, kept" in shown or "dB, left out" in shown


def test_pruning_kept_what_the_recipe_says(reviews):
    assert re.search(r"^PruneStudent: .*4->2 heads, 64->32 neurons", reviews.run.err, re.MULTILINE)


def test_parity_reads_rows_of_the_user(reviews):
    extra = reviews.folder / "more.csv"
    write_reviews(extra, rows=40)
    named = reviews.folder / "named.csv"
    named.write_text(extra.read_text().replace(",5", ",good").replace(",1", ",bad"))
    run = edgekit(
        "parity",
        reviews.bundle,
        "--data",
        named,
        "--text",
        "review",
        "--label",
        "stars",
        "--on",
        "onnx-int8",
        "--on",
        "tflite-int8",
        "--json",
        cwd=reviews.folder,
        cache=reviews.cache,
    )
    assert run.code == 0, run.err
    assert run.json["rows"]["count"] == 40
    (lane,) = (each for each in run.json["comparison"]["lanes"] if each["lane"] == "tflite-int8")
    assert lane["accuracy"]["value"] > 0.9


def test_parity_refuses_labels_that_the_model_does_not_know(reviews):
    other = reviews.folder / "other.csv"
    other.write_text("review,stars\na film,superb\nthe story,bad\n")
    run = edgekit(
        "parity",
        reviews.bundle,
        "--data",
        other,
        "--text",
        "review",
        "--label",
        "stars",
        cwd=reviews.folder,
        cache=reviews.cache,
    )
    assert run.code == 2
    assert "error[E0244]" in run.err
    assert "'superb'" in run.err


def test_a_teacher_without_a_tokenizer_is_refused_before_training(reviews, tmp_path):
    import shutil

    shutil.copytree(reviews.folder / "my-bert", tmp_path / "my-bert")
    (tmp_path / "my-bert/tokenizer.json").unlink()
    shutil.copy(reviews.folder / "reviews.csv", tmp_path)
    (tmp_path / "text.yaml").write_text(RECIPE)
    run = edgekit("build", "text.yaml", cwd=tmp_path, cache=tmp_path / "cache")
    assert run.code in (2, 6)
    assert "tokenizer.json" in run.err
    assert list(tmp_path.rglob("*.edge")) == []
