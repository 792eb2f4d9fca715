"""The stages that quantise: which rows they calibrate on and what they write."""

import numpy as np
import pytest
import tiny_networks

from edgekit.pipeline import Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.stage import QuantizeOnnx, QuantizeTflite, calibration_rows
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.errors import UsageError

TEXT, IMAGE = Task.TEXT_CLASSIFICATION, Task.IMAGE_CLASSIFICATION


def given(task: Task, folder) -> dict:
    artifacts = tiny_networks.data_artifact(task, folder / "data")
    teacher = tiny_networks.write_teacher(folder / "teacher", task=task)
    return {**artifacts, Kind.TEACHER: tiny_networks.artifact(Kind.TEACHER, teacher)}


def images(rows) -> set[bytes]:
    return {np.rint(row["image"][0] * 255).astype(np.uint8).tobytes() for row in rows}


def test_calibration_rows_are_training_rows_drawn_by_the_seed(tmp_path) -> None:
    artifacts = given(IMAGE, tmp_path)
    data = read_dataset(artifacts[Kind.DATA].path)
    train = {image.tobytes() for image in data.train.images}
    first = images(calibration_rows(artifacts, count=10, seed=1))
    assert len(first) == 10
    assert first < train
    assert first == images(calibration_rows(artifacts, count=10, seed=1))
    assert first != images(calibration_rows(artifacts, count=10, seed=2))
    assert images(calibration_rows(artifacts, count=999, seed=1)) == train
    with pytest.raises(UsageError) as caught:
        calibration_rows(artifacts, count=0, seed=1)
    assert caught.value.code == "E0133"


@pytest.mark.parametrize(("task", "kind"), [(TEXT, "text"), (IMAGE, "image")])
def test_stages_write_int8_models_and_say_what_they_did(tmp_path, request, task, kind) -> None:
    artifacts = given(task, tmp_path)
    how = QuantizeSpec(calibration_rows=6)
    stages = {
        "onnx": (QuantizeOnnx(task=task, how=how, activations="int8", seed=0), Kind.ONNX_FLOAT32),
        "tflite": (QuantizeTflite(task=task, how=how, seed=0), Kind.TFLITE_FLOAT32),
    }
    for suffix, (stage, needs) in stages.items():
        source = request.getfixturevalue(f"{kind}_{suffix}")
        folder, into = tmp_path / f"{suffix}-float", tmp_path / f"{suffix}-int8"
        for each in (folder, into):
            each.mkdir()
        (folder / f"model.{suffix}").write_bytes(source.read_bytes())
        note = stage.run({**artifacts, needs: tiny_networks.artifact(needs, folder)}, into)
        assert [path.name for path in into.iterdir()] == [f"model.{suffix}"]
        assert (into / f"model.{suffix}").stat().st_size < source.stat().st_size
        assert "6 calibration rows" in note
        if suffix == "onnx":
            assert "S8S8" in note
            assert ("1 embedding" in note) is (task is TEXT)
