"""The form that plans are made for: same float answers, no batch norms, no 1-D kernels, no hard sigmoids."""

import pytest
import torch
from torch import nn

from edgekit_converters.quantize.graph import layer_biases, layer_weights, layers, runs_once, trace
from edgekit_converters.ready.normalise import normalise

ATEN = torch.ops.aten


class Gate(nn.Module):
    """Squeeze and excite: the gate is a hard sigmoid of a convolution without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x):
        return x * nn.functional.hardsigmoid(self.expand(x.mean((2, 3), keepdim=True)))


def conv1d() -> nn.Module:
    first = [nn.Conv1d(3, 8, 5, 2, padding=2, bias=False), nn.BatchNorm1d(8), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=2), nn.BatchNorm1d(8))


def conv2d() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1))


NETWORKS = {"conv1d": (conv1d, (1, 3, 12)), "conv2d": (conv2d, (1, 3, 7, 7)), "gate": (Gate, (1, 3, 5, 5))}


def lively(make) -> nn.Module:
    torch.manual_seed(3)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(part.weight, -1.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.2, 3)
    return module


def canonicalise(graph, example):
    return normalise(graph, [example]).graph


def both(name: str):
    make, shape = NETWORKS[name]
    module = lively(make)
    before = trace(module, (torch.ones(shape),))
    return before, canonicalise(before, (torch.ones(shape),)), torch.randn(shape, generator=torch.manual_seed(1)) * 3


def answer(graph, *inputs):
    with torch.no_grad():
        found = graph(*inputs)
    return found[0] if isinstance(found, tuple) else found


def targets(graph) -> set:
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_form_leaves_float_answers_alone(name) -> None:
    before, after, x = both(name)
    torch.testing.assert_close(answer(after, x), answer(before, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_form_has_only_what_the_writers_know(name) -> None:
    _, after, _ = both(name)
    assert not targets(after) & {ATEN.batch_norm.default, ATEN.conv1d.default, ATEN.hardsigmoid.default}


def test_batch_norm_ends_in_weights_and_bias_by_hand() -> None:
    """y = 2 (3x + 1 - 5) / sqrt(4) + 7 = 3x + 3."""
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in ((conv.weight, 3), (conv.bias, 1), (norm.weight, 2), (norm.bias, 7)):
        nn.init.constant_(tensor, value)
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(4.0)
    graph = canonicalise(trace(nn.Sequential(conv, norm).eval(), (x := torch.ones(1, 1, 2, 2),)), (x,))
    assert layer_weights(graph)["0"].item() == 3.0
    assert layer_biases(graph)["0"].item() == 3.0


def test_activation_behind_a_1d_convolution_stays_next_to_it() -> None:
    """The kernels fuse a ReLU only where nothing stands between."""
    _, after, _ = both("conv1d")
    conv = next(node for _, _, node in layers(after))
    assert [user.target for user in conv.users] == [ATEN.relu.default]


def test_hard_sigmoid_puts_its_three_into_the_bias() -> None:
    _, after, _ = both("gate")
    assert layer_biases(after)["expand"].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_network_becomes_linear_layers_that_share_weights(kind) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(4, 6, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    torch.manual_seed(0)
    module, x = Net().eval(), torch.randn(1, 5, 4)
    graph = canonicalise(trace(module, (torch.ones(1, 5, 4),)), (x,))
    with torch.no_grad():
        torch.testing.assert_close(answer(graph, x), module(x), rtol=0, atol=1e-6)
    calls = [(name, runs_once(graph, node)) for name, _, node in layers(graph)]
    assert calls == [("cell.weight_ih_l0", True)] + [("cell.weight_hh_l0", False)] * 5
