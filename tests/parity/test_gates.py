"""Gates: units are asked for, confusions refused, defaults by task, and the verdict in words."""

import json
import math

import numpy as np
import pytest

from edgekit.parity.compare import Asked, compare
from edgekit.parity.gates import DEFAULTS, GATES, chosen_gates, make_gate, parse_gate, read_gates
from edgekit.parity.metrics import Quantity, Unit
from edgekit.parity.readings import Reading
from edgekit.parity.verdict import Outcome, Verdict, judge, refusal
from edgekit.parity.words import sentences
from edgekit_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("max_changed=2 points", Quantity(2.0, Unit.POINTS)),
        ("max_changed = 2 %", Quantity(2.0, Unit.POINTS)),
        ("max_changed=0.02 fraction", Quantity(2.0, Unit.POINTS)),
        ("max_drop=0.5pt", Quantity(0.5, Unit.POINTS)),
        ("min_relative_accuracy=99 %", Quantity(99.0, Unit.PERCENT)),
        ("min_relative_accuracy=0.99 fraction", Quantity(99.0, Unit.PERCENT)),
        ("min_cosine=0.99", Quantity(0.99, Unit.COSINE)),
        ("min_sqnr=25 dB", Quantity(25.0, Unit.DECIBEL)),
        ("min_overlap_5=90 %", Quantity(0.9, Unit.FRACTION)),
        ("max_difference=0.5 logits", Quantity(0.5, Unit.LOGITS)),
        ("max_steps=2 steps", Quantity(2.0, Unit.STEPS)),
    ],
)
def test_a_gate_is_read_into_the_unit_of_its_measure(text, limit):
    gate = parse_gate(text)
    assert gate.limit == limit
    assert gate.asked


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("max_changed=0.5", "E0168"),
        ("max_drop=1", "E0168"),
        ("max_drop=1 %", "E0168"),  # of 100, or of the accuracy?
        ("max_drop=0.01 fraction", "E0168"),
        ("min_sqnr=25", "E0168"),
        ("min_sqnr=25 points", "E0168"),
        ("max_changed", "E0168"),
        ("min_cosine=0.99.9", "E0168"),
        ("max_flips=2 points", "E0167"),
        ("min_relative_accuracy=0.99 %", "E0169"),
        ("min_relative_accuracy=99 fraction", "E0169"),
        ("min_overlap_1=0.95 %", "E0169"),
        ("min_overlap_1=95 fraction", "E0169"),
        ("min_cosine=99", "E0169"),
        ("max_changed=200 points", "E0169"),
        ("max_changed=-1 points", "E0169"),
    ],
)
def test_a_bound_whose_unit_is_missing_or_confused_is_refused(text, code):
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert caught.value.code == code


@pytest.mark.parametrize("written", [0.5, 1, None, True, ["1 points"]])
def test_a_recipe_cannot_leave_the_unit_out(written):
    with pytest.raises(UsageError) as caught:
        make_gate("max_drop", written)
    assert caught.value.code == "E0168"
    assert "max_drop='1 points'" in caught.value.fix


@pytest.mark.parametrize("kind", GATES.values(), ids=lambda kind: kind.name)
def test_every_gate_shows_an_example_that_it_reads(kind):
    with pytest.raises(UsageError) as caught:
        make_gate(kind.name, "5 apples")
    example = caught.value.fix.removeprefix("write for example ").replace("'", "")
    assert parse_gate(example).kind is kind
    assert kind.name.startswith(("min_", "max_"))


@pytest.mark.parametrize("name", GATES)
def test_a_written_gate_is_read_back_with_every_digit(name):
    kind = GATES[name]
    gate = make_gate(
        name, f"{min(0.9876543210123, kind.plausible[1]) if kind.plausible[0] < 2 else 71 / 1.1} {kind.unit}"
    )
    assert make_gate(name, gate.written()) == gate


def test_yes_is_no_cosine():
    with pytest.raises(UsageError) as caught:
        make_gate("min_cosine", True)
    assert caught.value.code == "E0168"


def test_gates_come_back_from_the_provenance_of_a_bundle():
    (gate,) = read_gates({"schema": 1, "gates": {"max_changed": "2.0 points"}})
    assert (gate.kind.name, gate.limit) == ("max_changed", Quantity(2.0, Unit.POINTS))
    assert not gate.asked  # rows without labels leave those on accuracy out
    assert read_gates({"schema": 1}) == ()
    assert read_gates(None) == ()


def test_every_reading_has_defaults():
    assert set(DEFAULTS) == {reading.value for reading in Reading}
    assert not any(gate.asked for gates in DEFAULTS.values() for gate in gates)


def test_asked_gates_stand_in_for_defaults():
    def names(*asked):
        return {gate.kind.name: str(gate.limit) for gate in chosen_gates("decisions", [parse_gate(a) for a in asked])}

    assert names() == {"max_changed": "5 points", "min_relative_accuracy": "99 %", "min_float_sqnr": "60 dB"}
    assert names("max_changed=2 points", "max_changed=3 points")["max_changed"] == "3 points"
    assert "min_relative_accuracy" not in names("max_drop=1 points")
    both = names("max_drop=1 points", "min_relative_accuracy=95 %")
    assert (both["max_drop"], both["min_relative_accuracy"]) == ("1 points", "95 %")


ROWS = 200
TARGETS = np.arange(ROWS) % 2
RIGHT = (np.eye(2)[TARGETS] * 4 - 2 + np.random.default_rng(0).normal(0, 0.1, (ROWS, 2))).astype(np.float32)


def flipped(count, base=RIGHT):
    logits = base.copy()
    logits[:count] = logits[:count, ::-1]
    return logits


def compared(lane, *, base=RIGHT, targets=TARGETS, name="onnx-int8", task="text-classification", **asked):
    return compare({"torch": base, name: lane}, Asked(task=task, targets=targets, **asked), reference="torch")


def judged(lane, *gates, enough=False, **asked):
    return judge(compared(lane, **asked), [parse_gate(gate) for gate in gates], require_enough_rows=enough)


def outcomes(verdict):
    return {result.gate: result.outcome.value for result in verdict.results}


def test_a_lane_that_repeats_the_reference_passes_with_a_note_where_rows_are_few():
    verdict = judged(RIGHT.copy())
    assert verdict.passed
    assert outcomes(verdict) == {
        "finite": "passed",
        "varying": "passed",
        "max_changed": "passed",  # 0 of 200 rows: at most 1.8 points
        "min_relative_accuracy": "undecided",
    }
    assert refusal(verdict, bundle="x.edge", reference="torch") is None


def test_too_few_rows_are_said_in_words_and_fail_only_where_that_is_asked():
    base = RIGHT[:40]
    verdict = judged(base.copy(), "max_changed=5 points", base=base, targets=None)
    assert verdict.passed
    (warning,) = verdict.warnings
    assert warning == (
        "onnx-int8: rows whose answer is another one: 0 of 40 rows (0.00 points; with 95 % confidence at most "
        "8.8 points); the bound is at most 5 points: at least 72 rows are needed to be sure"
    )
    strict = judged(base.copy(), "max_changed=5 points", base=base, targets=None, enough=True)
    assert not strict.passed
    error = refusal(strict, bundle="x.edge", reference="torch")
    assert (error.code, error.exit_code) == ("E0306", 3)
    assert "72 rows" in error.why


def test_the_rows_that_a_figure_says_are_needed_do_settle_it():
    rows = 72
    base = RIGHT[:rows]
    verdict = judged(base.copy(), "max_changed=5 points", base=base, targets=None)
    assert outcomes(verdict)["max_changed"] == "passed"


def test_a_missed_gate_fails_with_its_figures_in_the_error():
    verdict = judged(flipped(20))
    assert outcomes(verdict)["max_changed"] == "failed"
    assert outcomes(verdict)["min_relative_accuracy"] == "failed"
    error = refusal(verdict, bundle="x.edge", reference="torch")
    assert (error.code, error.exit_code) == ("E0302", 3)
    assert "20 of 200 rows (10.00 points" in error.why
    assert "90.00 %" in error.why


@pytest.mark.parametrize(("count", "outcome"), [(10, "undecided"), (11, "failed")])
def test_the_bound_is_included(count, outcome):
    assert outcomes(judged(flipped(count)))["max_changed"] == outcome


def test_a_value_on_its_bound_needs_no_number_of_rows():
    verdict = judged(flipped(10))
    assert any("no number of rows" in warning for warning in verdict.warnings)


def test_nan_and_collapse_fail_whatever_the_gates():
    generous = ("max_changed=100 points", "max_drop=100 points")
    broken = RIGHT.copy()
    broken[3, 1] = math.nan
    assert outcomes(judged(broken, *generous))["finite"] == "failed"
    assert outcomes(judged(np.ones_like(RIGHT), *generous))["varying"] == "failed"
    assert not judged(broken, *generous).passed


def test_nan_fails_a_bound_on_numbers():
    base = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    broken = base.copy()
    broken[0, 0] = math.nan
    found = outcomes(judged(broken, "min_sqnr=-20 dB", base=base, targets=None, task="tensors"))
    assert (found["min_sqnr"], found["min_cosine"]) == ("failed", "failed")


def test_a_float_lane_repeats_a_float_reference_to_60_db():
    noise = np.random.default_rng(0).standard_normal(RIGHT.shape).astype(np.float32)
    for size, outcome in ((1e-4, "passed"), (1e-2, "failed")):
        found = outcomes(judged(RIGHT + size * noise, name="onnx-fp32"))
        assert found["min_float_sqnr"] == outcome
    found = outcomes(judged(RIGHT + 1e-2 * noise, name="arm/onnx", precisions={"arm/onnx": "float32"}))
    assert found["min_float_sqnr"] == "failed"
    assert "min_float_sqnr" not in outcomes(judged(RIGHT + 1e-2 * noise))  # int8
    for name in ("onnx-fp32", "onnx-int8"):
        against_int8 = judged(RIGHT + 1e-2 * noise, name=name, precisions={"torch": "int8"})
        assert "min_float_sqnr" not in outcomes(against_int8)


def test_an_asked_gate_that_cannot_be_measured_is_an_error_and_a_default_is_left_out():
    assert "min_relative_accuracy" not in outcomes(judged(RIGHT.copy(), targets=None))
    with pytest.raises(UsageError, match="accuracy lost") as caught:
        judged(RIGHT.copy(), "max_drop=1 points", targets=None)
    assert caught.value.code == "E0167"
    assert "no labels" in caught.value.why
    with pytest.raises(UsageError, match="nearest"):
        judged(RIGHT.copy(), "min_overlap_1=0.9 fraction")
    with pytest.raises(UsageError, match="float32 lanes"):  # only an int8 lane was compared
        judged(RIGHT.copy(), "min_float_sqnr=60 dB")
    assert judged(RIGHT.copy(), "min_float_sqnr=60 dB", name="onnx-fp32").passed


def test_a_reference_alone_is_told_to_be_no_comparison():
    alone = compare({"torch": RIGHT}, Asked(task="text-classification"), reference="torch")
    verdict = judge(alone, [parse_gate("max_changed=0 points")])
    assert verdict.results == ()
    assert "nothing was compared" in sentences(alone, verdict)[-1]
    broken = compare({"torch": RIGHT * np.nan}, Asked(task="text-classification"), reference="torch")
    assert not judge(broken).passed


def test_agreement_with_an_int8_reference_is_noted_to_say_nothing_about_float():
    words = "torch is int8 itself: to agree with it says nothing about float32"
    assert words in judged(RIGHT.copy(), precisions={"torch": "int8", "onnx-int8": "int8"}).warnings
    assert words not in judged(RIGHT.copy()).warnings


def test_a_bound_in_logits_does_not_hold_for_other_outputs():
    with pytest.raises(UsageError) as caught:
        judged(RIGHT.copy(), "max_difference=1 logits", targets=None, task="tensors")
    assert caught.value.code == "E0165"
    found = outcomes(judged(RIGHT + np.float32(0.5), "max_difference=0.6 units"))
    assert found["max_difference"] == "passed"


def faults(base, *, targets=TARGETS):
    verdict = judged(base.copy(), base=base, targets=targets)
    if verdict.reference_faults:
        assert not verdict.passed
        error = refusal(verdict, bundle="x.edge", reference="torch")
        assert (error.code, error.exit_code) == ("E0305", 3)
    return " ".join(verdict.reference_faults)


def test_a_reference_at_chance_lets_nothing_pass():
    rng = np.random.default_rng(0)
    assert "chance alone gives 0.5" in faults(rng.normal(size=(ROWS, 2)).astype(np.float32))
    assert faults(RIGHT) == ""
    # Nine of ten rows have class 0: to answer 0 always is right on 90 %, and is chance.
    rare = (np.arange(ROWS) % 10 == 0).astype(int)
    always = np.stack([np.linspace(1, 2, ROWS), np.zeros(ROWS)], 1).astype(np.float32)
    assert "0.9000" in faults(always, targets=rare)
    knows = (np.eye(2)[rare] * np.linspace(1, 2, ROWS)[:, None]).astype(np.float32)
    assert faults(knows, targets=rare) == ""


def test_a_reference_below_chance_is_told_from_one_at_chance():
    assert "are the labels in another order?" in faults(RIGHT[:, ::-1].copy())
    assert "right on none" in faults(RIGHT[:, ::-1].copy(), targets=np.full(ROWS, 5))


def test_a_reference_with_nan_or_one_answer_lets_nothing_pass():
    broken = RIGHT.copy()
    broken[0, 0] = math.nan
    assert "NaN" in faults(broken)
    for targets in (TARGETS, None):
        assert "same answer" in faults(np.ones_like(RIGHT), targets=targets)
    assert "NaN" in faults(np.full((5, 3), np.nan, np.float32), targets=None)


def test_four_rows_cannot_show_that_a_reference_is_no_chance_and_so_it_is_a_warning():
    verdict = judged(RIGHT[:4].copy(), base=RIGHT[:4], targets=TARGETS[:4])
    assert verdict.reference_faults == ()
    assert any("so few rows" in warning for warning in verdict.warnings)
    wrong = judged(RIGHT[:4].copy(), base=RIGHT[:4], targets=1 - TARGETS[:4])
    assert wrong.reference_faults


@pytest.mark.parametrize("lane", [RIGHT.copy(), flipped(20), np.full_like(RIGHT, np.nan)])
def test_a_verdict_survives_json(lane):
    verdict = judged(lane)
    back = Verdict.from_json(json.loads(json.dumps(verdict.as_json(), allow_nan=False)))
    assert repr(back) == repr(verdict)
    assert verdict.as_json()["passed"] is verdict.passed
    with pytest.raises(ValueError, match="schema"):
        Verdict.from_json({**verdict.as_json(), "schema": 0})


def test_the_words_give_the_verdict_first_then_what_failed_and_the_worst_slice():
    lane = RIGHT.copy()
    lane[1:41:2] = lane[1:41:2, ::-1]  # twenty rows, all of class 1
    comparison = compared(lane, names=("bad", "good"))
    verdict = judge(comparison)
    lines = sentences(comparison, verdict)
    assert lines[0] == "failed: 1 lane against torch on 200 rows, 2 of 4 gates missed"
    assert any(line.startswith("onnx-int8: rows whose answer is another one: 20 of 200") for line in lines)
    assert any("worst slice: class good, 100 rows, 20 changed" in line for line in lines)
    assert any("accuracy 0.9000, +10.00 points lost" in line and "more than chance" in line for line in lines)
    assert not any("stand out" in line for line in lines)
    both = compare({"torch": RIGHT, "a": lane, "b": RIGHT.copy()}, Asked(task="text-classification"), reference="torch")
    assert sentences(both, judge(both))[0].startswith("failed: 1 of 2 lanes against torch")
    lane[[0, 2, 5]] = lane[[0, 2, 5], ::-1]
    lane[1:41:2] = RIGHT[1:41:2]
    few = compared(lane)
    assert any("which does not stand out" in line for line in sentences(few, judge(few)))
    passed = compared(RIGHT.copy())
    assert sentences(passed, judge(passed))[0] == "passed: 1 lane against torch on 200 rows, 4 gates"


def test_words_name_a_bad_reference():
    comparison = compared(RIGHT.copy(), base=np.ones_like(RIGHT))
    lines = sentences(comparison, judge(comparison))
    assert lines[0].startswith("failed")
    assert any("the reference torch is itself bad" in line for line in lines)


def test_an_outcome_is_one_of_three():
    assert {each.value for each in Outcome} == {"passed", "failed", "undecided"}
