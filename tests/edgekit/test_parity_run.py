"""From lanes to verdict: which rows are asked, and that nothing wrong beside the outputs passes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundles

from edgekit.cli import main
from edgekit.cli.parity import READINGS
from edgekit.lanes.base import Question
from edgekit.lanes.opened import open_lanes
from edgekit.parity.readings import Reading
from edgekit.parity_rows import DataOption, load_asked
from edgekit_runtime.bundle import verify
from edgekit_runtime.errors import UsageError
from edgekit_runtime.evidence import document
from edgekit_runtime.model import Model
from edgekit_runtime.rows import RawRows, golden_rows, read_rows

TEXTS = ("good film", "bad film", "good good film", "bad bad", "film good", "bad")
HERE = "onnx-fp32:onnxruntime"  # the reference under another name: a lane alone is nothing to compare
LABELS = ("positive", "negative", "positive", "negative", "positive", "negative")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.edge"
    tiny_bundles.write_text_bundle(path)
    lines = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def device(path, rows=None, **changes):
    """Write what a device that runs the bundle would, with ``changes`` to its lane."""
    bundle = verify(path)
    rows = rows or RawRows(texts=TEXTS)
    (lane,) = open_lanes("onnx-fp32", bundle)
    evidence = lane.answer(Question(path=path, bundle=bundle, rows=rows))
    changed = replace(evidence, **{name: change(getattr(evidence, name)) for name, change in changes.items()})
    with Model(bundle, engine="onnxruntime") as model:
        held = document(model, rows, [replace(changed, lane="device")], source="a file")
    file = path.with_name("device.json")
    file.write_text(json.dumps(held))
    return str(file)


def parity(capsys, path, *arguments):
    """Run the command; give exit code, JSON and what it said on stderr."""
    rows = () if "--data" in arguments else ("--data", str(path.with_name("rows.csv")))
    code = main(["parity", str(path), "--reference", "onnx-fp32", *rows, *arguments, "--json"])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err


def failed(content):
    return {(row["lane"], row["gate"]) for row in content["verdict"]["results"] if row["outcome"] == "failed"}


def test_device_that_answers_alike_passes(text, capsys):
    code, (content,), _ = parity(capsys, text, "--on", device(text))
    assert code == 0
    assert content["passed"] is True
    assert content["rows"]["count"] == len(TEXTS)
    assert content["comparison"]["lanes"][1]["accuracy"]["value"] == 1.0
    assert "outputs" not in content["lanes"][0]


def test_one_row_with_other_tokens_fails_and_is_named(text, capsys):
    def moved(tensors):
        ids = tensors["input_ids"].copy()
        ids[3] += 1
        return {**tensors, "input_ids": ids}

    code, documents, said = parity(capsys, text, "--on", device(text, tensors=moved))
    assert code == 3
    assert len(documents) == 1  # the error is on stderr alone
    assert failed(documents[0]) == {("device.json/device", "preprocessing")}
    assert "input_ids differs in 1 of 6 rows, first in row 3" in said


def test_failed_goldens_of_a_device_fail_though_its_answers_are_right(text, capsys):
    code, (content,), said = parity(capsys, text, "--on", device(text, selftest=lambda _: ("outputs: 3 dB",)))
    assert code == 3
    assert failed(content) == {("device.json/device", "selftest")}
    assert "outputs: 3 dB" in said


def test_nan_in_one_row_fails(text, capsys):
    def broken(outputs):
        return np.where(np.arange(len(outputs))[:, None] == 2, np.float32("nan"), outputs)

    code, (content,), _ = parity(capsys, text, "--on", device(text, outputs=broken))
    assert code == 3
    assert ("device.json/device", "finite") in failed(content)


def test_goldens_are_compared_when_the_device_was_given_no_rows(text, capsys):
    file = device(text, rows=golden_rows(verify(text)))
    code = main(["parity", str(text), "--reference", "onnx-fp32", "--on", file, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert (code, content["rows"]["source"]) == (0, "goldens of the bundle")
    assert content["comparison"]["labelled"] is False


def test_rows_are_spread_over_the_file(text, tmp_path, capsys):
    lines = [f"film {'good' if i % 2 else 'bad'} {'film ' * (i % 5)},{LABELS[(i + 1) % 2]}" for i in range(101)]
    many = tmp_path / "many.csv"
    many.write_text("\n".join(["text,label", *lines]) + "\n")
    out = tmp_path / "rows.json"
    arguments = ["--data", str(many), "--rows", "11", "--save-rows", str(out)]
    assert main(["parity", str(text), *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "python -m edgekit_runtime selftest bundle.edge --rows rows.json --evidence device.json".replace(
        "bundle.edge", text.name
    )
    assert said[3] == f"edgekit parity {text} --on device.json --data {many} --rows 11"
    assert read_rows(out).texts == tuple(lines[i].rsplit(",", 1)[0] for i in range(0, 101, 10))
    assert main(["parity", str(text), *arguments[:-1], str(tmp_path / "rows.npz")]) == 2


def test_evidence_of_a_run_holds_every_output(text, tmp_path, capsys):
    out = tmp_path / "run.json"
    code, _, _ = parity(capsys, text, "--on", device(text), "--evidence", str(out))
    held = json.loads(out.read_text())
    assert code == 0
    assert held["format"] == "edgekit-evidence"
    assert [lane["lane"] for lane in held["lanes"]] == ["onnx-fp32", "device.json/device"]
    again = open_lanes(str(out), verify(text))
    question = Question(path=text, bundle=verify(text), rows=RawRows(texts=TEXTS))
    assert again[1].answer(question).outputs.tolist() == [[0, 1], [1, 0], [0, 2], [2, 0], [0, 1], [1, 0]]


def test_file_of_texts_alone_is_compared_without_labels(text, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("good film\nbad film\n\nfilm\n")
    code, (content,), _ = parity(capsys, text, "--data", str(tmp_path / "texts.txt"), "--on", HERE)
    assert code == 0
    assert content["rows"]["count"] == 3
    assert content["comparison"]["labelled"] is False
    image = tmp_path / "image.edge"
    tiny_bundles.write_image_bundle(image)
    assert main(["parity", str(image), "--data", str(tmp_path / "texts.txt"), "--on", "onnx-fp32"]) == 2


def test_option_rows_takes_a_number_or_all(text, capsys):
    for wrong in ("0", "-1", "some"):
        assert main(["parity", str(text), "--rows", wrong]) == 2
    assert parity(capsys, text, "--rows", "all", "--on", HERE)[1][0]["rows"]["count"] == len(TEXTS)
    assert parity(capsys, text, "--rows", "2", "--on", HERE)[1][0]["rows"]["count"] == 2


def test_a_swapped_label_file_lets_no_reference_pass(text, tmp_path, capsys):
    other = {"positive": "negative", "negative": "positive"}
    lines = [f"{text},{other[label]}" for text, label in zip(TEXTS * 4, LABELS * 4, strict=True)]
    lines = [f"{i % 7 * 'film '}{line}" for i, line in enumerate(lines)]
    (tmp_path / "swapped.csv").write_text("\n".join(["text,label", *lines]))
    code, (content,), said = parity(capsys, text, "--data", str(tmp_path / "swapped.csv"), "--on", HERE)
    assert code == 3
    assert content["verdict"]["reference_faults"]
    assert "error[E0305]" in said


def test_answers_are_read_as_the_user_says_and_labels_are_left_out(text, capsys):
    (text.parent / "names.txt").write_text("yes\nno\n")
    code, (content,), _ = parity(
        capsys, text, "--on", device(text), "--read-as", "tokens", "--names", str(text.parent / "names.txt")
    )
    assert code == 0
    found = content["comparison"]
    assert (found["reading"], found["labelled"]) == ("tokens", False)
    assert {"same_tokens", "first_divergence"} <= {each["name"] for each in found["lanes"][1]["measures"]}
    code, _, said = parity(capsys, text, "--on", device(text), "--read-as", "text", "--names", "nowhere.txt")
    assert code == 2
    assert "E0170" in said


def test_the_command_knows_every_reading():
    assert set(READINGS) == set(Reading)


def test_dry_run_prints_what_would_be_run_and_runs_nothing(text, tmp_path, capsys, monkeypatch):
    for name in ("ssh", "scp"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    spec = "ssh://pi@board.example:2222/onnx-fp32"
    command = ["parity", str(text), "--reference", "onnx-fp32", "--data", "goldens", "--on", spec, "--dry-run"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"# {spec}"
    assert any("selftest" in line and line.startswith("ssh") and "2222" in line for line in lines)
    assert any(line.startswith("scp") for line in lines)
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["dry_run"][spec]) == len(lines) - 1
    assert not (tmp_path / "was-run").exists()


def test_rows_saved_for_a_device_come_back_as_data_also_of_images(tmp_path, capsys):
    image = tmp_path / "image.edge"
    tiny_bundles.write_image_bundle(image)
    given, out = tmp_path / "given.npz", tmp_path / "my rows.npz"
    np.savez(given, x=np.random.default_rng(0).integers(0, 256, (6, 2, 2), np.uint8), y=np.array([0, 1, 0, 1, 0, 1]))
    assert main(["parity", str(image), "--data", str(given), "--save-rows", str(out)]) == 0
    assert "--rows 'my rows.npz' --evidence" in capsys.readouterr().out
    asked = load_asked(verify(image), image, DataOption(path=out))
    assert asked.rows.digest() == read_rows(out).digest()
    assert (len(asked.rows), asked.targets) == (6, None)


def test_file_that_cannot_be_written_is_refused_before_a_lane_is_asked(text, tmp_path, capsys):
    for option, path in (
        ("--evidence", tmp_path),
        ("--evidence", tmp_path / "no" / "run.json"),
        ("--save-rows", tmp_path / "no" / "rows.json"),
    ):
        code, (content,), said = parity(capsys, text, "--on", HERE, option, str(path))
        assert (code, content["error"]["code"]) == (2, "E0195")
        assert said.startswith("error")


def test_reference_alone_is_not_called_a_pass(text, capsys):
    code, (content,), _ = parity(capsys, text, "--on", "onnx-fp32")
    assert (code, content["error"]["code"]) == (2, "E0196")


def test_evidence_of_other_rows_is_refused_before_a_lane_is_asked(text, capsys):
    file = device(text, rows=RawRows(texts=("good",)))
    code, (content,), said = parity(capsys, text, "--on", HERE, "--on", file)
    assert (code, content["error"]["code"]) == (2, "E0185")
    assert said.startswith("error")


def test_gate_that_the_rows_cannot_show_is_refused_after_the_reference(text, capsys):
    code, (content,), said = parity(capsys, text, "--on", HERE, "--gate", "max_cer=2 %")
    assert (code, content["error"]["code"]) == (2, "E0167")
    assert "onnx-fp32: 6 rows" in said
    assert HERE not in said


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        (("--on", "onnx-fp23"), "did you mean 'onnx-fp32'?"),
        (("--on", "onnx-fp32:"), "for example onnx-fp32:onnxruntime"),
        (("--on", HERE, "--gate", "max_chnged=2 points"), "did you mean 'max_changed'?"),
        (("--on", HERE, "--label", "lable"), "name the columns with --text and --label"),
    ],
)
def test_mistyped_words_are_answered_with_the_right_ones(text, capsys, wrong, fix):
    code, (content,), _ = parity(capsys, text, *wrong)
    assert (code, content["error"]["fix"]) == (2, fix)


def test_two_files_of_one_name_do_not_hide_each_other(text, tmp_path, capsys):
    first = device(text)
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / "device.json"
    second.write_text(Path(first).read_text())
    code, (content,), _ = parity(capsys, text, "--on", first, "--on", str(second))
    assert (code, content["error"]["code"]) == (2, "E0197")


def test_what_a_gate_of_another_reading_found_is_told_also_when_it_passed(text, capsys):
    code, (content,), _ = parity(capsys, text, "--on", HERE, "--read-as", "text")
    assert code == 0
    assert any(line.startswith(f"{HERE}: character errors") for line in content["words"])


def test_rows_of_a_kind_that_a_bundle_of_tensors_cannot_take_are_refused(text, tmp_path):
    bundle = verify(text)
    tensors = replace(bundle, manifest=replace(bundle.manifest, task="tensors"))
    (tmp_path / "texts.txt").write_text("good\n")
    for name in ("rows.csv", "texts.txt", "."):
        with pytest.raises(UsageError) as caught:
            load_asked(tensors, text, DataOption(path=tmp_path / name))
        assert caught.value.code == "E0128"


def test_device_that_cannot_be_reached_does_not_take_the_other_answers_with_it(text, tmp_path, capsys, monkeypatch):
    for name in ("ssh", "scp"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 255\n")
        program.chmod(0o755)
    file = device(text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    away, out = "ssh://pi@board.example/onnx-fp32", tmp_path / "run.json"
    code, (content,), said = parity(capsys, text, "--on", away, "--on", file, "--evidence", str(out))
    assert code == 8
    assert "no route to host" in said
    assert content["passed"] is False
    assert list(content["lost"]) == [away]
    held = json.loads(out.read_text())
    assert [lane["lane"] for lane in held["lanes"]] == ["onnx-fp32", "device.json/device"]
    assert held["verdict"]["passed"] is True  # of those that answered
    code, documents, _ = parity(capsys, text, "--on", away)
    assert (code, [list(document) for document in documents]) == (8, [["schema", "command", "error"]])
