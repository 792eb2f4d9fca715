"""Mixed precision: the sweep names the layer that hurts, and the search relaxes no more than it must."""

from dataclasses import replace

import pytest
import tiny_networks
from test_quantize_plan import STATIC, loud_model

from edgekit_converters.quantize.measure import as_rows, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.search import relax, sensitivity
from edgekit_runtime.errors import QualityError
from edgekit_runtime.statistics import sqnr_db


@pytest.fixture(scope="module")
def naive():
    graph = tiny_networks.traced(loud_model())
    rows = as_rows(graph, tiny_networks.text_feeds(8, seed=1), trim=True)
    made = Planner(mode=STATIC, whole_network=False, techniques=False).make(graph, rows)
    return made.graph, made.plan, rows


def score(graph, plan, rows) -> float:
    return sqnr_db(outputs(graph, rows), simulate(graph, plan, rows))


def test_sweep_puts_the_layer_with_the_outlier_first(naive) -> None:
    graph, plan, rows = naive
    found = sensitivity(graph, plan, rows)
    assert len(found) == sum(layer.mode is not Mode.FLOAT for layer in plan.layers)
    assert {one.layer.rpartition(".")[2] for one in found[:2]} <= {"ffn_in", "ffn_out"}
    assert [one.sqnr_db for one in found] == sorted(one.sqnr_db for one in found)
    assert all(0 <= one.changed <= 1 for one in found)


def test_plan_that_meets_the_bound_is_left_alone(naive) -> None:
    graph, plan, rows = naive
    assert relax(graph, plan, rows, min_sqnr_db=1.0).plan is plan


def test_search_relaxes_the_fewest_layers_that_are_enough(naive) -> None:
    graph, plan, rows = naive
    bound = score(graph, plan, rows) + 3
    found = relax(graph, plan, rows, min_sqnr_db=bound)
    assert score(graph, found.plan, rows) == pytest.approx(found.sqnr_db)
    assert found.sqnr_db >= bound
    assert 0 < len(found.relaxed) < 12
    changed = [layer for layer, old in zip(found.plan.layers, plan.layers, strict=True) if layer != old]
    assert sorted(layer.name for layer in changed) == sorted(found.relaxed)
    assert all("accuracy" in layer.why for layer in changed)
    one_less = found.relaxed[:-1]
    kept = {layer.name: layer for layer in plan.layers}
    fewer = replace(
        found.plan,
        layers=tuple(one if one.name in one_less else kept[one.name] for one in found.plan.layers),
    )
    assert score(graph, fewer, rows) < bound


def test_float_is_the_last_resort(naive) -> None:
    graph, plan, rows = naive
    all_dynamic = relax(graph, plan, rows, min_sqnr_db=score(graph, plan, rows) + 3)
    found = relax(graph, plan, rows, min_sqnr_db=all_dynamic.sqnr_db + 12)
    assert Mode.FLOAT in {layer.mode for layer in found.plan.layers if layer.name in found.relaxed}


def test_bound_out_of_reach_is_refused_and_so_is_any_relaxing_under_all_int8(naive) -> None:
    graph, plan, rows = naive
    with pytest.raises(QualityError) as caught:
        relax(graph, plan, rows, min_sqnr_db=500.0)
    assert caught.value.code == "E0303"
    with pytest.raises(QualityError, match="best has") as refused:
        relax(graph, plan, rows, min_sqnr_db=score(graph, plan, rows) + 3, all_int8=True)
    assert "must stay int8" in refused.value.why
