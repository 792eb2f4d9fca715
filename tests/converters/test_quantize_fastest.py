"""The fastest modes inside a bound: checked against every assignment of a small network."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny_networks
from test_quantize_plan import STATIC, loud_model

from edgekit_converters.quantize.fastest import Bound, _assigned, _hull, fastest, kept_accuracy
from edgekit_converters.quantize.measure import as_rows, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_runtime.errors import QualityError
from edgekit_runtime.statistics import sqnr_db

FREE = ("layers.0.ffn_out", "layers.0.attention.query")
MODES = (Mode.STATIC, Mode.DYNAMIC, Mode.FLOAT)
COSTS = {
    "layers.0.ffn_out": {Mode.STATIC: 1.0, Mode.DYNAMIC: 1.5, Mode.FLOAT: 4.0},
    "layers.0.attention.query": {Mode.STATIC: 2.0, Mode.DYNAMIC: 1.8, Mode.FLOAT: 0.5},
}


@pytest.fixture(scope="module")
def naive():
    graph = tiny_networks.traced(loud_model())
    rows = as_rows(graph, tiny_networks.text_feeds(4, seed=1), trim=True)
    made = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, rows)
    # All else is float, so that the noise is that of the layers which may move.
    layers = tuple(
        one if one.name in FREE else replace(one, mode=Mode.FLOAT, weight_scales=(), input=None, output=None)
        for one in made.plan.layers
    )
    return made.graph, replace(made.plan, layers=layers), rows


def score(graph, plan, rows) -> float:
    return sqnr_db(outputs(graph, rows), simulate(graph, plan, rows))


def bound(least: float) -> Bound:
    return Bound(measure=sqnr_db, least=least, unit="dB")


def modes_of(plan) -> dict[str, Mode]:
    return {name: plan.layer(name).mode for name in FREE}


def cost_of(modes) -> float:
    """Float counts as no faster than int8: it also costs size."""
    return sum(max(COSTS[n].values()) if m is Mode.FLOAT else COSTS[n][m] for n, m in modes.items())


def test_a_bound_that_does_not_bind_gives_each_layer_its_fastest_int8_mode(naive) -> None:
    found = fastest(*naive, COSTS, bound(1.0))
    assert list(modes_of(found.plan).values()) == [Mode.STATIC, Mode.DYNAMIC]
    assert found.moved == ()
    assert found.cost_ms == pytest.approx(2.8)
    assert "fastest" in found.plan.layer("layers.0.attention.query").why
    assert found.plan.layer("layers.0.attention.query").input is None


def test_no_assignment_of_all_is_faster_by_more_than_a_step_and_meets_the_bound(naive) -> None:
    graph, plan, rows = naive
    assignments = []
    for chosen in itertools.product(MODES, repeat=len(FREE)):
        modes = dict(zip(FREE, chosen, strict=True))
        alone = {name: {mode: COSTS[name][mode]} for name, mode in modes.items()}
        reached = fastest(graph, plan, rows, alone, bound(-99.0)).reached
        assignments.append((cost_of(modes), reached, modes))
    start = fastest(graph, plan, rows, COSTS, bound(-99.0)).reached
    for least in (start + 1, start + 12):
        found = fastest(graph, plan, rows, COSTS, bound(least))
        assert found.reached >= least
        assert score(graph, found.plan, rows) == pytest.approx(found.reached)
        optimum = min(cost for cost, reached, _ in assignments if reached >= least)
        # The relaxed knapsack may overshoot by its last step, never by more.
        step = max(max(costs.values()) - min(costs.values()) for costs in COSTS.values())
        assert optimum <= cost_of(modes_of(found.plan)) <= optimum + step
        assert found.moved


def test_layers_without_costs_stay_as_they_are(naive) -> None:
    _, plan, _ = naive
    found = fastest(*naive, {"layers.0.ffn_out": {Mode.DYNAMIC: 1.0, Mode.FLOAT: 2.0}}, bound(1.0))
    changed = [one.name for one, old in zip(found.plan.layers, plan.layers, strict=True) if one != old]
    assert changed == ["layers.0.ffn_out"]


def test_a_bound_out_of_reach_is_refused_and_says_what_stands_in_its_way(naive) -> None:
    with pytest.raises(QualityError) as caught:
        fastest(*naive, {"layers.0.ffn_out": {Mode.STATIC: 1.0, Mode.DYNAMIC: 2.0}}, bound(500.0))
    assert caught.value.code == "E0303"
    static = {name: {Mode.STATIC: 1.0} for name in FREE}
    with pytest.raises(QualityError, match="best has") as refused:
        fastest(*naive, static, bound(500.0))
    assert "must stay static int8" in refused.value.why
    assert "leave static" in refused.value.fix


def test_steps_follow_the_lower_hull() -> None:
    # (ms, noise): from the cheapest point the steepest way down; the point at (2, 9) lies above the line to (3, 2).
    points = [(1.0, 10.0, Mode.STATIC), (2.0, 9.0, Mode.DYNAMIC), (3.0, 2.0, Mode.FLOAT)]
    (step,) = _hull("a", points)
    assert (step.mode, step.price) == (Mode.FLOAT, pytest.approx(0.25))
    points[1] = (2.0, 3.0, Mode.DYNAMIC)
    first, second = _hull("a", points)
    assert (first.mode, first.price) == (Mode.DYNAMIC, pytest.approx(1 / 7))
    assert (second.mode, second.price) == (Mode.FLOAT, pytest.approx(1.0))


def test_kept_accuracy_counts_points_of_right_rows() -> None:
    targets = np.array([0, 1, 1, 0])
    right, two_wrong = np.eye(2)[targets], np.eye(2)[[1, 1, 0, 0]]
    assert kept_accuracy(targets)(right, two_wrong) == -50.0
    assert kept_accuracy(targets)(two_wrong, right) == 50.0
    assert kept_accuracy(targets)(right, np.full_like(right, np.nan)) == -100.0  # NaN is wrong, never even


def test_search_within_a_drop_takes_the_cheapest_assignment_that_loses_no_more(naive) -> None:
    graph, plan, _ = naive
    rows = as_rows(graph, tiny_networks.text_feeds(192, seed=5), trim=True)
    reference = outputs(graph, rows)
    middle = reference.mean(0)  # around it many rows are near ties, which noise can tip
    targets = (reference - middle).reshape(len(rows), -1).argmax(1)  # float is right everywhere: every flip is a loss

    def kept(before, after) -> float:
        return kept_accuracy(targets)(before - middle, after - middle)

    def lost(modes) -> float:
        return -kept(reference, simulate(graph, _assigned(plan, modes), rows))

    every = [dict(zip(FREE, modes, strict=True)) for modes in itertools.product(MODES, repeat=2)]
    losses = {tuple(modes.values()): lost(modes) for modes in every}
    assert losses[Mode.STATIC, Mode.STATIC] > 0
    allowed = losses[Mode.STATIC, Mode.DYNAMIC] - 0.5  # the fastest int8 modes lose half a point too much
    limit = Bound(measure=kept, least=-allowed, unit="points")
    found = fastest(graph, plan, rows, COSTS, limit)
    assert losses[tuple(modes_of(found.plan).values())] <= allowed
    cheapest = min(cost_of(modes) for modes in every if losses[tuple(modes.values())] <= allowed)
    assert cost_of(modes_of(found.plan)) == pytest.approx(cheapest)
    assert found.reached == pytest.approx(-losses[tuple(modes_of(found.plan).values())])
