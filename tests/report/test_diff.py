"""`edgekit diff`: every planted difference is found, and equal runs have none."""

import copy
import io
import json

import numpy as np
import pytest
import tiny_bundles
from run_documents import LABELS, device_document, document, flipped, lane, lanes, reference_logits, write

from edgekit.cli import main
from edgekit.diff import answer_diff, compare_runs, diff
from edgekit.evidence_document import read_run
from edgekit.parity.readings import Reading
from edgekit_runtime.bundle import pack, verify
from edgekit_runtime.errors import BundleError, MissingError, UsageError


def runs(tmp_path, a, b):
    return [read_run(write(tmp_path / f"{name}.json", held)) for name, held in (("a", a), ("b", b))]


def found_in(tmp_path, change):
    """Give the changes of a document that ``change`` has altered, by section."""
    whole = document()
    other = copy.deepcopy(whole)
    change(other)
    found = compare_runs(*runs(tmp_path, whole, other))
    return {name: [(each.what, each.a, each.b) for each in held] for name, held in found.sections.items()}, found


def test_a_run_does_not_differ_from_itself(tmp_path):
    sections, found = found_in(tmp_path, lambda _: None)
    assert sections == {}
    assert found.same
    assert not found.decisions_differ
    assert [each.identical for each in found.answers] == [True] * 4  # the NaN of a device is the same NaN


def setter(*path):
    *way, last, value = path

    def change(content):
        for step in way:
            content = content[step]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "section", "wanted"),
    [
        (setter("bundle", "sha256", "cd" * 32), "bundle", ("sha256", "ab" * 32, "cd" * 32)),
        (setter("versions", "edgekit", "0.2.0"), "versions", ("edgekit", "0.1.0", "0.2.0")),
        (setter("versions", {}), "versions", ("edgekit", "0.1.0", "-")),
        (setter("seed", 8), "other", ("seed", "7", "8")),
        (setter("plan", 0, "mode", "static"), "other", ("mode of encoder.first", "dynamic", "static")),
        (setter("sizes", "onnx-int8", 1), "other", ("size of onnx-int8", "14,450,000 bytes", "1 bytes")),
        (setter("lanes", 1, "engine_version", "9.9"), "lane onnx-int8", ("engine version", "9.8.7", "9.9")),
        (setter("lanes", 1, "kernels", "others"), "lane onnx-int8", ("kernels", "some kernels", "others")),
        (setter("lanes", 1, "machine", "cpu", "Other"), "lane onnx-int8", ("cpu", "Desk CPU", "Other")),
        (
            setter("lanes", 1, "machine", "features", ["sse4", "vnni"]),
            "lane onnx-int8",
            ("CPU features that the other lacks", "avx2", "vnni"),
        ),
        (setter("lanes", 1, "selftest", ["outputs"]), "lane onnx-int8", ("self-test", "passed", "outputs")),
        (
            setter("lanes", 1, "cost", "cpu_ms_min", 2.5),
            "cost",
            ("onnx-int8: CPU ms, least", "1.250", "2.500 (2.000x)"),
        ),
        (
            setter("lanes", 2, "cost", "instructions_min", 24_061_728),
            "cost",
            (
                "arm:cortex-a72/tflite-int8: instructions (emulated, no latency)",
                "48,123,456",
                "24,061,728 (0.500x)",
            ),
        ),
    ],
)
def test_one_planted_difference_is_the_only_one_found(tmp_path, change, section, wanted):
    sections, found = found_in(tmp_path, change)
    assert sections == {section: [wanted]}
    assert not found.same


def test_rows_that_changed_are_named_with_both_answers(tmp_path):
    held = lanes()
    other = [held[0], lane("onnx-int8", flipped(10, 20)), *held[2:]]
    found = compare_runs(*runs(tmp_path, document(held), document(other)))
    (changed,) = [each for each in found.answers if each.lane == "onnx-int8"]
    assert [(row.row, row.a, row.b) for row in changed.changed] == [
        (11, "negative (1.000)", "positive (1.000)"),
        (20, "negative (1.000)", "positive (1.000)"),
    ]
    (share,) = [each for each in changed.measures if each.name == "changed"]
    # R's binom.test(2, 40)
    assert (share.value, share.interval) == (5.0, pytest.approx((0.6113647, 16.9196864)))
    (sqnr,) = [each for each in changed.measures if each.name == "sqnr"]
    assert sqnr.value == pytest.approx(10 * np.log10(80 / 16))  # 80 entries of 1, four off by 2
    assert found.decisions_differ


def test_verdict_and_gates_that_turned_are_told(tmp_path):
    good = document([lanes()[0], lane("onnx-int8", reference_logits())])
    bad = document([lanes()[0], lane("onnx-int8", flipped(*range(4, 16)))])
    found = compare_runs(*runs(tmp_path, good, bad))
    turned = {each.what: (each.a, each.b) for each in found.sections["verdict"]}
    assert turned["all gates"] == ("passed", "failed")
    before, after = turned["onnx-int8: max_changed"]
    assert before.startswith(("passed: 0.00 points", "undecided: 0.00 points"))
    assert after.startswith("failed: 30.00 points")


def test_one_lane_each_is_compared_whatever_the_names(tmp_path):
    a = device_document([lane("device", reference_logits())])
    b = device_document([lane("arm:cortex-a72/onnx-int8", flipped(3))])
    (answers,) = compare_runs(*runs(tmp_path, a, b)).answers
    assert answers.lane == "device / arm:cortex-a72/onnx-int8"
    assert [row.row for row in answers.changed] == [3]


def test_lanes_of_one_side_are_named(tmp_path):
    held = lanes()
    found = compare_runs(*runs(tmp_path, document(held), document(held[:3])))
    assert [(each.what, each.a, each.b) for each in found.sections["lanes"]] == [("pi.json/device", "there", "-")]
    assert "verdict" not in found.sections  # its gates are gone with it; onnx-int8 fails in both


def test_answers_to_other_rows_are_not_compared(tmp_path):
    sections, found = found_in(tmp_path, setter("rows", "sha256", "00"))
    assert {each.reason for each in found.answers} == {"they answer other rows"}
    assert found.decisions_differ  # nobody knows that they do not
    assert [what for what, _, _ in sections["rows"]] == ["sha256"]


def test_other_tensors_after_preprocessing_are_counted(tmp_path):
    held = lanes()
    moved = np.arange(40, dtype=np.float64)
    moved[[3, 7, 8]] += 1e-3
    other = lane("onnx-int8", held[1].outputs)
    object.__setattr__(other, "tensors", {"input_ids": moved})
    found = compare_runs(*runs(tmp_path, document(held), document([held[0], other, *held[2:]])))
    assert {each.lane: each.tensors for each in found.answers}["onnx-int8"] == 3
    assert not found.same


def test_exchanged_labels_are_other_answers_to_the_reader(tmp_path):
    logits = reference_logits()
    found = answer_diff("x", (logits, logits), reading=Reading.DECISIONS, labels=(LABELS, LABELS[::-1]))
    assert not found.identical


def test_answers_of_other_shapes_are_not_compared():
    logits = reference_logits()
    found = answer_diff("x", (logits, logits[:, :1]), reading=Reading.NUMBERS, labels=((), ()))
    assert found.reason == "answers have shapes (40, 2) and (40, 1)"


def test_exit_code_is_3_only_if_asked_and_only_for_other_decisions(tmp_path, capsys):
    held = lanes()
    same, slower = document(held), document(held)
    slower["lanes"][1]["cost"]["cpu_ms_min"] = 9.0
    other = document([held[0], lane("onnx-int8", flipped(1)), *held[2:]])
    a, b, c = (str(write(tmp_path / f"{n}.json", each)) for n, each in enumerate((same, slower, other)))
    assert main(["diff", a, c]) == 0
    assert main(["diff", a, b, "--exit-code"]) == 0
    assert main(["diff", a, c, "--exit-code"]) == 3
    assert main(["diff", a, a]) == 0
    assert capsys.readouterr().out.endswith("\nnothing differs\n")


def test_json_holds_what_the_text_holds(tmp_path, capsys):
    held = lanes()
    other = document([held[0], lane("onnx-int8", flipped(10, 11, 12)), *held[2:]])
    other["seed"] = 8
    paths = [str(write(tmp_path / f"{name}.json", each)) for name, each in (("a", document(held)), ("b", other))]
    assert main(["diff", *paths, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["command"], answer["kind"], answer["same"]) == (1, "diff", "evidence", False)
    assert answer["changes"]["other"] == [{"what": "seed", "a": "7", "b": "8"}]
    (changed,) = [each for each in answer["answers"] if each["changed_rows"]]
    assert changed["changed_rows"] == [{"row": 12, "a": "negative (1.000)", "b": "positive (1.000)"}]
    assert main(["diff", *paths]) == 0
    text = capsys.readouterr().out
    assert "row 12: negative (1.000) -> positive (1.000)" in text
    assert "seed  7  8" in text


def bundle(path, *, changed=(), plan=None, goldens=None):
    """Write the tiny text bundle with other members."""
    tiny_bundles.write_text_bundle(path)
    held = verify(path)
    members = {name: held.read(name) for name in held.names} | dict(changed)
    if plan is not None:
        members["plan.json"] = json.dumps({"layers": plan}).encode()
    if goldens is not None:
        members["golden.json"] = b'{"texts":["good","bad"]}'
        stream = io.BytesIO()
        np.save(stream, np.array(goldens, np.float32))
        members["golden/onnxruntime.npy"] = stream.getvalue()
    manifest = held.manifest
    data = pack(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        target=manifest.target,
        models=manifest.models,
        members=members,
    )
    path.write_bytes(data)
    return path


def planned(name, *, mode="static", scales=(0.5, 0.25), scale=0.125):
    grid = {"scale": scale, "zero_point": 3, "low": -1.0, "high": 1.0, "bits": 8}
    held = {"name": name, "kind": "linear", "mode": mode, "scheme": None, "why": "", "weight_scales": list(scales)}
    return {**held, "input": grid, "output": None}


def test_bundles_differ_in_the_layers_and_members_that_were_changed(tmp_path):
    a = bundle(tmp_path / "a.edge", plan=[planned("one"), planned("two"), planned("three")])
    b = bundle(
        tmp_path / "b.edge",
        plan=[planned("one"), planned("two", scales=(0.5, 0.3)), planned("three", mode="dynamic", scale=0.25)],
        changed={"licence.txt": b"MIT\n"},
    )
    found = diff(a, b)
    assert [(each.what, each.a, each.b) for each in found.sections["plan.json"]] == [
        ("two: weight scales", "0.25", "0.3 (channel 1, 20 %; 1 of 2 differ)"),
        ("three: mode", "static", "dynamic"),
        ("three: input grid", "scale 0.125, zero point 3, 8 bits", "scale 0.25, zero point 3, 8 bits"),
    ]
    assert {each.what for each in found.sections["members"]} == {"plan.json", "licence.txt"}
    assert [each.what for each in found.sections["bundle"]] == ["sha256"]


def test_answers_that_bundles_carry_are_compared(tmp_path):
    a = bundle(tmp_path / "a.edge", goldens=[[0, 1], [1, 0]])
    b = bundle(tmp_path / "b.edge", goldens=[[0, 1], [0, 1]])
    (answers,) = [each for each in diff(a, b).answers if each.lane == "golden answers of onnxruntime"]
    assert [(row.row, row.a, row.b) for row in answers.changed] == [(1, "negative (1.000)", "positive (1.000)")]


def test_a_bundle_does_not_differ_from_its_copy(tmp_path):
    a = bundle(tmp_path / "a.edge", plan=[planned("one")], goldens=[[0, 1], [1, 0]])
    b = bundle(tmp_path / "b.edge", plan=[planned("one")], goldens=[[0, 1], [1, 0]])
    assert diff(a, b).same


def test_mixed_missing_and_damaged_are_refused(tmp_path):
    a = bundle(tmp_path / "a.edge")
    run = write(tmp_path / "run.json", document())
    with pytest.raises(UsageError) as mixed:
        diff(a, run)
    assert mixed.value.code == "E0194"
    with pytest.raises(MissingError) as missing:
        diff(a, tmp_path / "nothing")
    assert missing.value.code == "E0689"
    data = bytearray(a.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.edge").write_bytes(data)
    with pytest.raises(BundleError):
        diff(a, tmp_path / "bad.edge")
