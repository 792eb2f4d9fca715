"""The plan: its file, its ranges; each technique changes no float answer and is kept only if it helps."""

import copy
import json

import numpy as np
import pytest
import tiny_networks
import torch
from tiny_networks import LENGTH

from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_weights, layers, load_graph, save_graph
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import as_rows, measure, outputs, simulate
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.quantize.plan import Grid, QuantPlan, grid_from
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.techniques.scale_out import scale_outputs
from edgekit_converters.quantize.techniques.smooth import smooth_norms
from edgekit_converters.quantize.techniques.split import split_outliers
from edgekit_runtime.errors import ConversionError, UsageError
from edgekit_runtime.statistics import sqnr_db

STATIC = layer_mode(Task.TEXT_CLASSIFICATION, QuantizeSpec(ffn_output="static"))


def loud_model():
    """A transformer with what breaks static int8: a loud neuron, and a residual channel that it writes to."""
    model = tiny_networks.text_classifier(scale=0.15)
    for layer in model.layers:
        layer.ffn_in.bias.data[3] = 40.0
        layer.ffn_out.weight.data[5, 3] = 4.0
        layer.attention_norm.weight.data[2] *= 20
        layer.ffn_in.weight.data[:, 2] /= 20
    return model


@pytest.fixture(scope="module")
def loud():
    graph = tiny_networks.traced(loud_model())
    return graph, as_rows(graph, tiny_networks.text_feeds(24, seed=1), trim=True)


def test_plan_reads_back_from_its_file(loud) -> None:
    plan = Planner(mode=STATIC, whole_network=False).make(*loud).plan
    again = QuantPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest
    assert plan.calibration_rows == 24
    assert all(layer.why for layer in plan.layers)


@pytest.mark.parametrize("change", [{"version": 99}, {"layers": None}, {"stranger": 1}])
def test_plan_of_another_form_is_refused(loud, change) -> None:
    text = Planner(mode=STATIC, whole_network=False, techniques=False).make(*loud).plan.to_json()
    with pytest.raises(ConversionError) as caught:
        QuantPlan.from_json(json.dumps({**json.loads(text), **change}))
    assert caught.value.code == "E0767"


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"zero_point": 200}, {"low": 2.0}])
def test_impossible_grid_is_refused(wrong) -> None:
    with pytest.raises(ConversionError) as caught:
        Grid(**{"low": -1.0, "high": 1.0, "scale": 0.1, "zero_point": 0, **wrong})
    assert caught.value.code == "E0766"


def test_grid_by_hand_and_its_limits() -> None:
    """-1 to 3 in 255 steps: a step is 4/255, zero lies a quarter up: -128 + 63.75 -> -64."""
    grid = grid_from(Range(-1.0, 3.0))
    assert grid.scale == np.float32(4 / 255)
    assert grid.zero_point == -64
    low, high = grid.limits
    assert np.float32((high - low) / 255) == np.float32(grid.scale)


def test_ranges_are_the_true_minimum_and_maximum() -> None:
    graph = tiny_networks.traced(tiny_networks.image_classifier())
    feeds = tiny_networks.image_feeds(6, seed=2)
    feeds[3]["image"][0, 0, 0, 0] = 50.0  # one large value in one row
    plan = Planner(mode=lambda _: Mode.STATIC, whole_network=True).make(graph, as_rows(graph, feeds, trim=False)).plan
    images = np.concatenate([row["image"] for row in feeds])
    first = plan.layers[0].input
    assert (first.low, first.high) == (float(images.min()), 50.0)


def test_padding_moves_no_range(loud) -> None:
    graph, _ = loud
    feeds = tiny_networks.text_feeds(8, seed=2)
    other = [{name: value.copy() for name, value in row.items()} for row in feeds]
    for row in other:
        row["input_ids"][row["attention_mask"] == 0] = 7
    plans = [
        Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, as_rows(graph, rows, trim=True)).plan
        for rows in (feeds, other)
    ]
    assert plans[0] == plans[1]
    for row in other:
        row["attention_mask"][:] = 1
    moved = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, as_rows(graph, other, trim=True))
    assert moved.plan.layers != plans[0].layers


def test_no_rows_and_values_that_are_not_finite_are_refused() -> None:
    graph = tiny_networks.traced(tiny_networks.image_classifier())
    planner = Planner(mode=lambda _: Mode.STATIC, whole_network=True)
    with pytest.raises(UsageError) as caught:
        planner.make(graph, [])
    assert caught.value.code == "E0133"
    feeds = tiny_networks.image_feeds(3)
    feeds[1]["image"][0, 2, 2, 0] = np.nan
    with pytest.raises(ConversionError) as refused:
        planner.make(graph, as_rows(graph, feeds, trim=False))
    assert refused.value.code == "E0740"


@pytest.mark.parametrize("technique", [smooth_norms, split_outliers, scale_outputs], ids=lambda f: f.__name__)
def test_technique_leaves_float_answers_alone(loud, technique) -> None:
    graph, rows = loud
    changed = copy.deepcopy(graph)
    assert technique(changed, measure(changed, rows)) > 0
    np.testing.assert_allclose(outputs(changed, rows), outputs(graph, rows), rtol=0, atol=1e-4)
    assert any(
        name not in layer_weights(graph) or not np.array_equal(weight, layer_weights(graph)[name])
        for name, weight in layer_weights(changed).items()
    )


def test_separate_norms_leave_float_answers_alone(loud) -> None:
    graph, rows = loud
    np.testing.assert_allclose(outputs(separate_affine(graph), rows), outputs(graph, rows), rtol=0, atol=1e-5)
    norms = [node for node in separate_affine(graph).graph.nodes if node.target is torch.ops.aten.layer_norm.default]
    assert len(norms) == 5
    assert {node.args[2] for node in norms} == {None}


def test_smoothing_evens_the_channels_of_a_norm(loud) -> None:
    graph, rows = loud
    changed = copy.deepcopy(graph)
    before = measure(changed, rows)
    smooth_norms(changed, before)
    after = measure(changed, rows)
    name = next(str(node.args[0]) for name, _, node in layers(graph) if name == "layers.0.ffn_in")
    spread = [float(seen[name].peaks.max() / seen[name].peaks.median()) for seen in (before, after)]
    assert spread[1] < 0.6 * spread[0]


def test_split_gives_the_loud_neuron_a_grid_of_its_own(loud) -> None:
    graph, rows = loud
    changed = copy.deepcopy(graph)
    split_outliers(changed, measure(changed, rows), channels=2)
    plan = Planner(mode=STATIC, whole_network=False, techniques=False).make(changed, rows).plan
    loud_part, quiet = plan.layer("layers.0.ffn_out.loud").input, plan.layer("layers.0.ffn_out.quiet").input
    assert loud_part.high > 30
    assert quiet.high < 10
    shapes = {name: weight.shape for name, weight in layer_weights(changed).items() if name.startswith("layers.0.ffn")}
    assert shapes["layers.0.ffn_in.loud"] == (2, 32)
    assert shapes["layers.0.ffn_out.quiet"] == (32, 46)


def test_techniques_are_kept_only_where_they_improve_the_simulated_model(loud) -> None:
    graph, rows = loud
    naive = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, rows)
    tuned = Planner(mode=STATIC, whole_network=False).make(graph, rows)
    reference = outputs(graph, rows)
    before = sqnr_db(reference, simulate(naive.graph, naive.plan, rows))
    after = sqnr_db(reference, simulate(tuned.graph, tuned.plan, rows))
    assert after > before + 3
    assert any(technique.kept for technique in tuned.plan.techniques)
    for technique in tuned.plan.techniques:
        assert technique.kept == (technique.sqnr_after_db > technique.sqnr_before_db + 0.1)


@pytest.mark.parametrize(("rows", "judged"), [(1, 1), (2, 1), (7, 4), (256, 128), (1000, 128)])
def test_no_more_than_half_of_the_rows_judge_and_they_are_spread(rows, judged) -> None:
    chosen = Planner(mode=STATIC, whole_network=False).judged([(torch.tensor(i),) for i in range(rows)])
    places = [int(row[0]) for row in chosen]
    assert len(places) == judged
    assert max(places) >= 0.8 * rows - 2  # 128 steps of 7 end at 889


def test_technique_that_hurts_is_left_out(loud, monkeypatch) -> None:
    from edgekit_converters.quantize import planner

    def spoil(graph, seen) -> int:
        """Scale one channel up and back down: right in float, bad for a shared grid."""
        return smooth_norms(graph, _distorted(seen), alpha=1.0)

    monkeypatch.setattr(planner, "_REWRITES", (("spoil", "none", spoil),))
    monkeypatch.setattr(planner, "_REFINEMENTS", ())
    made = Planner(mode=STATIC, whole_network=False).make(*loud)
    assert [technique.kept for technique in made.plan.techniques] == [False]
    for name, weight in layer_weights(made.graph).items():
        np.testing.assert_array_equal(weight, layer_weights(loud[0])[name])


def _distorted(seen):
    changed = copy.deepcopy(seen)
    for measured in changed.values():
        measured.peaks[0] *= 1e-3  # pretends that channel 0 is silent, so it is blown up
    return changed


def test_graph_reads_back_with_its_layers(loud, tmp_path) -> None:
    graph, rows = loud
    example = (torch.ones(1, LENGTH, dtype=torch.int32), torch.ones(1, LENGTH, dtype=torch.int32))
    save_graph(graph, example, tmp_path)
    again = load_graph(tmp_path)
    assert [row[:2] for row in layers(again)] == [row[:2] for row in layers(graph)]
    padded = as_rows(graph, tiny_networks.text_feeds(24, seed=1), trim=False)
    np.testing.assert_allclose(outputs(again, padded), outputs(graph, rows), atol=1e-5)
