"""From a bundle: the report, the reduced fault that shows itself in a fresh process, and what is refused."""

import json
import subprocess
import sys

import layer_networks as net
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgekit.cli.app import app
from edgekit.layers import LayerReport, layer_report
from edgekit.layers_reduce import reduce_fault
from edgekit_runtime.errors import ConversionError, MissingError, UsageError


@pytest.fixture
def sound(images, tmp_path):
    return net.bundle(images, tmp_path / "net.edge")


@pytest.fixture
def faulty(images, tmp_path):
    """One byte of the depthwise layer's weights is flipped in TFLite alone."""
    file = net.TfliteFile(images.model("tflite"))
    target = next(unit.target.lane for unit in images.twin("tflite").units if unit.module == "middle")
    operator = file.operator(int(target.partition(":")[0]))

    def flip(codes):
        codes[0, 1, 1, 4] ^= 0x40
        return codes

    file.values(int(operator.inputs[1]), flip)
    return net.bundle(images, tmp_path / "faulty.edge", tflite_model=file.pack())


@pytest.mark.parametrize("lane", ["onnx-int8", "tflite-int8"])
def test_a_report_of_a_sound_bundle_names_no_layer_and_survives_json(lane, sound, images):
    report = layer_report(sound, lane, images.rows)
    assert report.first is None
    assert "no layer" in report.words
    assert report.rows == len(images.rows)
    text = json.dumps(report.as_json(), allow_nan=False)
    assert LayerReport.from_json(json.loads(text)).as_json() == report.as_json()


def test_the_command_prints_the_layer_that_is_out_of_line(faulty):
    done = CliRunner().invoke(app, ["debug", "layers", str(faulty), "--on", "tflite-int8", "--data", "goldens"])
    assert done.exit_code == 0, done.output
    assert "first parts from float at middle (weights)" in done.output
    done = CliRunner().invoke(app, ["debug", "layers", str(faulty), "--on", "onnx-int8", "--data", "goldens", "--json"])
    assert json.loads(done.stdout)["first_divergence"] is None


def test_a_reduced_fault_shows_itself_in_a_fresh_process(faulty, images, tmp_path):
    out = tmp_path / "fault"
    told, made = reduce_fault(faulty, "tflite-int8", images.rows, out)
    assert (told.module, made.operators) == ("middle", ("DEPTHWISE_CONV_2D",))
    alone = [layer_report(faulty, "tflite-int8", [row]).first for row in images.rows]
    assert made.row == int(np.argmax([-1.0 if row is None else row.local.rmse for row in alone]))
    names = ["README.txt", "model.tflite", "reference.tflite", "inputs.npz", "expected.npz", "measured.npz", "show.py"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    done = subprocess.run([sys.executable, "show.py"], cwd=out, check=True, capture_output=True, text=True)
    sqnr = float(done.stdout.split("SQNR: ")[1].split(" dB")[0])
    expected, measured = np.load(out / "expected.npz")["expected"], np.load(out / "measured.npz")["measured"]
    by_hand = 10 * np.log10(
        np.square(expected.astype(float)).sum() / np.square(expected - measured).astype(float).sum()
    )
    assert sqnr == pytest.approx(by_hand, abs=0.1)
    assert sqnr < told.expected_db - 6
    assert "middle" in (out / "README.txt").read_text()


def test_a_reduced_fault_of_onnx_shows_itself_too(texts, tmp_path):
    def poison(bias):
        bias[..., 5] = np.nan
        return bias

    damaged = net.edited_onnx(texts.model("onnx"), "layers.0.ffn_in.bias.broad", poison)
    path = net.bundle(texts, tmp_path / "net.edge", onnx_model=damaged)
    told, _ = reduce_fault(path, "onnx-int8", texts.rows, tmp_path / "fault")
    assert (told.module, told.reason) == ("layers.0.ffn_in", "nan")
    done = subprocess.run(
        [sys.executable, "show.py"], cwd=tmp_path / "fault", check=True, capture_output=True, text=True
    )
    counts = np.load(tmp_path / "fault" / "expected.npz")["counts"]
    assert done.stdout.startswith(f"not finite: {int(counts.sum()) // 48} of {int(counts.sum())}")  # 1 channel of 48


def test_a_fault_between_layers_is_reduced_to_its_operator(texts, tmp_path):
    """A layer norm's constant is doubled in the int8 file alone."""
    norm = "layers.0.attention_norm.bias"
    damaged = net.edited_onnx(texts.model("onnx"), norm, lambda value: value * 2 + 1)
    path = net.bundle(texts, tmp_path / "net.edge", onnx_model=damaged)
    told, made = reduce_fault(path, "onnx-int8", texts.rows, tmp_path / "fault")
    assert told.module == "before layers.0.ffn_in"
    assert made.operators == ("LayerNormalization",)


def test_a_sound_bundle_is_not_reduced_and_leaves_no_folder(sound, images, tmp_path):
    with pytest.raises(UsageError) as caught:
        reduce_fault(sound, "onnx-int8", images.rows, tmp_path / "fault")
    assert caught.value.code == "E0177"
    assert not (tmp_path / "fault").exists()


def test_a_folder_with_files_is_not_written_into(faulty, images, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError) as caught:
        reduce_fault(faulty, "tflite-int8", images.rows, tmp_path / "mine")
    assert caught.value.code == "E0179"


def test_what_is_missing_is_named(sound, images, tmp_path):
    lane = sound.with_suffix(".lanes") / "onnx-int8"
    (lane / "layers.json").unlink()
    with pytest.raises(MissingError) as caught:
        layer_report(sound, "onnx-int8", images.rows)
    assert caught.value.code == "E0680"
    with pytest.raises(UsageError) as refused:
        layer_report(sound, "torch", images.rows)
    assert refused.value.code == "E0176"
    with pytest.raises(UsageError) as small:
        layer_report(sound, "tflite-int8", images.rows, max_ram_mb=20)
    assert small.value.code == "E0178"
    with pytest.raises(UsageError) as none:
        layer_report(sound, "tflite-int8", [])
    assert none.value.code == "E0175"


def test_a_file_that_the_engine_refuses_is_one_error_with_its_words(images, tmp_path):
    damaged = net.edited_onnx(images.model("onnx"), "middle.weight.int8", lambda codes: codes[:5])
    path = net.bundle(images, tmp_path / "net.edge", onnx_model=damaged)
    with pytest.raises(ConversionError) as caught:
        layer_report(path, "onnx-int8", images.rows)
    assert caught.value.code == "E0728"
    assert caught.value.why


def test_the_float_network_holds_what_was_trained_and_not_what_int8_was_refined_to(texts):
    """GPTQ and bias correction change the int8 files alone; the float answers stay the model's."""
    model = net.text_model()
    assert any(row.kept for row in texts.plan.techniques if "round" in row.name or "bias" in row.name)
    for form in ("onnx", "tflite"):
        twin = texts.twin(form)
        part = twin.reference.part(twin.reference.inputs, twin.reference.outputs)
        for row, named in zip(texts.rows[:2], texts.named(twin), strict=False):
            with torch.no_grad():
                wanted = model(*(torch.from_numpy(row[name]) for name in ("input_ids", "attention_mask"))).numpy()
            assert np.abs(part.run([named[tensor] for tensor in twin.reference.inputs])[0] - wanted).max() < 1e-4


def test_every_module_has_its_tensor_in_all_four_files(sound, images):
    done = CliRunner().invoke(app, ["debug", "identity", str(sound), "--json"])
    assert done.exit_code == 0, done.output
    held = json.loads(done.stdout)["layers"]
    assert [row["module"] for row in held] == ["first", "middle", "point", "head"]
    for form in ("onnx", "tflite"):
        twin = images.twin(form)
        for side, network in (("float", twin.reference), ("int8", twin.lane)):
            made = {tensor for step in network.steps for tensor in step.makes}
            assert {row[f"{form}_{side}"] for row in held} <= made


def test_modules_that_are_no_layers_are_listed_with_the_reason(sound):
    from safetensors.numpy import save_file

    student = sound.with_suffix(".lanes") / "student"
    student.mkdir()
    tensors = {"first.weight": (8, 3, 3, 3), "norm.weight": (8,), "norm.running_mean": (8,), "positions": (4, 8)}
    tensors |= {"after.weight": (8,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, student / "model.safetensors")
    done = CliRunner().invoke(app, ["debug", "identity", str(sound), "--json"])
    lost = {row["module"]: row["reason"] for row in json.loads(done.stdout)["lost"]}
    assert set(lost) == {"norm", "after", "positions"}
    assert "folded" in lost["norm"]
    assert "operator between layers" in lost["after"]
    assert "constant" in lost["positions"]
