"""Calibration as a build runs it: rows, range methods, resumption, held-out rows, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
import torch
from pair_network import ends, feeds
from torch import nn

from edgekit.pipeline import Kind
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.calibration import rows as rows_module
from edgekit_converters.quantize.calibration import run as run_module
from edgekit_converters.quantize.calibration.held_out import hold_out
from edgekit_converters.quantize.calibration.rows import RemadeRows, rows_digest, without
from edgekit_converters.quantize.graph import layers, trace
from edgekit_converters.quantize.measure import Checkpoint, as_rows, measure
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.stage import PlanQuantisation, calibration_rows, held_out_rows, read_plan
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.errors import ConversionError, UsageError

METHODS = ("minmax", "percentile", "entropy", "mse")
STATIC = layer_mode(Task.TEXT_CLASSIFICATION, QuantizeSpec(ffn_output="static"))


def test_ranges_and_peaks_are_those_of_the_values_by_hand(pair) -> None:
    rows = as_rows(pair, feeds([1, -2, 0, 0], [0, 0, 3, -0.5]), trim=False)
    found = measure(pair, rows)
    assert ends(found)["x"] == ends(found)["linear"] == (-2.0, 3.0)
    assert found["x"].peaks.tolist() == [1.0, 2.0, 3.0, 0.5]
    assert ends(found)["gelu"] == pytest.approx((-0.15428, 2.99595), abs=1e-4)  # -0.5 * 0.30854; 3 * 0.99865


def test_peaks_of_a_convolution_are_counted_by_channel() -> None:
    graph = tiny_networks.traced(tiny_networks.image_classifier())
    images = tiny_networks.image_feeds(3)
    found = measure(graph, as_rows(graph, images, trim=False))
    first = next(str(node.args[0]) for _, kind, node in layers(graph) if kind == "conv")
    whole = max(float(np.abs(row["image"]).max()) for row in images)
    assert found[first].peaks.tolist() == pytest.approx([whole])  # one grey channel, whatever the width


def test_only_layers_with_a_grid_are_watched(pair) -> None:
    rows = as_rows(pair, feeds([1, 2, 3, 4]), trim=False)
    found = measure(pair, rows, gridded=lambda name: name == "second", peaks=False)
    assert sorted(found) == ["gelu", "linear_1"]
    assert len(found["gelu"].peaks) == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_plan_and_the_plan_says_which(text, method) -> None:
    graph, rows = text
    planner = Planner(mode=STATIC, whole_network=False, techniques=False, ranges=method)
    plan = planner.make(graph, rows).plan
    assert plan.ranges == method
    assert json.loads(plan.to_json())["ranges"] == method
    widest = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, rows).plan
    for layer, other in zip(plan.layers, widest.layers, strict=True):
        if layer.input is not None:
            assert other.input.low <= layer.input.low <= layer.input.high <= other.input.high
    # 99.99 % of 5,000 values leaves none outside.
    assert (plan.layers == widest.layers) is (method in ("minmax", "percentile"))


def test_percentile_in_the_graph_is_that_of_all_values_of_all_rows() -> None:
    """40,000 values: 99.99 % leaves one at either end outside, to a bin of 1/2048 of the span or more."""
    graph = trace(nn.Sequential(nn.Linear(400, 2)).eval(), (torch.ones(1, 400),))
    (name,) = (node.name for node in graph.graph.nodes if node.op == "placeholder")
    values = np.random.default_rng(0).normal(size=(100, 400)).astype(np.float32)
    rows = as_rows(graph, [{"input": row[None]} for row in values], trim=False)  # as nn.Sequential calls it
    ordered = np.sort(values.ravel())
    low, high = ends(measure(graph, rows, ranges="percentile", peaks=False))[name]
    assert (low, high) == pytest.approx((ordered[1], ordered[-2]), abs=float(ordered[-1] - ordered[0]) / 2048)
    assert high < ordered[-1]


def test_clipping_ranges_are_kept_only_where_they_help(text) -> None:
    graph, rows = text
    for method in ("percentile", "mse"):
        made = Planner(mode=STATIC, whole_network=False, ranges=method).make(graph, rows).plan
        (row,) = (row for row in made.techniques if row.name == f"{method} ranges")
        assert row.kept == (row.sqnr_after_db > row.sqnr_before_db + 0.1)
        assert made.ranges == (method if row.kept else "minmax")


# Rows that are made anew.


def test_rows_made_anew_plan_like_rows_in_memory_and_are_not_held(text, monkeypatch) -> None:
    graph, rows = text
    monkeypatch.setattr(rows_module, "_KEPT_BYTES", 0)
    passes = []

    def make():
        passes.append(1)
        return iter(tiny_networks.text_feeds(24, seed=1))

    anew = as_rows(graph, make, trim=True)
    assert isinstance(anew, RemadeRows)
    planner = Planner(mode=STATIC, whole_network=False, techniques=False)
    assert planner.make(graph, anew).plan == planner.make(graph, rows).plan
    assert len(passes) >= 3  # to count, to judge, to measure
    assert [len(row[0][0]) for row in anew[3:9:2]] == [len(rows[i][0][0]) for i in (3, 5, 7)]
    assert torch.equal(anew[-1][0], rows[23][0])


def test_small_sets_are_made_once(text) -> None:
    graph, _ = text
    passes = []

    def make():
        passes.append(1)
        return tiny_networks.text_feeds(6)

    rows = as_rows(graph, make, trim=True)
    assert len(rows) == 6
    measure(graph, rows)
    assert rows_digest(graph, rows) == rows_digest(graph, list(rows))
    assert len(passes) == 1


def test_an_iterator_that_is_used_up_is_refused(text, monkeypatch) -> None:
    graph, _ = text
    monkeypatch.setattr(rows_module, "_KEPT_BYTES", 0)
    once = iter(tiny_networks.text_feeds(4))
    rows = as_rows(graph, lambda: once, trim=True)
    assert len(rows) == 4
    with pytest.raises(ConversionError, match="4 rows on the first pass and 0") as caught:
        measure(graph, rows)
    assert caught.value.code == "E0737"


def test_digest_tells_rows_apart(pair) -> None:
    digests = {
        rows_digest(pair, as_rows(pair, feeds(*values), trim=False))
        for values in ([[1, 2, 3, 4]], [[1, 2, 3, 5]], [[1, 2, 3, 4], [1, 2, 3, 4]], [[4, 3, 2, 1]])
    }
    assert len(digests) == 4


def test_rows_that_decide_are_not_among_the_rows_that_are_fitted(text, monkeypatch) -> None:
    graph, rows = text
    monkeypatch.setattr(rows_module, "_KEPT_BYTES", 0)
    anew = as_rows(graph, lambda: tiny_networks.text_feeds(24, seed=1), trim=True)
    for given in (rows, anew):
        rest = without(given, range(0, 24, 8))
        assert isinstance(rest, RemadeRows) is (given is anew)
        assert len(rest) == 21
        wanted = [rows[place] for place in range(24) if place % 8]
        assert all(torch.equal(one[0], other[0]) for one, other in zip(rest, wanted, strict=True))


# Killed and resumed.


class Killed(BaseException):
    """Like a signal: nothing catches it."""


def killed_after(count: int, rows):
    """The same rows; the process dies when it asks for one more than ``count``."""

    class Dying(type(rows)):
        def __iter__(self):
            for number, row in enumerate(list.__iter__(self)):
                if number == count:
                    raise Killed
                yield row

    return Dying(rows)


@pytest.mark.parametrize("method", METHODS)
def test_killed_calibration_goes_on_and_ends_the_same_to_the_bit(text, method, tmp_path, monkeypatch) -> None:
    graph, rows = text
    whole = measure(graph, rows, ranges=method)
    checkpoint = Checkpoint(folder=tmp_path / "states", every_s=0.0)
    monkeypatch.setattr(run_module, "rows_digest", lambda _, given: rows_digest(graph, list(list.__iter__(given))))
    with pytest.raises(Killed):
        measure(graph, killed_after(9, rows), ranges=method, resume=checkpoint)
    ran = []
    real = run_module.watch
    monkeypatch.setattr(
        run_module, "watch", lambda graph, rows, *rest: (ran.append(n) or n for n in real(graph, rows, *rest))
    )
    again = measure(graph, rows, ranges=method, resume=checkpoint)
    assert len(ran) == 24 - 9
    assert ends(again) == ends(whole)
    assert all(torch.equal(again[name].peaks, whole[name].peaks) for name in whole)
    ran.clear()
    assert ends(measure(graph, rows, ranges=method, resume=checkpoint)) == ends(whole)
    assert ran == []  # the finished state is there


@pytest.mark.parametrize("change", ["rows", "weights", "method", "damage"])
def test_state_of_something_else_is_not_gone_on_from(text, change, tmp_path) -> None:
    graph, rows = text[0], text[1][:6]
    checkpoint = Checkpoint(folder=tmp_path, every_s=0.0)
    measure(graph, rows, ranges="percentile", resume=checkpoint)
    method = "percentile"
    if change == "rows":
        rows = rows[1:]
    elif change == "weights":
        graph = tiny_networks.traced(tiny_networks.text_classifier(scale=0.2, seed=5))
    elif change == "method":
        method = "entropy"
    else:
        (state,) = tmp_path.iterdir()
        state.write_bytes(state.read_bytes()[:-100])
    assert ends(measure(graph, rows, ranges=method, resume=checkpoint)) == ends(measure(graph, rows, ranges=method))


def test_quick_calibration_writes_no_state(text, tmp_path) -> None:
    graph, rows = text
    measure(graph, rows, resume=Checkpoint(folder=tmp_path / "states"))
    assert not (tmp_path / "states").exists()


def test_rows_that_cannot_be_read_twice_cannot_be_resumed(text, tmp_path) -> None:
    graph, rows = text
    with pytest.raises(UsageError) as caught:
        measure(graph, iter(rows), resume=Checkpoint(folder=tmp_path))
    assert caught.value.code == "E0134"


# Held-out rows.


def test_tensor_that_several_layers_read_is_named_after_the_first(text) -> None:
    graph, rows = text
    made = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, rows)
    names = [one.name for one in hold_out(made.graph, made.plan, rows[:2]).report.tensors]
    assert "layers.0.attention.query input" in names
    assert "layers.0.attention.key input" not in names
    assert {"layers.0.attention.query output", "layers.0.attention.key output"} <= set(names)


def test_clipped_share_of_held_out_rows_by_hand(pair) -> None:
    plan = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False).make(
        pair, as_rows(pair, feeds([-1, 0, 1, 2]), trim=False)
    )
    held = hold_out(plan.graph, plan.plan, as_rows(pair, feeds([-1, 0, 1, 2], [-1.5, 0, 1, 6]), trim=False))
    assert held.rows == 2
    by_name = {one.name: one for one in held.report.tensors}
    assert list(by_name) == ["first input", "first output", "second input", "second output"]
    first = by_name["first input"]
    assert (first.values, first.below, first.above) == (8, 1, 1)
    assert first.overshoot == pytest.approx(4 / 3)  # 6 lies 4 above a range 3 wide
    assert by_name["second input"].fraction_clipped == 1 / 8  # GELU(6); GELU(-1.5) is above GELU(-1)
    assert by_name["second output"].fraction_clipped == 0.0
    assert held.line() == "at most 25.00% clipped (first input) on 2 held-out rows"


def test_what_a_gelu_turns_to_zero_is_not_called_clipped(pair) -> None:
    plan = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False).make(
        pair, as_rows(pair, feeds([-9, 0, 1, 2]), trim=False)
    )
    assert plan.plan.layer("first").output.low == -4.0
    held = hold_out(plan.graph, plan.plan, as_rows(pair, feeds([-20, 0, 1, 2]), trim=False))
    by_name = {one.name: one for one in held.report.tensors}
    assert by_name["first input"].below == 1
    assert by_name["first output"].below == 0


def test_held_out_rows_are_training_rows_that_were_not_calibrated_on(tmp_path: Path) -> None:
    artifacts = stage_artifacts(tmp_path)
    data = read_dataset(artifacts[Kind.DATA].path)
    train, calibrated, held = (
        {np.asarray(image).tobytes() for image in images}
        for images in (
            data.train.images,
            [np.rint(row["image"][0] * 255).astype(np.uint8) for row in calibration_rows(artifacts, count=10, seed=3)],
            [np.rint(row["image"][0] * 255).astype(np.uint8) for row in held_out_rows(artifacts, count=10, seed=3)],
        )
    )
    assert held
    assert not held & calibrated
    assert held | calibrated == train  # 24 rows: fewer than 32 are left
    assert list(held_out_rows(artifacts, count=24, seed=3)) == []


def stage_artifacts(folder: Path):
    artifacts = tiny_networks.data_artifact(Task.IMAGE_CLASSIFICATION, folder / "data")
    for kind in (Kind.TEACHER, Kind.STUDENT_PRUNED):
        made = tiny_networks.write_teacher(folder / kind.value, task=Task.IMAGE_CLASSIFICATION)
        artifacts[kind] = tiny_networks.artifact(kind, made)
    return artifacts


def test_stage_writes_coverage_and_says_the_worst(tmp_path: Path) -> None:
    artifacts = stage_artifacts(tmp_path)
    how = QuantizeSpec(calibration_rows=2, ranges="percentile", techniques=False)
    stage = PlanQuantisation(task=Task.IMAGE_CLASSIFICATION, how=how, seed=0, states=tmp_path / "states")
    into = tmp_path / "plan"
    into.mkdir()
    note = stage.run(artifacts, into)
    held = json.loads((into / "coverage.json").read_text(encoding="utf-8"))
    assert held["rows"] == 22
    worst = {one["name"]: one["fraction_below"] + one["fraction_above"] for one in held["tensors"]}[held["worst"][0]]
    assert worst > 0
    assert f"at most {worst:.2%} clipped ({held['worst'][0]}) on 22 held-out rows" in note
    plan = read_plan({**artifacts, Kind.QUANT_PLAN: tiny_networks.artifact(Kind.QUANT_PLAN, into)})
    assert (plan.ranges, plan.calibration_rows, len(plan.calibration_digest)) == ("percentile", 2, 64)
    assert not any((tmp_path / "states").glob("*"))
    everything = replace(stage, how=replace(how, calibration_rows=24))
    assert "every training row was calibrated on" in everything.run(artifacts, into)
    assert json.loads((into / "coverage.json").read_text(encoding="utf-8"))["rows"] == 0


def test_killed_stage_goes_on_and_leaves_no_state_behind(tmp_path: Path, monkeypatch) -> None:
    artifacts = stage_artifacts(tmp_path)
    stage = PlanQuantisation(
        task=Task.IMAGE_CLASSIFICATION, how=QuantizeSpec(calibration_rows=8), seed=0, states=tmp_path / "states"
    )
    folders = [tmp_path / name for name in ("whole", "killed", "resumed")]
    for folder in folders:
        folder.mkdir()
    stage.run(artifacts, folders[0])
    monkeypatch.setattr(run_module.Checkpoint, "__init__", _eager(run_module.Checkpoint.__init__))
    real = run_module.save_state

    def die(path, observers, *, rows_done, fingerprint) -> None:
        real(path, observers, rows_done=rows_done, fingerprint=fingerprint)
        if rows_done == 5:
            raise Killed

    monkeypatch.setattr(run_module, "save_state", die)
    with pytest.raises(Killed):
        stage.run(artifacts, folders[1])
    assert len(list((tmp_path / "states").rglob("*.npz"))) == 1
    monkeypatch.setattr(run_module, "save_state", real)
    stage.run(artifacts, folders[2])
    assert (folders[2] / "plan.json").read_bytes() == (folders[0] / "plan.json").read_bytes()
    assert not any((tmp_path / "states").glob("*"))


def _eager(init):
    def made(self, *, folder, every_s=0.0) -> None:
        init(self, folder=folder, every_s=every_s)

    return made
