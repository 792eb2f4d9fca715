"""`edgekit run`, `inspect` and `verify` on real bundles."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundles import write_image_bundle, write_text_bundle

from edgekit.cli import main
from edgekit.cli.inspect import _precision


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "text.edge"
    return str(path), write_text_bundle(path)


@pytest.fixture(scope="module")
def image_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "image.edge"
    write_image_bundle(path)
    return str(path)


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_texts_are_answered_one_a_line(text_bundle, capsys):
    assert main(["run", text_bundle[0], "a good film", "bad, bad film"]) == 0
    # softmax of (0, 1) and of (2, 0)
    assert lines(capsys) == ["positive\t0.731\ta good film", "negative\t0.881\tbad, bad film"]


def test_dash_answers_every_line_of_stdin_the_empty_ones_too(text_bundle, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("good\r\n\nbad\n"))
    assert main(["run", text_bundle[0], "-"]) == 0
    assert [line.split("\t")[0] for line in lines(capsys)] == ["positive", "negative", "negative"]


def test_text_that_looks_like_an_option_goes_after_two_dashes(text_bundle, capsys):
    assert main(["run", text_bundle[0], "--", "--good"]) == 0
    assert lines(capsys)[0].startswith("positive")


def test_run_as_json(text_bundle, capsys):
    assert main(["run", text_bundle[0], "good", "--json", "--engine", "onnxruntime"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["command"], answer["engine"]) == (1, "run", "onnxruntime")
    assert answer["labels"] == ["negative", "positive"]
    assert answer["results"][0]["label"] == "positive"
    assert sum(answer["results"][0]["scores"]) == pytest.approx(1)


BRIGHT, DARK = np.full((2, 2), 200, np.uint8), np.full((2, 2), 20, np.uint8)


@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (BRIGHT, ["bright"]),
        (DARK[..., None], ["dark"]),
        (np.stack([BRIGHT, DARK, BRIGHT]), ["bright", "dark", "bright"]),
        (np.stack([BRIGHT, DARK])[..., None], ["bright", "dark"]),
    ],
    ids=["HW", "HWC", "NHW", "NHWC"],
)
def test_npy_holds_one_image_or_several(image_bundle, tmp_path, capsys, array, labels):
    np.save(tmp_path / "x.npy", array)
    assert main(["run", image_bundle, str(tmp_path / "x.npy")]) == 0
    assert [line.split("\t")[0] for line in lines(capsys)] == labels


def test_image_file_is_answered(image_bundle, tmp_path, capsys):
    Image.fromarray(BRIGHT).save(tmp_path / "x.png")
    assert main(["run", image_bundle, str(tmp_path / "x.png")]) == 0
    assert lines(capsys)[0].startswith("bright")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 6, "E0614"),
        (np.zeros(5), 2, "E0141"),
        (np.zeros((1, 1, 1, 1, 1)), 2, "E0141"),
        (np.array([{"a": 1}], dtype=object), 2, "E0140"),
        (b"not an array", 2, "E0140"),
    ],
    ids=["no file", "one axis", "five axes", "objects", "no array"],
)
def test_wrong_npy_is_refused(image_bundle, tmp_path, capsys, content, code, words):
    if isinstance(content, bytes):
        (tmp_path / "x.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "x.npy", content, allow_pickle=True)
    assert main(["run", image_bundle, str(tmp_path / "x.npy")]) == code
    assert words in capsys.readouterr().err


def test_missing_image_is_exit_6(image_bundle, tmp_path, capsys):
    assert main(["run", image_bundle, str(tmp_path / "x.png")]) == 6
    assert "error[E" in capsys.readouterr().err


def test_verify_says_intact_and_gives_the_digest(text_bundle, capsys):
    assert main(["verify", text_bundle[0]]) == 0
    assert lines(capsys) == [f"intact: tiny-text 1.2.3, 14 members, sha256 {text_bundle[1]}"]


def test_verify_as_json(text_bundle, capsys):
    assert main(["verify", text_bundle[0], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["intact"] is True
    assert answer["sha256"] == text_bundle[1]


@pytest.mark.parametrize("command", ["verify", "inspect", "run"])
def test_changed_bundle_is_exit_5_and_says_nothing_good(text_bundle, tmp_path, capsys, command):
    data = bytearray(Path(text_bundle[0]).read_bytes())
    data[len(data) // 2] ^= 1
    bad = tmp_path / "bad.edge"
    bad.write_bytes(data)
    assert main([command, str(bad), *(["good"] if command == "run" else [])]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error[E05")


def test_changed_bundle_as_json_is_an_error_object_and_exit_5(tmp_path, capsys):
    (tmp_path / "bad.edge").write_text("no bundle")
    assert main(["verify", str(tmp_path / "bad.edge"), "--json"]) == 5
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["schema"], answer["command"], answer["error"]["exit"]) == (1, "verify", 5)
    assert answer["error"]["code"] in captured.err


def test_inspect_shows_members_models_and_parity(text_bundle, capsys):
    assert main(["inspect", text_bundle[0]]) == 0
    text = "\n".join(lines(capsys))
    assert text.startswith("tiny-text 1.2.3, text-classification, built for x86-64")
    for words in (
        "x86-64 takes uint8 activations in ONNX by default: measured: MiniLM is ",
        "benchmarks/results/activations.json",
        "model.onnx",
        "tokenizer.json",
        "int32 (1, 8)",
        "float32 (1, 2)",
        "lanes.0.accuracy: 0.8125",
        "16-bit sums on x86 without VNNI: 1 of 2 int8 ONNX layers can saturate",
        "session.x64quantprecision=1",
        "seed: 0",
        "coverage of the ranges on 32 held-out training rows: 1 of 2 tensors leave them most",
    ):
        assert words in text
    row = next(line for line in text.splitlines() if line.startswith("loud input"))
    assert row.split() == ["loud", "input", "-1", "to", "2", "-1.25", "to", "7.5", "1.2500%"]
    assert "quiet input" not in text


INT8 = {"mode": "static", "input": {"bits": 8}}
INT4 = {"mode": "dynamic", "input": None, "scheme": {"kind": "int4"}}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([INT8], "int8"),
        ([INT8, INT4], "int4 weights"),
        ([{**INT4, "mode": "float"}, INT8], "int8"),
        ([{"mode": "static", "input": {"bits": 16}, "scheme": None}], "int16 activations"),
    ],
)
def test_inspect_calls_a_model_int8_only_if_its_plan_does(layers, said):
    assert _precision({"layers": layers}) == said


def test_inspect_without_parity(image_bundle, capsys):
    assert main(["inspect", image_bundle]) == 0
    assert "parity" not in capsys.readouterr().out


def test_inspect_as_json(text_bundle, capsys):
    assert main(["inspect", text_bundle[0], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["manifest"]["name"] == "tiny-text"
    assert answer["manifest"]["models"]["onnxruntime"]["inputs"][0]["shape"] == [1, 8]
    assert answer["parity"]["rows"] == 160
    assert answer["saturation"]["unsafe"] == ["loud"]
    assert answer["coverage"]["rows"] == 32
    assert answer["sha256"] == text_bundle[1]
