"""The whole line without training: a model folder and sentences become a bundle that a device runs."""

import json
import random
import re

import numpy as np
import pytest
from command_line import Built, edgekit, measured
from text_teacher import write_teacher

import edgekit_runtime
from edgekit_runtime.errors import UsageError

WORDS = ("the", "film", "story", "is", "and", "warm", "dull", "funny", "cold", "music", "cast", "bright", "slow")
# One candidate keeps the test short; which candidate wins is tested in tests/edgekit/test_quantise_candidates.py.
ARGUMENTS = ("--quantize-only", "--calibration", "sentences.txt", "--max-length", "16", "--all-int8", "--min-cosine")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ready")
    write_teacher(folder / "my-bert", words=WORDS)
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(64)]
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n")
    cache = folder / "cache"
    run = edgekit("build", "my-bert", *ARGUMENTS, "0.98", "-o", "out", cwd=folder, cache=cache)
    assert run.code == 0, run.err
    return Built(folder, cache, run, folder / "out/my-bert-x86-64.edge")


def report_of(built) -> dict:
    return json.loads((built.folder / "out/report.json").read_text())


def test_both_formats_are_compared_with_pytorch_on_rows_that_were_held_out(embedder):
    report = report_of(embedder)
    assert report["rows"] == 16  # every fourth of 64
    lanes = {line["lane"]: line for line in report["lanes"]}
    assert list(lanes) == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    for form in ("onnx", "tflite"):
        whole, int8 = lanes[f"{form}-fp32"], lanes[f"{form}-int8"]
        assert whole["close"]["sqnr_db"] > 60
        assert 0.98 <= int8["close"]["cosine_mean"] < 1.0
        assert int8["close"]["nearest_all"] is not None
        assert int8["size_mb"] < whole["size_mb"]
        assert [whole["in_bundle"], int8["in_bundle"]].count(True) == 1
        assert int8["plan"] == "static"
    assert "64" not in re.search(r"^KeepRows: .*", embedder.run.err, re.MULTILINE)[0]


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_the_device_embeds_texts_and_proves_itself(embedder, engine):
    with edgekit_runtime.load(embedder.bundle, engine=engine) as model:
        one, other = model.embed("the film is warm"), model.embed("a dull cold story")
        assert one.shape == (32,)
        assert one.dtype == np.float32
        assert not np.allclose(one, other)
        assert model.selftest().passed
        with pytest.raises(UsageError) as caught:
            model("the film is warm")
        assert "model.embed" in caught.value.fix


def test_run_parity_and_inspect_understand_the_bundle(embedder):
    where = {"cwd": embedder.folder, "cache": embedder.cache}
    run = edgekit("run", embedder.bundle, "the film is warm", "--json", **where)
    assert len(run.json["results"][0]["vector"]) == 32
    held = {line["lane"]: line["close"]["cosine_mean"] for line in report_of(embedder)["lanes"]}
    lanes = [part for lane in held for part in ("--on", lane)]  # those too that were slower and are not in the bundle
    parity = edgekit("parity", embedder.bundle, *lanes, "--gate", "min_cosine=0.98", "--json", **where)
    assert parity.code == 0, parity.err
    found = {lane: measures["cosine_mean"] for lane, measures in measured(parity).items()}
    assert found == pytest.approx(held)
    assert re.search(r"layers\.0\.attention\.query +linear", edgekit("inspect", embedder.bundle, **where).out)


def test_decisions_replay_to_the_byte_without_measuring(embedder):
    kept = embedder.bundle.with_suffix(".lanes")
    files = {name: (kept / name).read_bytes() for name in ("onnx-int8/model.onnx", "tflite-int8/model.tflite")}
    again = edgekit(
        *("build", "my-bert", *ARGUMENTS, "0.98", "--plan", "out/my-bert-x86-64.plan.json", "-o", "again"),
        cwd=embedder.folder,
        cache=embedder.cache,
    )
    assert again.code == 0, again.err
    for name, content in files.items():
        assert (embedder.folder / "again/my-bert-x86-64.lanes" / name).read_bytes() == content
    assert len(re.findall(r"^QuantiseReady: .*\(as given\)", again.err, re.MULTILINE)) == 2
    assert (embedder.folder / "again/my-bert-x86-64.edge").read_bytes() == embedder.bundle.read_bytes()
    decided = (embedder.folder / "again/my-bert-x86-64.plan.json").read_bytes()
    assert decided == (embedder.folder / "out/my-bert-x86-64.plan.json").read_bytes()


def test_a_missed_bound_exits_3_and_leaves_the_figures_but_no_bundle(embedder):
    given = ("--plan", "out/my-bert-x86-64.plan.json", "-o", "strict")
    run = edgekit("build", "my-bert", *ARGUMENTS, "1", *given, cwd=embedder.folder, cache=embedder.cache)
    assert run.code == 3
    assert "error[E0303]" in run.err
    assert "leave --all-int8 out" in run.err
    assert "mean cosine is 0.9999" in run.err  # untrained: all its answers are alike
    assert not list((embedder.folder / "strict").glob("*.edge"))
    assert json.loads((embedder.folder / "strict/report.json").read_text())["passed"] is False


def test_a_recipe_is_no_model_and_rows_must_be_given(embedder):
    where = {"cwd": embedder.folder, "cache": embedder.cache}
    (embedder.folder / "a.yaml").write_text("name: a\n")
    assert "error[E0142]" in edgekit("build", "a.yaml", *ARGUMENTS, "0.9", **where).err
    assert "error[E0148]" in edgekit("build", "my-bert", "--quantize-only", **where).err
    assert "error[E0151]" in edgekit("build", "a.yaml", "--eval", "sentences.txt", **where).err


@pytest.mark.parametrize("option", [("--max-drop", "1 point"), ("--trust-code",), ("--offline",)])
def test_options_of_recipes_are_refused_and_not_ignored(embedder, option):
    run = edgekit("build", "my-bert", *ARGUMENTS, "0.9", *option, cwd=embedder.folder, cache=embedder.cache)
    assert run.code == 2
    assert f"error[E0154]: {option[0]}" in run.err


def test_more_tokens_than_the_model_knows_are_refused_by_the_option_that_asked(embedder):
    options = ("--quantize-only", "--calibration", "sentences.txt", "--max-length", "9999")
    run = edgekit("build", "my-bert", *options, cwd=embedder.folder, cache=embedder.cache)
    assert "error[E0270]" in run.err
    assert "--max-length" in run.err
