"""What a build decided by measuring is given to another build, which decides the same and measures nothing."""

import json
import re

import pytest
from command_line import DIGITS, edgekit, measured

import edgekit_runtime

BUNDLE = "tiny-digits-x86-64.edge"


@pytest.fixture(scope="module")
def replayed(digits, tmp_path_factory):
    """Build the digits with decisions that name float32 for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("replayed")
    decided = json.loads(digits.bundle.with_suffix(".plan.json").read_text())
    assert decided["precision"] == {"onnx": "int8", "tflite": "int8"}
    decided["precision"]["onnx"] = "float32"
    (folder / "decided.json").write_text(json.dumps(decided))
    recipe = DIGITS.replace("export: {keep_int8: true}\n", "").replace("_rows: 64}", "_rows: 64, plan: decided.json}")
    (folder / "digits.yaml").write_text(recipe)
    run = edgekit("build", "digits.yaml", "-o", "out", cwd=folder, cache=digits.cache)
    assert run.code == 0, run.err
    return folder, run


def test_int8_files_are_the_same_to_the_byte(digits, replayed):
    folder, run = replayed
    assert "modes as given" in run.err
    for name in ("onnx-int8/model.onnx", "tflite-int8/model.tflite"):
        new = folder / "out" / BUNDLE.replace(".edge", ".lanes") / name
        assert new.read_bytes() == (digits.bundle.with_suffix(".lanes") / name).read_bytes()


def test_the_bundle_holds_float32_for_the_engine_that_was_named_and_says_so(digits, replayed):
    folder, run = replayed
    manifest = edgekit_runtime.verify(folder / "out" / BUNDLE).manifest
    assert {runtime: entry.precision for runtime, entry in manifest.models.items()} == {
        "onnxruntime": "float32",
        "litert": "int8",
    }
    assert "the bundle holds float32 for it" in run.err
    assert re.search(r"ChooseModels: .*as given", run.err)
    shown = edgekit("inspect", folder / "out" / BUNDLE, cwd=folder, cache=digits.cache).out
    assert re.search(r"onnxruntime +float32 +input", shown)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_its_goldens_are_those_of_what_it_holds(replayed, engine):
    with edgekit_runtime.load(replayed[0] / "out" / BUNDLE, engine=engine) as model:
        assert model.selftest().passed


def test_bench_takes_what_the_bundle_holds_and_parity_finds_the_other_lane_beside_it(digits, replayed):
    where = {"cwd": replayed[0], "cache": digits.cache}
    bench = edgekit("bench", f"out/{BUNDLE}", "--rounds", "10", "--json", **where)
    assert [lane["lane"] for lane in bench.json["lanes"]] == ["onnx-fp32", "tflite-int8"]
    parity = edgekit("parity", f"out/{BUNDLE}", "--on", "onnx-int8", "--on", "onnx-fp32", "--json", **where)
    before = edgekit("parity", digits.bundle, "--on", "onnx-int8", "--on", "onnx-fp32", "--json", **where)
    assert measured(parity) == measured(before)
