"""Which precision a bundle holds: float32 only where int8 was measured to be slower, or where somebody says so."""

import json
from pathlib import Path

import pytest

from edgekit import choice
from edgekit.bench import LaneTime
from edgekit.choice import ChooseModels, chosen_lanes, faster, read_choice
from edgekit.lanes.local import EngineLane
from edgekit.pipeline import Artifact, Kind
from edgekit_converters.quantize.decisions import Decisions

FORMATS = ("onnx", "tflite")
KINDS = (Kind.ONNX_FLOAT32, Kind.ONNX_INT8, Kind.TFLITE_FLOAT32, Kind.TFLITE_INT8)
LANES = [
    EngineLane(name=f"{form}-{kind}", engine="any", model=b"", inputs=(), outputs=())
    for form in FORMATS
    for kind in ("fp32", "int8")
]
TIMES = {"onnx-fp32": 1.0, "onnx-int8": 1.06, "tflite-fp32": 1.0, "tflite-int8": 1.04}


def test_a_difference_within_noise_keeps_int8() -> None:
    assert faster(0.5, 1.0) == "int8"
    assert faster(1.05, 1.0) == "int8"
    assert faster(1.051, 1.0) == "float32"


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    asked = []

    def measure(lanes, rows):
        asked.extend(rows)
        return tuple(
            LaneTime(lane=lane.name, cpu_ms_min=TIMES[lane.name], cpu_ms_median=9.0, runs=10) for lane in lanes
        )

    monkeypatch.setattr(choice, "measure", measure)
    return asked


def decide(folder: Path, **changes) -> tuple[dict[str, str], str, dict[Kind, Artifact]]:
    settings = {"formats": FORMATS, "keep_int8": False, "given": None, "basis": ()}
    stage = ChooseModels(**{**settings, "lanes": lambda _: LANES, "rows": lambda _: ["row"], **changes})
    artifacts = {kind: Artifact(kind=kind, path=folder, digest="") for kind in KINDS}
    note = stage.run(artifacts, folder)
    artifacts[Kind.CHOICE] = Artifact(kind=Kind.CHOICE, path=folder, digest="")
    return read_choice(artifacts), note, artifacts


def test_the_faster_engine_wins_and_the_bundle_takes_its_lane(tmp_path, measured) -> None:
    found, note, artifacts = decide(tmp_path)
    assert found == {"onnx": "float32", "tflite": "int8"}
    assert [lane.name for lane in chosen_lanes(LANES, artifacts)] == ["onnx-fp32", "tflite-int8"]
    assert "1.060" in note
    assert measured == ["row"]


def test_the_file_says_why_and_holds_no_figure_that_would_change_the_bundle(tmp_path, measured) -> None:
    decide(tmp_path)
    content = json.loads((tmp_path / "choice.json").read_text())
    assert "slower" in content["onnx"]["why"]
    assert "." not in content["onnx"]["why"]
    assert measured


def test_int8_is_kept_when_the_user_says_so_and_nothing_is_measured(tmp_path, measured) -> None:
    found, _, _ = decide(tmp_path, keep_int8=True)
    assert found == {"onnx": "int8", "tflite": "int8"}
    assert measured == []


def test_decisions_of_an_earlier_build_hold_whatever_this_machine_measures(tmp_path, measured) -> None:
    given = Decisions(plans={}, precision={"onnx": "int8", "tflite": "float32"})
    found, _, _ = decide(tmp_path, given=given)
    assert found == {"onnx": "int8", "tflite": "float32"}
    assert measured == []


def test_what_was_measured_holds_for_this_machine_alone(tmp_path) -> None:
    def key(**changes):
        settings = {"formats": FORMATS, "keep_int8": False, "given": None, "basis": ()}
        return ChooseModels(**{**settings, "lanes": list, "rows": list, **changes}).config()["basis"]

    assert key()
    assert not key(keep_int8=True)
    assert not key(given=Decisions(plans={}, precision=dict.fromkeys(FORMATS, "int8")))
