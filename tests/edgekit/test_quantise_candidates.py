"""Which plans a ready model gets, and which of them wins."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.parity.closeness import Closeness, Limits
from edgekit.quantise_only.quantise import _best, _Tried
from edgekit.quantise_only.stages import candidate_modes
from edgekit_converters.quantize.cost import layer_costs
from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner


class Block(nn.Module):
    """A feed-forward block on a sequence, and a head on what is left of it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.classifier = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.down(nn.functional.gelu(self.up(x))).mean(1))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return trace(Block().eval(), (torch.ones(1, 4, 8),))


def test_a_transformer_gets_three_plans_and_the_layer_behind_its_gelu_is_the_mixed_one(graph) -> None:
    modes = candidate_modes(graph, all_int8=False)
    chosen = {name: [mode(path) for path in ("up", "down", "classifier")] for name, mode in modes.items()}
    static, dynamic = Mode.STATIC, Mode.DYNAMIC
    assert chosen == {
        "static": [static, static, Mode.FLOAT],
        "mixed": [static, dynamic, Mode.FLOAT],
        "dynamic": [dynamic, dynamic, Mode.FLOAT],
    }


def test_all_int8_leaves_the_static_plan_alone(graph) -> None:
    assert list(candidate_modes(graph, all_int8=True)) == ["static"]


def test_a_network_without_sequences_has_one_plan() -> None:
    flat = trace(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)).eval(), (torch.ones(1, 4),))
    assert list(candidate_modes(flat, all_int8=False)) == ["static"]


def tried(name: str, cpu_ms: float, cosine: float, *, met: bool = True) -> _Tried:
    return _Tried(name=name, cpu_ms=cpu_ms, cosine=cosine, met=met)


def test_the_fastest_of_those_that_are_close_enough_wins() -> None:
    assert _best([tried("a", 1.0, 0.9, met=False), tried("b", 3.0, 0.999), tried("c", 2.0, 0.998)]) == "c"


def test_within_five_per_cent_of_its_time_the_closest_wins() -> None:
    assert _best([tried("a", 1.04, 0.999), tried("b", 1.0, 0.998)]) == "a"
    assert _best([tried("a", 1.06, 0.999), tried("b", 1.0, 0.998)]) == "b"


def test_the_closest_goes_on_to_be_judged_if_none_is_close_enough() -> None:
    assert _best([tried("a", 1.0, 0.7, met=False), tried("b", 2.0, 0.8, met=False)]) == "b"


def test_held_in_rows_must_leave_room_under_the_bound() -> None:
    close = Closeness(rows=32, cosine_mean=0.9905, cosine_worst=0.9, sqnr_db=20.0, changed=1)
    assert Limits(min_cosine=0.99).met_by(close)
    assert not Limits(min_cosine=0.99).met_by(close, room=0.9)
    assert not Limits(min_cosine=0.99, max_changed=0.03).met_by(close)
    nan = Closeness(rows=32, cosine_mean=float("nan"), cosine_worst=0.9, sqnr_db=20.0)
    assert not Limits(min_cosine=0.0).met_by(nan)


def test_every_shape_is_timed_once_in_each_mode_and_a_head_that_is_float_is_not(graph) -> None:
    feeds = [{"x": np.random.default_rng(i).normal(size=(1, 4, 8)).astype(np.float32)} for i in range(4)]
    mode = candidate_modes(graph, all_int8=False)["static"]
    made = Planner(mode=mode, whole_network=False, techniques=False).make(graph, as_rows(graph, feeds, trim=False))
    example = (torch.ones(1, 4, 8),)
    costs = layer_costs(made.graph, made.plan, example, formats=["onnx"], activations="uint8")
    assert list(costs) == ["up", "down"]
    for modes in costs.values():
        assert list(modes) == [Mode.STATIC, Mode.DYNAMIC, Mode.FLOAT]
        assert all(0 < took < 50 for took in modes.values())
    alone = layer_costs(made.graph, made.plan, example, formats=["onnx"], activations="uint8", only=(Mode.STATIC,))
    assert alone == {"up": {Mode.STATIC: 0.0}, "down": {Mode.STATIC: 0.0}}  # no choice, so nothing is measured
