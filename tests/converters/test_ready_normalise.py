"""Foreign graphs in the plan's form: the same answers, other operators."""

import math

import numpy as np
import pytest
import ready_networks
import torch
from torch import nn
from torch.nn import functional as f

from edgekit_converters.quantize.graph import layers, trace
from edgekit_converters.ready.from_program import bare
from edgekit_converters.ready.normalise import graph_outputs, normalise

A = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR)


class Net(nn.Module):
    """A function with constants as a module."""

    def __init__(self, how, **constants) -> None:
        super().__init__()
        self.how = how
        for name, value in constants.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, x):
        return self.how(self, x)


def both(model, *example, decompose=False):
    """The traced graph and its normalised form."""
    graph = trace(model, example)
    if decompose:
        program = ready_networks.decomposed(torch.export.export(model.eval(), example))
        graph = trace(bare(program), example)
    return graph, normalise(graph, [example])


def same(graph, normal, *example):
    for left, right in zip(graph_outputs(graph, example), graph_outputs(normal.graph, example), strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-4, atol=1e-5)


def targets(normal) -> list:
    return [node.target for node in normal.graph.graph.nodes if node.op == "call_function"]


def normed(s, x, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * s.gamma + s.beta


def normed_by_rsqrt(s, x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) * (x - mean)).mean(-1, keepdim=True)
    return s.beta + s.gamma * ((x - mean) * torch.rsqrt(variance + 1e-12))


def normed_by_reciprocal(s, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5).reciprocal() * s.gamma


NORM = {"gamma": random(6), "beta": random(6)}
REWRITES = {
    "x @ W": (lambda s, x: x @ s.w, {"w": random(6, 3)}, (2, 4, 6), [A.linear.default]),
    "W @ x": (
        lambda s, x: s.w @ x,
        {"w": random(3, 4)},
        (2, 4, 6),
        [A.transpose.int, A.linear.default, A.transpose.int],
    ),
    "x @ W + b": (lambda s, x: x @ s.w + s.b, {"w": random(6, 3), "b": random(3)}, (2, 4, 6), [A.linear.default]),
    "b + x @ W'": (lambda s, x: s.b + x @ s.w.t(), {"w": random(3, 6), "b": random(3)}, (4, 6), [A.linear.default]),
    "addmm": (lambda s, x: torch.addmm(s.b, x, s.w), {"w": random(6, 3), "b": random(3)}, (4, 6), [A.linear.default]),
    "addmm of one number": (
        lambda s, x: torch.addmm(s.b, x, s.w),
        {"w": random(6, 3), "b": random(1)},
        (4, 6),
        [A.linear.default],
    ),
    "bias twice": (
        lambda s, x: f.linear(x, s.w, s.b) + s.c,
        {"w": random(3, 6), "b": random(3), "c": random(1, 1, 3)},
        (2, 4, 6),
        [A.linear.default],
    ),
    "bias of a convolution": (
        lambda s, x: f.conv2d(x, s.w) + s.b,
        {"w": random(3, 4, 2, 2), "b": random(1, 3, 1, 1)},
        (1, 4, 5, 5),
        [A.conv2d.default],
    ),
    "conv1d": (
        lambda s, x: f.conv1d(x, s.w, s.b, 2, 1, 2, 2),
        {"w": random(6, 2, 3), "b": random(6)},
        (1, 4, 9),
        [A.unsqueeze.default, A.conv2d.default, A.squeeze.dim],
    ),
    "conv padded to the same size": (
        lambda s, x: f.conv2d(x, s.w, padding="same", dilation=2),
        {"w": random(3, 4, 3, 3)},
        (1, 4, 7, 7),
        [A.conv2d.default],
    ),
    "clamp to 0 and 6": (lambda _, x: (x * 9).clamp(0, 6), {}, (5, 5), [A.mul.Tensor, A.hardtanh.default]),
    "hard sigmoid of a layer": (
        lambda s, x: f.hardsigmoid(f.linear(x, s.w, s.b)),
        {"w": random(3, 6), "b": random(3)},
        (4, 6),
        [A.linear.default, A.hardtanh.default, A.mul.Tensor],
    ),
    "clamp at 0": (lambda _, x: x.clamp(min=0), {}, (5, 5), [A.relu.default]),
    "relu in place": (lambda _, x: f.relu(x * 2, inplace=True), {}, (5, 5), [A.mul.Tensor, A.relu.default]),
    "dropout": (lambda _, x: f.dropout(x, 0.5, training=False) * 2, {}, (5, 5), [A.mul.Tensor]),
    "layer norm by sqrt": (normed, NORM, (3, 6), [A.layer_norm.default]),
    "layer norm by rsqrt": (normed_by_rsqrt, NORM, (2, 3, 6), [A.layer_norm.default]),
    "layer norm without beta": (normed_by_reciprocal, {"gamma": random(6)}, (3, 6), [A.layer_norm.default]),
    "GELU": (lambda _, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), {}, (5, 5), [A.gelu.default]),
    "GELU, other order": (lambda _, x: (x * (torch.erf(x * math.sqrt(0.5)) + 1)) * 0.5, {}, (5, 5), [A.gelu.default]),
    "GELU, halved sum": (lambda _, x: x * ((1 + torch.erf(x / math.sqrt(2))) / 2), {}, (5, 5), [A.gelu.default]),
    "constants": (lambda s, x: x + s.a * s.b.exp().t(), {"a": random(3, 4), "b": random(4, 3)}, (3, 4), [A.add.Tensor]),
}


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_keeps_the_answers(name):
    how, constants, shape, wanted = REWRITES[name]
    x = random(*shape)
    graph, normal = both(Net(how, **constants), x)
    same(graph, normal, x)
    assert targets(normal) == wanted


LOOKALIKES = {
    "not GELU": (lambda _, x: x * 0.5 * (1 + torch.erf(x / 2)), {}),
    "not GELU, twice": (lambda _, x: x * (1 + torch.erf(x / math.sqrt(2))), {}),
    "not a norm": (
        lambda s, x: (x - x.mean(-1, True)) / torch.sqrt(x.pow(2).mean(-1, True) + 1e-5) * s.gamma + s.beta,
        {"gamma": random(6), "beta": random(6)},
    ),
    "variance of another tensor": (
        lambda s, x: (
            (x - x.mean(-1, True)) / torch.sqrt((x * 2 - x.mean(-1, True)).pow(2).mean(-1, True) + 1) * s.gamma
        ),
        {"gamma": random(6)},
    ),
    "norm over rows": (
        lambda s, x: (x - x.mean(0, True)) / torch.sqrt((x - x.mean(0, True)).pow(2).mean(0, True) + 1e-5) * s.gamma,
        {"gamma": random(6)},
    ),
    "a bias per row": (lambda s, x: x @ s.w + s.b, {"w": random(6, 6), "b": random(6, 1)}),
    "scaled addmm": (lambda s, x: torch.addmm(s.b, x, s.w, alpha=2), {"w": random(6, 6), "b": random(6)}),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_alike_keeps_its_answers(name):
    how, constants = LOOKALIKES[name]
    x = random(6, 6)
    graph, normal = both(Net(how, **constants), x)
    same(graph, normal, x)
    assert not {A.gelu.default, A.layer_norm.default} & set(targets(normal))


@pytest.mark.parametrize("decompose", [False, True], ids=["traced", "decomposed"])
@pytest.mark.parametrize("name", ready_networks.NETWORKS)
def test_a_network_keeps_its_answers_and_has_no_product_or_norm_left(name, decompose):
    model = ready_networks.network(name)
    example = model.example()
    graph, normal = both(model, *example, decompose=decompose)
    same(graph, normal, *example)
    left = {A.batch_norm.default, A.convolution.default, A.addmm.default, A.native_layer_norm.default, A.conv1d.default}
    assert not left & set(targets(normal))


def test_a_batch_norm_without_a_layer_before_it_becomes_a_product_and_a_sum():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).eval()
    nn.init.uniform_(model[0].running_mean, -1, 1)
    x = random(1, 3, 4, 4)
    graph, normal = both(model, x)
    same(graph, normal, x)
    assert targets(normal) == [A.mul.Tensor, A.add.Tensor, A.conv2d.default]


def test_a_layer_that_another_reader_needs_keeps_its_batch_norm_apart():
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.running_mean, -1, 1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    x = random(1, 3, 4, 4)
    graph, normal = both(Two(), x)
    same(graph, normal, x)


def test_a_layer_that_runs_twice_stays_one_and_tied_weights_of_two_kinds_are_two():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.mix = nn.Embedding(7, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = self.mix(torch.relu(self.mix(self.words(x))))
            return y @ self.words.weight.t()

    ids = torch.tensor([[1, 6, 0]])
    graph, normal = both(Tied(), ids)
    same(graph, normal, ids)
    named = [(name, kind) for name, kind, _ in layers(normal.graph)]
    assert named == [("words", "embedding"), ("mix", "linear"), ("mix", "linear"), ("words_2", "linear")]
    weights = [node.args[0 if kind == "embedding" else 1].target for _, kind, node in layers(normal.graph)]
    assert weights[1] == weights[2]
    assert len(set(weights)) == 3


def test_a_layer_made_of_a_product_has_the_path_of_its_weight():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(6, 3)

        def forward(self, x):
            return x @ self.dense.weight.t() + self.dense.bias

    _, normal = both(Product(), random(2, 6))
    assert [(name, kind) for name, kind, _ in layers(normal.graph)] == [("dense", "linear")]


def test_norms_that_share_a_constant_are_told_apart():
    gamma, beta = torch.ones(6), torch.zeros(6)

    def two(s, x):
        return f.layer_norm(f.layer_norm(x, (6,), s.gamma, s.beta) * 2, (6,), s.gamma, s.beta)

    _, normal = both(Net(two, gamma=gamma, beta=beta), random(2, 6))
    norms = [node for node in normal.graph.graph.nodes if node.target is A.layer_norm.default]
    assert norms[0].args[2].target != norms[1].args[2].target
    assert norms[0].args[3].target != norms[1].args[3].target


def attended(s, x):
    scores = x @ x.transpose(-1, -2)
    return (scores + s.mask).softmax(-1) @ x


def numbers(normal) -> list[float]:
    return [float(value.abs().max()) for value in normal.graph.state_dict().values() if value.is_floating_point()]


def test_the_constants_of_a_mask_are_clipped():
    mask = torch.zeros(1, 4, 4)
    mask[..., 3] = torch.finfo(torch.float32).min
    x = random(1, 4, 6)
    graph, normal = both(Net(attended, mask=mask), x)
    same(graph, normal, x)
    used = [node.target for node in normal.graph.graph.nodes if node.op == "get_attr"]
    assert [float(normal.graph.get_parameter(name).min()) for name in used] == [-50.0]
    assert "mask constants clipped" in "; ".join(normal.notes)


@pytest.mark.parametrize("value", [float("-inf"), -1e9, -65504.0])
def test_a_mask_that_is_filled_in_is_clipped(value):
    def masked(_, x):
        keep = torch.ones(4, 4, dtype=torch.bool).tril()
        return (x @ x.transpose(-1, -2)).masked_fill(~keep, value).softmax(-1) @ x

    x = random(1, 4, 6)
    graph, normal = both(Net(masked), x)
    same(graph, normal, x)
    fills = [node.args[2] for node in normal.graph.graph.nodes if node.target is A.masked_fill.Scalar]
    assert fills == [-50.0]


def test_a_large_number_that_is_no_mask_stays():
    x = random(3, 3)
    graph, normal = both(Net(lambda _, x: x * 1e6 + 1.0), x)
    same(graph, normal, x)
    assert any("kept" in note for note in normal.notes)
