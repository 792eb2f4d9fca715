"""Keras, SavedModel and TFLite sources: what is refused without TensorFlow, and what it gives where it is."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.ready.from_tensorflow import PYTHON_VARIABLE
from edgekit_converters.ready.load import load_ready
from edgekit_converters.ready.model import ReadyTflite
from edgekit_converters.ready.onnx_file import digest_of
from edgekit_converters.ready.tflite_file import operator_counts, run_tflite
from edgekit_converters.ready.tflite_only import quantize_ready_tflite
from edgekit_runtime.errors import ConversionError, MissingError, UsageError

PYTHON = os.environ.get(PYTHON_VARIABLE) or (sys.executable if find_spec("tensorflow") else "")
needs_tensorflow = pytest.mark.skipif(
    not PYTHON, reason=f"no TensorFlow here; name an interpreter in {PYTHON_VARIABLE}"
)


def keras_file(path: Path, layer: dict) -> Path:
    config = {"class_name": "Sequential", "module": "keras", "config": {"layers": [layer]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    return path


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "module": "keras.layers", "config": {"function": {"class_name": "__lambda__"}}},
        {"class_name": "Activation", "module": "keras.layers", "config": {"fn": {"class_name": "__lambda__"}}},
        {"class_name": "Thing", "module": "os.path", "config": {}},
        {"class_name": "Activation", "config": {"fn": {"class_name": "function", "module": "keras.utils"}}},
    ],
    ids=["lambda layer", "lambda inside", "foreign module", "function"],
)
def test_a_keras_file_that_carries_code_is_refused_before_tensorflow_sees_it(tmp_path, monkeypatch, layer):
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(ConversionError, match="carries code") as caught:
        load_ready(keras_file(tmp_path / "m.keras", layer), work=tmp_path)
    assert caught.value.code == "E0791"


def test_a_saved_model_that_runs_python_is_refused(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x0bEagerPyFunc\x1a")
    with pytest.raises(ConversionError, match="PyFunc") as caught:
        load_ready(tmp_path / "saved", work=tmp_path)
    assert caught.value.code == "E0791"


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr("edgekit_converters.ready.from_tensorflow.find_spec", lambda _: None)
    layer = {"class_name": "Dense", "module": "keras.layers", "config": {}}
    with pytest.raises(MissingError) as caught:
        load_ready(keras_file(tmp_path / "m.keras", layer), work=tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("E0661", 6)
    assert "pip install 'edgekit[tensorflow]'" in caught.value.fix


def test_a_converter_that_fails_is_quoted(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ValueError: no such layer' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(broken))
    layer = {"class_name": "Dense", "module": "keras.layers", "config": {}}
    with pytest.raises(ConversionError, match="could not convert") as caught:
        load_ready(keras_file(tmp_path / "m.keras", layer), work=tmp_path)
    assert caught.value.code == "E0792"
    assert "no such layer" in caught.value.why


SAVE = """
    import os, sys, keras, tensorflow as tf
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 10, 3), name="image")
    y = keras.layers.Conv2D(8, 3, padding="same", strides=2, use_bias=False)(x)
    y = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(y))
    y = keras.layers.DepthwiseConv2D(3, activation="relu")(y)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 1, activation="relu")(y))
    model = keras.Model(x, keras.layers.Dense(4, name="logits")(y))
    model.save(sys.argv[1] + "/m.keras")
    model.export(sys.argv[1] + "/saved", verbose=False)
    touch = keras.layers.Lambda(lambda x: os.system("touch " + sys.argv[1] + "/ran") or x)
    code = keras.Sequential([keras.Input((3,)), touch])
    code.save(sys.argv[1] + "/code.keras")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    script = folder / "save.py"
    script.write_text(textwrap.dedent(SAVE), encoding="utf-8")
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True, env=quiet)
    (folder / "ran").unlink(missing_ok=True)  # the author's own run of the code
    return folder


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("name", ["m.keras", "saved"])
def test_a_keras_network_becomes_tflite_and_static_int8(saved, tmp_path, name):
    path = saved / name
    before = {file: digest_of(file) for file in ([path] if path.is_file() else path.rglob("*.*"))}
    found = load_ready(path, work=tmp_path)
    assert isinstance(found, ReadyTflite)
    assert [(spec.name, spec.shape) for spec in found.contract.inputs] == [("image", (1, 12, 10, 3))]
    assert [spec.shape for spec in found.contract.outputs] == [(1, 4)]
    assert {file: digest_of(file) for file in before} == before
    rng = np.random.default_rng(0)
    rows = [{"image": rng.standard_normal((1, 12, 10, 3)).astype(np.float32)} for _ in range(16)]
    done = quantize_ready_tflite(found.path, tmp_path / "int8.tflite", rows)
    assert done.how == "static"
    assert min(done.sqnr_db.values()) > 25


@pytest.mark.slow
@needs_tensorflow
def test_a_real_lambda_layer_does_not_run(saved, tmp_path):
    with pytest.raises(ConversionError, match="Lambda"):
        load_ready(saved / "code.keras", work=tmp_path)
    assert not (saved / "ran").exists()


def test_a_tflite_file_is_taken_as_it_is_and_becomes_static_int8(image_tflite, tmp_path):
    found = load_ready(image_tflite, work=tmp_path)
    assert isinstance(found, ReadyTflite)
    assert found.digest == digest_of(image_tflite)
    assert [(spec.name, spec.dtype) for spec in found.contract.inputs] == [("image", "float32")]
    rng = np.random.default_rng(0)
    rows = [{"image": rng.random(found.contract.inputs[0].shape).astype(np.float32)} for _ in range(8)]
    target = tmp_path / "int8.tflite"
    done = quantize_ready_tflite(found.path, target, rows)
    assert (done.how, done.rows) == ("static", 8)
    wanted, given = (
        np.stack([next(iter(row.values())) for row in run_tflite(path, rows)]) for path in (found.path, target)
    )
    noise = 10 * np.log10((wanted**2).sum() / ((wanted - given) ** 2).sum())
    assert done.sqnr_db == pytest.approx({"output_0": noise}, rel=1e-5)
    assert noise > 25
    with pytest.raises(ConversionError) as caught:
        load_ready(target, work=tmp_path)
    assert caught.value.code == "E0784"


def test_a_file_with_attention_gets_dynamic_int8(text_tflite, tmp_path):
    found = load_ready(text_tflite, work=tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        {spec.name: rng.integers(1, 3, spec.shape).astype(np.int32).clip(0, 1) for spec in found.contract.inputs}
        for _ in range(4)
    ]
    target = tmp_path / "int8.tflite"
    done = quantize_ready_tflite(found.path, target, rows)
    assert done.how == "dynamic"
    assert "attention" in done.why
    assert "QUANTIZE" not in operator_counts(target)
    assert target.stat().st_size < 0.8 * found.path.stat().st_size


def test_no_rows_no_int8(image_tflite, tmp_path):
    with pytest.raises(UsageError) as caught:
        quantize_ready_tflite(image_tflite, tmp_path / "x.tflite", [])
    assert caught.value.code == "E0133"


@pytest.mark.parametrize("name", ["m.pt", "m.h5", "m.txt"])
def test_a_format_that_is_not_known_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02junk")
    with pytest.raises(ConversionError) as caught:
        load_ready(tmp_path / name, work=tmp_path)
    assert caught.value.code == "E0780"


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingError) as caught:
        load_ready(tmp_path / "no.onnx", work=tmp_path)
    assert caught.value.code == "E0660"
