"""The whole line on real images: one command, a bundle, and a device that runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import DIGITS, edgekit, environment, measured

import edgekit_runtime

INT8 = ("onnx-int8", "tflite-int8")


def test_build_gives_every_lane_and_a_bundle_within_its_budget(digits):
    (build,) = digits.run.json["builds"]
    rows = {row["lane"]: row for row in build["report"]["rows"]}
    assert list(rows) == ["teacher", "torch", "onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert rows["teacher"]["accuracy"] > 0.9  # ten classes: chance is 0.1
    for lane in INT8:
        assert rows[lane]["drop_points"] <= 2.0
        assert rows[lane]["changed"] <= 0.03 * 360
        assert rows[lane]["cpu_ms_min"] > 0
        assert rows[lane]["size_mb"] < rows[lane.replace("int8", "fp32")]["size_mb"]
    assert rows["torch"]["parameters"] < rows["teacher"]["parameters"] / 4
    assert digits.bundle.is_file()


def test_pruning_made_a_smaller_plain_module(digits):
    config = json.loads((digits.bundle.with_suffix(".lanes") / "student/config.json").read_text())
    assert [conv["channels"] for conv in config["convs"]] == [8, 8, 12, 12]  # 3/4 of 8 and 16, up to a multiple of 4


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_a_device_runs_the_bundle_and_its_self_test_passes(digits, engine):
    data = np.load(digits.bundle.with_suffix(".lanes") / "data/eval_inputs.npy")
    targets = np.load(digits.bundle.with_suffix(".lanes") / "data/eval_targets.npy")
    with edgekit_runtime.load(digits.bundle, engine=engine) as model:
        answers = model.predict_batch(list(data))
        assert np.mean([answer.index == target for answer, target in zip(answers, targets, strict=True)]) > 0.9
        assert model.selftest().passed
        assert answers[0].label == model.labels[answers[0].index]


def test_the_bundle_says_where_it_comes_from_and_names_no_folder_of_the_build_machine(digits):
    bundle = edgekit_runtime.verify(digits.bundle)
    provenance = bundle.json("provenance.json")
    assert provenance["teacher"] == "architecture cnn, trained from scratch"
    assert provenance["tools"]["torch"].startswith("2.13")
    assert "Apache-2.0" in bundle.read("licence.txt").decode()
    whole = digits.bundle.read_bytes()
    for secret in (str(digits.folder), str(Path.home()), str(Path(sys.prefix))):
        assert secret.encode() not in whole


def test_a_second_build_takes_every_stage_from_the_cache_and_gives_the_same_bytes(digits):
    before = digits.bundle.read_bytes()
    again = edgekit("build", "digits.yaml", cwd=digits.folder, cache=digits.cache)
    assert again.code == 0, again.err
    stages = re.findall(r"^([A-Z][a-z]\w+): (.*)$", again.err, re.MULTILINE)
    ran = [name for name, how in stages if not how.startswith("cached")]
    assert len(stages) > 10
    assert ran == []
    assert digits.bundle.read_bytes() == before


def test_a_build_from_nothing_gives_the_same_bytes(digits, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/digits.yaml").write_text(DIGITS)
    run = edgekit("build", "digits.yaml", "-o", "out", cwd=tmp_path / "other", cache=tmp_path / "cache")
    assert run.code == 0, run.err
    assert (tmp_path / "other/out/tiny-digits-x86-64.edge").read_bytes() == digits.bundle.read_bytes()


def test_another_target_changes_the_bundle_and_reuses_the_training(digits, tmp_path):
    run = edgekit("build", "digits.yaml", "-t", "rpi4", "-o", tmp_path, cwd=digits.folder, cache=digits.cache)
    assert run.code == 0, run.err
    assert re.search(r"^DistilStudent: cached", run.err, re.MULTILINE)
    assert edgekit_runtime.verify(tmp_path / "tiny-digits-rpi4.edge").manifest.target == "rpi4"


def test_a_missed_budget_exits_3_leaves_no_bundle_and_keeps_the_numbers(digits, tmp_path):
    strict = DIGITS.replace("max_changed: 3 points", "max_changed: 3 points, max_size_mb: 0.001")
    (tmp_path / "digits.yaml").write_text(strict)
    out = tmp_path / "out"
    out.mkdir()
    bundle = out / "tiny-digits-x86-64.edge"
    bundle.write_bytes(b"of an earlier build")
    run = edgekit("build", "digits.yaml", "-o", out, cwd=tmp_path, cache=digits.cache)
    assert run.code == 3
    assert "error[E0301]" in run.err
    assert "onnx-int8: size is" in run.err
    assert not bundle.exists()
    assert (out / "tiny-digits-x86-64.edge.older").read_bytes() == b"of an earlier build"
    report = json.loads((out / "report.json").read_text())
    assert report["passed"] is False
    assert len(report["faults"]) == 2
    assert (out / "tiny-digits-x86-64.lanes/onnx-int8/model.onnx").is_file()


def test_a_gate_of_the_recipe_is_judged_by_the_build_and_travels_with_the_bundle(digits, tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS + "parity: {gates: {min_sqnr: 150 dB}}\n")
    run = edgekit("build", "digits.yaml", "-o", "out", cwd=tmp_path, cache=digits.cache)
    assert run.code == 3
    assert "SQNR is" in run.err
    assert "the limit is 150 dB" in run.err
    carried = edgekit_runtime.verify(digits.bundle).json("provenance.json")["gates"]
    assert carried == {"max_drop": "2.0 points", "max_changed": "3.0 points"}


def test_a_killed_build_goes_on_where_it_stopped(digits, tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "build", "digits.yaml", "-o", "out"],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("DistilStudent ..."):
            time.sleep(0.5)  # into the middle of the stage
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert list((tmp_path / "out").iterdir()) == []
    run = edgekit("build", "digits.yaml", "-o", "out", cwd=tmp_path, cache=tmp_path / "cache")
    assert run.code == 0, run.err
    assert re.search(r"^AdaptTeacher: cached", run.err, re.MULTILINE)
    assert not re.search(r"^DistilStudent: cached", run.err, re.MULTILINE)
    assert (tmp_path / "out/tiny-digits-x86-64.edge").read_bytes() == digits.bundle.read_bytes()


def test_manifest_names_the_calibration_rows_of_the_plan(digits):
    bundle = edgekit_runtime.verify(digits.bundle)
    assert len(bundle.manifest.calibration_sha256) == 64
    assert bundle.manifest.calibration_sha256 == bundle.json("plan.json")["calibration_digest"]


def test_parity_compares_all_lanes_on_the_kept_rows(digits):
    run = edgekit(
        "parity",
        digits.bundle,
        "--json",
        "--gate",
        "max_changed=3 points",
        "--gate",
        "max_drop=2 points",
        cwd=digits.folder,
        cache=digits.cache,
    )
    assert run.code == 0, run.err
    content = run.json
    assert content["rows"]["count"] == 360
    assert set(measured(run)) == {"onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"}
    packed = edgekit_runtime.verify(digits.bundle).json("parity.json")
    found = {lane["lane"]: lane["accuracy"]["value"] for lane in content["comparison"]["lanes"]}
    assert found == {lane: row["accuracy"] for lane, row in packed["lanes"].items()}


def test_the_verdict_of_parity_follows_its_table(digits):
    lanes = digits.bundle.with_suffix(".lanes")
    images, targets = np.load(lanes / "data/eval_inputs.npy"), np.load(lanes / "data/eval_targets.npy")
    wrong = digits.folder / "few.npz"
    np.savez(wrong, x=images[:30], y=targets[:30])
    run = edgekit(
        "parity",
        digits.bundle,
        "--on",
        "tflite-int8",
        "--reference",
        "onnx-int8",
        "--data",
        wrong,
        "--gate",
        "max_changed=0 points",
        "--gate",
        "max_drop=0 points",
        cwd=digits.folder,
        cache=digits.cache,
    )
    assert "30 rows" in run.out
    assert run.code in (0, 3)  # two int8 formats may agree on 30 rows; the verdict must follow the table
    changed = int(re.search(r"^tflite-int8 .*\) +(\d+) \(", run.out, re.MULTILINE)[1])
    assert (run.code == 0) is (changed == 0)


def test_a_broken_model_in_a_kept_lane_fails_parity(digits, tmp_path):
    bundle = tmp_path / digits.bundle.name
    shutil.copy(digits.bundle, bundle)
    shutil.copytree(digits.bundle.with_suffix(".lanes"), bundle.with_suffix(".lanes"))
    from safetensors.numpy import load_file, save_file

    weights = bundle.with_suffix(".lanes") / "student/model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"] = tensors["classifier.weight"][::-1].copy()
    save_file(tensors, weights)
    run = edgekit("parity", bundle, "--on", "onnx-int8", cwd=tmp_path, cache=digits.cache)
    assert run.code == 3
    assert "error[E0305]" in run.err  # the reference is what broke


def test_a_lone_bundle_says_which_lane_is_not_here(digits, tmp_path):
    bundle = tmp_path / "lone.edge"
    shutil.copy(digits.bundle, bundle)
    run = edgekit("parity", bundle, cwd=tmp_path, cache=digits.cache)
    assert run.code == 6
    assert "error[E0641]" in run.err
    assert "fix:" in run.err


def test_bench_measures_both_formats(digits):
    run = edgekit("bench", digits.bundle, "--rounds", "10", "--json", cwd=digits.folder, cache=digits.cache)
    assert run.code == 0, run.err
    assert [lane["lane"] for lane in run.json["lanes"]] == ["onnx-int8", "tflite-int8"]
    assert all(0 < lane["cpu_ms_min"] <= lane["cpu_ms_median"] for lane in run.json["lanes"])


def test_run_answers_from_the_command_line(digits):
    image = digits.folder / "image.npy"
    np.save(image, np.load(digits.bundle.with_suffix(".lanes") / "data/eval_inputs.npy")[0])
    run = edgekit("run", digits.bundle, image, "--json", cwd=digits.folder, cache=digits.cache)
    assert run.code == 0, run.err
    target = np.load(digits.bundle.with_suffix(".lanes") / "data/eval_targets.npy")[0]
    assert run.json["results"][0]["label"] == str(target)


def test_an_output_folder_that_cannot_be_is_found_before_the_training(digits, tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS)
    (tmp_path / "file").write_text("not a folder")
    run = edgekit("build", "digits.yaml", "-o", "file/out", cwd=tmp_path, cache=tmp_path / "cache")
    assert run.code == 2
    assert "error[E0129]" in run.err
    assert "AdaptTeacher" not in run.err
