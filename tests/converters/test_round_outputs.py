"""Weights rounded for their outputs stay on the plan's grid and bring outputs of unseen rows closer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekit_converters.quantize.graph import layer_weights, trace
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planned, Planner
from edgekit_converters.quantize.techniques.round_outputs import round_for_outputs


def rows_of(count: int, *, seed: int) -> list[tuple[torch.Tensor]]:
    """Make inputs whose 24 channels are mixtures of 4, so that one weight's error can be made good by others."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(5).normal(size=(4, 24))
    sources = random.normal(size=(count, 6, 4)) @ mix + 0.05 * random.normal(size=(count, 6, 24))
    return [(torch.from_numpy(one[None].astype(np.float32)),) for one in sources]


def plan_of(mode: Mode) -> Planned:
    torch.manual_seed(0)
    graph = trace(nn.Sequential(nn.Linear(24, 16)).eval(), rows_of(1, seed=0)[0])
    return Planner(mode=lambda _: mode, whole_network=False, techniques=False).make(graph, rows_of(48, seed=1))


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_outputs_of_other_rows_come_closer_than_with_nearest_weights(mode) -> None:
    made = plan_of(mode)
    changed = copy.deepcopy(made.graph)
    assert round_for_outputs(changed, made.plan, rows_of(48, seed=1)) == 1
    (layer,), weight = made.plan.layers, layer_weights(made.graph)["0"]
    scales = layer.scales(weight)[:, None]
    inputs = torch.cat([row[0] for row in rows_of(100, seed=2)]).reshape(-1, 24).numpy()
    nearest = layer.codes(weight) * scales
    errors = [np.square(inputs @ (one - weight).T).mean() for one in (nearest, layer_weights(changed)["0"])]
    assert errors[1] < 0.5 * errors[0]


def test_weights_are_points_of_the_grid_and_the_plan_codes_them_without_loss() -> None:
    made = plan_of(Mode.STATIC)
    changed = copy.deepcopy(made.graph)
    round_for_outputs(changed, made.plan, rows_of(48, seed=1))
    layer, weight = made.plan.layers[0], layer_weights(changed)["0"]
    assert np.abs(layer.codes(weight)).max() <= 127
    np.testing.assert_array_equal(layer.codes(weight) * layer.scales(weight)[:, None], weight)
    steps = np.abs(weight - layer_weights(made.graph)["0"]) / layer.scales(weight)[:, None]
    assert steps.max() > 0.5 + 1e-3  # some weight is not at its nearest point


def test_float_layers_are_left_alone() -> None:
    made = plan_of(Mode.FLOAT)
    assert round_for_outputs(made.graph, made.plan, rows_of(4, seed=1)) == 0
