"""Every operator in integers: every tensor has a grid, every choice counts, the file computes what was predicted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks
import torch
from tiny_networks import LENGTH

from edgekit_converters.export.contract import ModelContract, contract_of
from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import as_rows, outputs
from edgekit_converters.quantize.ranges_ln import best_range, float_sums, norm_aware_grids
from edgekit_converters.quantize.whole import WholePlanned, WholePlanner
from edgekit_converters.quantize.whole_graph import VIEWS, branch_norms, fold_score_scale, residual_tensors
from edgekit_converters.quantize.whole_onnx import float_operators, write_whole_onnx
from edgekit_converters.quantize.whole_plan import TensorGrid, WholePlan, grid_between, grid_of_constant
from edgekit_converters.quantize.whole_rotate import rotate_residual, rotation
from edgekit_converters.quantize.whole_simulate import simulate_whole
from edgekit_runtime.errors import ConversionError, UsageError
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.statistics import sqnr_db

ATEN = torch.ops.aten
LOUD = 7  # a channel of the residual stream that one token lets grow


def loud_model():
    """A model with an attention sink as BERTs have it: the first token, and no other, drives one residual channel."""
    model = tiny_networks.text_classifier()
    first = model.layers[0]
    with torch.no_grad():
        model.positions[0, 3] = 12.0  # marks the first token
        first.ffn_in.weight[0] = 0.0
        first.ffn_in.weight[0, 3], first.ffn_in.bias[0] = 2.0, -4.0  # fires on the mark alone
        first.ffn_out.weight[LOUD, 0] = 40.0
    return model


def rows_of(graph, count, *, seed, trim=True):
    return as_rows(graph, tiny_networks.text_feeds(count, seed=seed), trim=trim)


def padded_row(graph):
    ids, mask = np.ones((1, LENGTH), np.int32), np.ones((1, LENGTH), np.int32)
    mask[0, LENGTH // 2 :] = 0
    return as_rows(graph, [{"input_ids": ids, "attention_mask": mask}], trim=False)[0]


def make(model, **settings) -> WholePlanned:
    graph = tiny_networks.traced(model)
    return WholePlanner(**settings).make(graph, rows_of(graph, 24, seed=1), padded_row(graph))


@pytest.fixture(scope="module")
def plain(text_model) -> WholePlanned:
    return make(text_model)


@pytest.fixture(scope="module")
def wide(text_model) -> WholePlanned:
    return make(text_model, residual="int16")


@pytest.fixture(scope="module")
def loud() -> dict[str, WholePlanned]:
    settings = {
        "naive": {"techniques": False},
        "int8": {},
        "int16": {"residual": "int16"},
    }
    return {name: make(loud_model(), **given) for name, given in settings.items()}


def quality(made: WholePlanned, model) -> float:
    feeds = tiny_networks.text_feeds(40, seed=3)
    rows = as_rows(made.graph, feeds, trim=False)
    return sqnr_db(tiny_networks.torch_logits(model, feeds), simulate_whole(made.graph, made.plan, rows))


# --- grids ---------------------------------------------------------------------------------------------------------


def test_an_8_bit_grid_holds_both_ends_and_zero():
    grid = grid_between(-1.0, 4.1)  # step 5.1 / 255 = 0.02; zero lies 50 codes above -128
    assert grid.scale == pytest.approx(0.02)
    assert grid.zero_point == -78
    assert grid_between(2.0, 5.1).zero_point == -128


def test_a_16_bit_grid_is_symmetric():
    grid = grid_between(-1.0, 3.2767, bits=16)
    assert grid.scale == pytest.approx(1e-4)
    assert grid.zero_point == 0


def test_a_grid_rounds_halves_to_even_and_cuts_what_lies_outside():
    grid = TensorGrid(scale=0.5, zero_point=-128)
    assert grid.apply(torch.tensor([0.25, 0.75, 0.8, -1.0, 1000.0])).tolist() == [0.0, 1.0, 1.0, 0.0, 127.5]


def test_a_constant_has_its_largest_value_on_the_last_code():
    assert grid_of_constant(torch.tensor([-2.54, 1.0])).scale == pytest.approx(0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0.0, "zero_point": 0}, {"scale": 1.0, "zero_point": 128}, {"scale": 1.0, "zero_point": 1, "bits": 16}],
)
def test_an_impossible_grid_is_refused(wrong):
    with pytest.raises(ConversionError, match="E0773"):
        TensorGrid(**wrong)


# --- rewrites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [fold_score_scale, branch_norms])
def test_a_rewrite_changes_no_float_answer(text_model, rewrite):
    graph = tiny_networks.traced(text_model)
    rows = rows_of(graph, 6, seed=5)
    before = outputs(graph, rows)
    assert rewrite(graph) > 0
    np.testing.assert_allclose(outputs(graph, rows), before, atol=1e-5)


def test_no_factor_is_left_between_query_and_softmax(text_model):
    graph = tiny_networks.traced(text_model)
    assert fold_score_scale(graph) == 2
    scores = [node.args[0].args[0] for node in graph.graph.nodes if node.target is ATEN.softmax.int]
    assert [node.target for node in scores] == [ATEN.matmul.default] * 2


def test_the_residual_reads_a_norm_that_no_linear_layer_reads(text_model):
    graph = tiny_networks.traced(text_model)
    assert branch_norms(graph) == 4
    for node in graph.graph.nodes:
        if node.target is ATEN.layer_norm.default:
            kinds = {user.target is ATEN.linear.default for user in node.users}
            assert len(kinds) == 1


def test_residual_tensors_are_the_sums_and_what_is_added(text_model):
    graph = tiny_networks.traced(text_model)
    found = residual_tensors(graph)
    kinds = [graph_node.target for graph_node in graph.graph.nodes if graph_node.name in found]
    # The sum of the embeddings; then for each of 4 blocks its sum, the linear layer and the norm that are added.
    assert kinds.count(ATEN.add.Tensor) == 5
    assert kinds.count(ATEN.linear.default) == 4
    assert kinds.count(ATEN.layer_norm.default) == 4


def test_a_rotation_keeps_lengths_and_the_ones_and_spreads_loud_channels():
    turn = rotation(96, [5, 40])
    np.testing.assert_allclose(turn @ turn.T, np.eye(96), atol=1e-12)
    np.testing.assert_allclose(turn @ np.ones(96), 1.0, atol=1e-12)
    assert np.abs(turn[:, [5, 40]]).max() < 1.2 / np.sqrt(96)
    assert np.abs(turn).max() < 0.5  # no channel stays alone


def test_a_rotated_stream_has_no_loud_channel_and_the_same_answers():
    graph = tiny_networks.traced(loud_model())
    rows = rows_of(graph, 6, seed=5)
    before = outputs(graph, rows)
    totals = {total.name for total in residual_tensors(graph).values()}
    peaks = torch.stack([value.abs().amax(0) for value in float_sums(graph, totals, rows).values()]).amax(0)
    assert rotate_residual(graph, peaks) == 5
    np.testing.assert_allclose(outputs(graph, rows), before, atol=1e-4)
    after = torch.stack([value.abs().amax(0) for value in float_sums(graph, totals, rows).values()]).amax(0)
    assert float(peaks.max()) > 100
    assert float(after.max()) < 0.35 * float(peaks.max())


def test_a_stream_that_something_unknown_writes_into_is_not_rotated():
    graph = trace(Block(1.0), (torch.ones(1, 20, 16),))
    assert rotate_residual(graph, torch.ones(16)) == 0


# --- ranges --------------------------------------------------------------------------------------------------------


def test_a_range_is_cut_while_the_error_falls():
    wanted = Range(-0.4, 2.2)
    found = best_range(Range(-1.0, 10.0), lambda seen: abs(seen.low - wanted.low) + abs(seen.high - wanted.high))
    assert (found.low, found.high) == (pytest.approx(-0.4), pytest.approx(2.2))


def test_a_range_that_is_best_stays():
    assert best_range(Range(-1.0, 2.0), lambda seen: 3.0 - seen.high + 1.0 + seen.low) == Range(-1.0, 2.0)


class Block(torch.nn.Module):
    """A residual block with a norm; ``gamma`` is the weight of the two loud channels."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)
        torch.nn.init.zeros_(self.inner.weight)
        with torch.no_grad():
            self.norm.weight[LOUD : LOUD + 2] = gamma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.inner(x))


def test_ranges_are_judged_behind_the_norm_not_on_the_tensor():
    """One token of 20 is loud in two channels: cut where gamma silences them, kept where they count."""

    def high(gamma: float) -> float:
        torch.manual_seed(0)
        graph = trace(Block(gamma), (torch.ones(1, 20, 16),))
        x = torch.randn(1, 20, 16)
        x[0, 0, LOUD], x[0, 0, LOUD + 1] = 60.0, 30.0
        sums = residual_tensors(graph)
        total = next(iter(sums.values()))
        wide = {node.name: grid_between(-70.0, 70.0, bits=16) for node in graph.graph.nodes if node.op != "get_attr"}
        plan = WholePlan(residual="int8", tensors=wide, techniques=())
        grid = norm_aware_grids(graph, plan, dict.fromkeys(sums, Range(-10.0, 70.0)), [(x,)])[total.name]
        return grid.scale * (127 - grid.zero_point)

    assert high(0.0) < 40 < 50 < high(100.0)


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "wide"])
def test_every_computed_tensor_and_every_constant_has_a_grid(name, request):
    made = request.getfixturevalue(name)
    with torch.no_grad():
        values = {}

        class Keep(torch.fx.Interpreter):
            def run_node(self, n):
                values[n.name] = super().run_node(n)
                return values[n.name]

        Keep(made.graph).run(*padded_row(made.graph))
    for node in made.graph.graph.nodes:
        value = values.get(node.name)
        if node.op == "call_function" and torch.is_tensor(value) and value.is_floating_point():
            assert (node.name in made.plan.tensors) == (node.target not in VIEWS), node.name
        if node.op == "get_attr" and any(user.target is ATEN.embedding.default for user in node.users):
            assert node.name in made.plan.tensors


def test_only_the_residual_stream_has_16_bits(wide, plain):
    sixteen = {name for name, grid in wide.plan.tensors.items() if grid.bits == 16}
    assert set(residual_tensors(wide.graph)) <= sixteen
    assert len(sixteen - set(residual_tensors(wide.graph))) <= 1  # the positions
    assert all(grid.bits == 8 for grid in plain.plan.tensors.values())


def test_what_the_mask_alone_decides_is_exact(plain):
    exact = [plain.plan.tensors[name] for name in ("to", "rsub", "mul", "to_1")]
    assert [(grid.scale, grid.zero_point) for grid in exact] == [(1.0, -128), (1.0, -128), (1.0, -78), (1.0, -128)]


def test_softmax_stands_on_256ths(plain):
    (grid, *_) = [plain.plan.tensors[node.name] for node in plain.graph.graph.nodes if node.target is ATEN.softmax.int]
    assert (grid.scale, grid.zero_point) == (1 / 256, -128)


def test_rows_of_a_table_need_no_second_rounding(plain):
    (lookup,) = [node for node in plain.graph.graph.nodes if node.target is ATEN.embedding.default]
    assert plain.plan.tensors[lookup.name] == plain.plan.tensors[lookup.args[0].name]


def test_scores_leave_room_for_padding(text_model):
    made = make(text_model, techniques=False)
    graph = made.graph
    (scores, *_) = [node.args[0] for node in graph.graph.nodes if node.target is ATEN.softmax.int]
    real = np.inf
    for row in rows_of(graph, 24, seed=1):

        class Look(torch.fx.Interpreter):
            def run_node(self, n):
                nonlocal real
                value = super().run_node(n)
                if n.name == scores.name:
                    real = min(real, float(value.min()))
                return value

        with torch.no_grad():
            Look(graph).run(*row)
    grid = made.plan.tensors[scores.name]
    assert grid.scale * (-128 - grid.zero_point) == pytest.approx(real - 6.0, abs=grid.scale)


def test_techniques_and_16_bits_come_closer_to_float(loud):
    model = loud_model()
    naive, better, widest = (quality(loud[name], model) for name in ("naive", "int8", "int16"))
    assert naive + 5 < min(better, widest)  # without the rotation the techniques bring 1.6 dB


def test_a_technique_that_does_not_help_is_not_kept(plain, wide):
    for made in (plain, wide):
        for technique in made.plan.techniques:
            assert technique.kept == (technique.sqnr_after_db > technique.sqnr_before_db + 0.1), technique


def test_a_plan_needs_rows_and_finite_values(text_model):
    graph = tiny_networks.traced(text_model)
    with pytest.raises(UsageError, match="E0133"):
        WholePlanner().make(graph, [], padded_row(graph))
    broken = tiny_networks.text_classifier()
    with torch.no_grad():
        broken.layers[1].ffn_out.bias[0] = float("nan")
    graph = tiny_networks.traced(broken)
    with pytest.raises(ConversionError, match="E0776"):
        WholePlanner(techniques=False).make(graph, rows_of(graph, 2, seed=1), padded_row(graph))


def test_a_tensor_without_a_grid_is_refused(plain):
    (layer, *_) = [node.args[0].name for node in plain.graph.graph.nodes if node.target is ATEN.linear.default]
    tensors = {name: grid for name, grid in plain.plan.tensors.items() if name != layer}
    with pytest.raises(ConversionError, match="E0774"):
        simulate_whole(plain.graph, replace(plain.plan, tensors=tensors), ())


# --- the file ------------------------------------------------------------------------------------------------------


def run(path: Path, feeds, level) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return np.concatenate([session.run(None, row)[0] for row in feeds])


@pytest.mark.parametrize("name", ["plain", "wide"])
@pytest.mark.parametrize("head", [{}, {"head": "relu", "pooling": "first", "activation": "gelu_tanh"}])
def test_the_file_computes_what_was_predicted(name, head, tmp_path):
    model = tiny_networks.text_classifier(**head)
    made = make(model, residual="int8" if name == "plain" else "int16")
    path = tmp_path / "model.onnx"
    write_whole_onnx(made.graph, made.plan, contract_of(model.config), path)
    assert float_operators(path) == []
    feeds = tiny_networks.text_feeds(20, seed=3)
    predicted = simulate_whole(made.graph, made.plan, as_rows(made.graph, feeds, trim=False))
    levels = onnxruntime.GraphOptimizationLevel
    (last,) = (node.args[0][0] for node in made.graph.graph.nodes if node.op == "output")
    step = made.plan.tensors[last.name].scale
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        # A sum in another order may fall on the other side of a half here and there.
        steps = np.abs(run(path, feeds, level) - predicted) / step
        assert steps.max() < 3.5
        assert (steps < 0.5).mean() > 0.8


def test_the_same_plan_gives_the_same_bytes(plain, text_model, tmp_path):
    for name in ("a", "b"):
        write_whole_onnx(plain.graph, plain.plan, contract_of(text_model.config), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_layer_norm_softmax_and_gelu_are_single_operators(plain, text_model, tmp_path):
    path = tmp_path / "model.onnx"
    write_whole_onnx(plain.graph, plain.plan, contract_of(text_model.config), path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    norms = sum(node.target is ATEN.layer_norm.default for node in plain.graph.graph.nodes)
    assert kinds.count("LayerNormalization") == norms
    assert kinds.count("Softmax") == 2
    assert kinds.count("Gelu") >= 2
    assert not {"Sqrt", "Erf", "Pow"} & set(kinds)


def test_an_unknown_operator_is_refused(plain, text_model, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Softplus())
    spec = TensorSpec(name="x", tensor="x", dtype="float32", shape=(1, 4))
    graph = trace(model, (torch.ones(1, 4),))
    tensors = {node.name: grid_between(-1, 1) for node in graph.graph.nodes}
    plan = replace(plain.plan, tensors=tensors)
    contract = ModelContract(inputs=(spec,), outputs=(replace(spec, name="y", tensor="y"),))
    with pytest.raises(ConversionError, match="E0775"):
        write_whole_onnx(graph, plan, contract, tmp_path / "model.onnx")
