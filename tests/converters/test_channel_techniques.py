"""Equalised channels and corrected biases: exact where they claim to be, and better where they are meant to be."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekit_converters.quantize.graph import layer_biases, layer_weights, layers, trace
from edgekit_converters.quantize.measure import outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.techniques.bias_correct import correct_biases
from edgekit_converters.quantize.techniques.equalise import equalise, equalise_relu6
from edgekit_converters.ready.normalise import normalise
from edgekit_runtime.statistics import sqnr_db

ATEN = torch.ops.aten


def mobile(activation) -> nn.Module:
    """1x1, depthwise, grouped, pooled, linear: every way in which a channel is read."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 1),
        activation(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        activation(),
        nn.Conv2d(8, 12, 3, groups=2),
        activation(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(12, 3),
    ).eval()


def uneven(module: nn.Module) -> nn.Module:
    """Make some channels 50 times as large, and what reads them as much smaller, so that only grids suffer."""
    with torch.no_grad():
        for first, second in ((0, 2), (2, 4)):
            factor = torch.logspace(0, 1.7, 8)[torch.randperm(8, generator=torch.manual_seed(first))]
            module[first].weight *= factor[:, None, None, None]
            module[first].bias *= factor
            held = module[second].weight
            groups = module[second].groups
            module[second].weight.copy_(
                (held.reshape(groups, -1, *held.shape[1:]) / factor.reshape(groups, 1, -1, 1, 1)).reshape(held.shape)
            )
    return module


def graph_of(module: nn.Module, shape=(1, 2, 6, 6)):
    graph = normalise(trace(module, (torch.ones(shape),)), [(torch.ones(shape),)]).graph
    generator = torch.manual_seed(1)
    return graph, [(torch.randn(shape, generator=generator),) for _ in range(16)]


@pytest.mark.parametrize(
    ("activation", "technique"),
    [(nn.ReLU, equalise), (nn.Identity, equalise), (nn.ReLU6, equalise_relu6)],
    ids=["relu", "none", "relu6"],
)
def test_equalising_leaves_float_answers_alone(activation, technique) -> None:
    graph, rows = graph_of(uneven(mobile(activation)))
    rows = [(row[0] * 30,) for row in rows]  # far beyond 6
    changed = copy.deepcopy(graph)
    assert technique(changed, {}) == 3
    before, after = outputs(graph, rows), outputs(changed, rows)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * np.abs(before).max())
    assert np.abs(layer_weights(changed)["0"] - layer_weights(graph)["0"]).max() > 0.1


def test_equalised_channels_are_written_and_read_with_equal_weights() -> None:
    """1x1 convolutions by hand: weights 8 and 2 written, 2 and 2 read; factors 2 and 1, so 4, 2 and 4, 2."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([8.0, -2.0]).reshape(2, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([1.0, 3.0]))
        net[2].weight.copy_(torch.tensor([2.0, 2.0]).reshape(1, 2, 1, 1))
    graph, _ = graph_of(net, (1, 1, 2, 2))
    assert equalise(graph, {}) == 1
    weights = layer_weights(graph)
    np.testing.assert_allclose(weights["0"].ravel(), [4, -2], rtol=1e-6)
    np.testing.assert_allclose(weights["2"].ravel(), [4, 2], rtol=1e-6)
    np.testing.assert_allclose(layer_biases(graph)["0"], [0.5, 3], rtol=1e-6)


def test_relu6_keeps_its_layers_unless_asked_for_a_cap_per_channel() -> None:
    graph, _ = graph_of(uneven(mobile(nn.ReLU6)))
    plain, capped = copy.deepcopy(graph), copy.deepcopy(graph)
    assert equalise(plain, {}) == 0
    equalise_relu6(capped, {})
    found = [node.target for node in capped.graph.nodes]
    assert found.count(ATEN.minimum.default) == 3
    assert ATEN.hardtanh.default not in found


@pytest.mark.parametrize("reader", ["sum", "hardswish", "output", "flat"])
def test_channels_that_anything_else_reads_are_left_alone(reader) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            y = self.first(x)
            if reader == "sum":
                return y + self.second(y)
            if reader == "hardswish":
                return self.second(nn.functional.hardswish(y))
            return (y, self.second(y)) if reader == "output" else self.head(y.flatten(1))

    torch.manual_seed(0)
    graph, _ = graph_of(Net().eval(), (1, 1, 2, 2))
    assert equalise(graph, {}) == 0


def test_equalising_mends_a_network_whose_channels_differ_fiftyfold() -> None:
    graph, rows = graph_of(uneven(mobile(nn.ReLU)))
    reference = outputs(graph, rows)
    naive = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False, per_tensor=True).make(graph, rows)
    tuned = Planner(mode=lambda _: Mode.STATIC, whole_network=True, per_tensor=True).make(graph, rows)
    before, after = (sqnr_db(reference, simulate(one.graph, one.plan, rows)) for one in (naive, tuned))
    assert after > before + 10
    assert next(one.kept for one in tuned.plan.techniques if one.name == "equalise channels")


def test_one_scale_serves_the_largest_weight_of_all_channels() -> None:
    graph, rows = graph_of(mobile(nn.ReLU))
    made = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False, per_tensor=True).make(graph, rows)
    for layer in made.plan.layers:
        weight = layer_weights(made.graph)[layer.name]
        assert layer.per_tensor
        assert layer.weight_scales == (pytest.approx(float(np.abs(weight).max()) / 127, rel=1e-6),)
        assert np.abs(layer.codes(weight)).max() == 127


def test_corrected_bias_takes_the_mean_error_away() -> None:
    """Brute force: on float inputs each channel of the rounded first layer then has the mean of the float one."""
    graph, rows = graph_of(mobile(nn.ReLU))
    planner = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False, per_tensor=True)
    made = planner.make(graph, rows)
    changed = copy.deepcopy(made.graph)
    assert correct_biases(changed, made.plan, rows) == 4
    layer = made.plan.layer("0")
    weight, bias = layer_weights(made.graph)["0"], layer_biases(made.graph)["0"]
    x = np.concatenate([row[0].numpy() for row in rows]).astype(np.float64)
    grid = layer.input
    codes = np.clip(np.rint(x / grid.scale) + grid.zero_point, -128, 127)
    rounded = np.einsum(
        "oi,nihw->nohw",
        layer.codes(weight)[:, :, 0, 0] * layer.weight_scales[0],
        (codes - grid.zero_point) * grid.scale,
    )
    exact = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0].astype(np.float64), x)
    wanted = bias - (rounded - exact).mean((0, 2, 3))
    np.testing.assert_allclose(layer_biases(changed)["0"], wanted, rtol=0, atol=1e-6)
    assert np.abs(wanted - bias).max() > 1e-4


def test_corrected_biases_change_no_weight_and_no_float_layer() -> None:
    graph, rows = graph_of(mobile(nn.ReLU))
    planner = Planner(
        mode=lambda name: Mode.FLOAT if name == "9" else Mode.STATIC, whole_network=True, techniques=False
    )
    made = planner.make(graph, rows)
    changed = copy.deepcopy(made.graph)
    assert correct_biases(changed, made.plan, rows) == 3
    np.testing.assert_array_equal(layer_biases(changed)["9"], layer_biases(made.graph)["9"])
    for name, weight in layer_weights(changed).items():
        np.testing.assert_array_equal(weight, layer_weights(made.graph)[name])
    assert [name for name, _, _ in layers(changed)] == [name for name, _, _ in layers(made.graph)]
