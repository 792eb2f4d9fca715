"""Decisions go into a file and come back the same; they hold for one model and one set of rows alone."""

import json
from dataclasses import replace

import pytest

from edgekit_converters.quantize.decisions import Decisions, Planning, adopt, read_decisions
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan
from edgekit_runtime.errors import MissingError, UsageError

GRID = Grid(low=-1.0, high=1.5, scale=0.01, zero_point=-28)


def layer(name: str, **changes) -> LayerPlan:
    held = {"kind": "linear", "mode": Mode.STATIC, "why": "because", "weight_scales": (0.5,), "input": GRID}
    return LayerPlan(name=name, **{**held, "output": GRID, **changes})


PLAN = QuantPlan(
    layers=(layer("a"), layer("b")), techniques=(), calibration_rows=3, calibration_digest="12", whole_network=False
)
DYNAMIC = layer("b", mode=Mode.DYNAMIC, input=None, output=None)
DECIDED = Decisions(
    plans={"onnx": Planning(candidate="static", plan=PLAN), "tflite": Planning(candidate="mixed", plan=PLAN)},
    precision={"onnx": "float32", "tflite": "int8"},
)


def test_the_file_brings_every_decision_back(tmp_path) -> None:
    path = tmp_path / "a.plan.json"
    path.write_text(DECIDED.to_json())
    found = read_decisions(path)
    assert found == DECIDED
    assert found.to_json() == DECIDED.to_json()
    assert found.digest == DECIDED.digest
    assert found.digest != replace(DECIDED, precision={"onnx": "int8", "tflite": "int8"}).digest


def test_another_file_is_refused(tmp_path) -> None:
    path = tmp_path / "a.plan.json"
    with pytest.raises(MissingError):
        read_decisions(path)
    content = json.loads(DECIDED.to_json())
    wrong = [
        "no json",
        PLAN.to_json(),  # a bundle's plan.json
        json.dumps({**content, "schema": 2}),
        json.dumps({**content, "precision": {"onnx": "int4"}}),
        json.dumps({**content, "plans": {"keras": content["plans"]["onnx"]}}),
    ]
    for text in wrong:
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_decisions(path)
        assert caught.value.code == "E0147"


def test_modes_and_grids_of_the_file_hold() -> None:
    given = replace(PLAN, layers=(layer("a"), DYNAMIC))
    assert adopt(PLAN, given) == given
    float_too = replace(PLAN, layers=(layer("a", mode=Mode.FLOAT, weight_scales=(), input=None, output=None), DYNAMIC))
    assert adopt(PLAN, float_too) == float_too


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (replace(PLAN, calibration_digest="13"), "other calibration rows"),
        (replace(PLAN, layers=(layer("a"), layer("c"))), "other layers"),
        (replace(PLAN, layers=(layer("a"),)), "other layers"),
        (replace(PLAN, layers=(layer("a"), layer("b", weight_scales=(0.25,)))), "weights of b"),
    ],
)
def test_a_plan_of_another_model_or_other_rows_is_refused(given, why) -> None:
    with pytest.raises(UsageError) as caught:
        adopt(PLAN, given)
    assert caught.value.code == "E0147"
    assert why in caught.value.why
