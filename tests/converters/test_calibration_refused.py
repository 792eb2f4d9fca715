"""What calibration does with rows that are unusual, and how it refuses those that are wrong."""

import numpy as np
import pytest
import torch
from pair_network import ends, feeds
from tiny_networks import LENGTH

from edgekit_converters.quantize.calibration.watch import watch
from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.measure import as_rows, measure
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_runtime.errors import ConversionError, UsageError

METHODS = ("minmax", "percentile", "entropy", "mse")


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_is_enough(pair, method) -> None:
    found = measure(pair, as_rows(pair, feeds([-1, 0.5, 1, 2]), trim=False), ranges=method)
    low, high = ends(found)["x"]
    assert -1.0 <= low < high <= 2.0
    assert high >= 1.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.0, -3.0])
def test_constant_tensor_keeps_its_value_and_gets_a_grid(pair, method, value) -> None:
    rows = as_rows(pair, feeds(*[[value] * 4] * 3), trim=False)
    assert ends(measure(pair, rows, ranges=method))["x"] == (value, value)
    planner = Planner(mode=lambda _: Mode.STATIC, whole_network=True, techniques=False, ranges=method)
    grid = planner.make(pair, rows).plan.layer("first").input
    assert grid.scale > 0
    assert min(value, 0.0) >= grid.limits[0] - grid.scale
    assert max(value, 0.0) <= grid.limits[1] + grid.scale


def test_empty_set_is_refused(pair) -> None:
    for rows in ([], as_rows(pair, [], trim=False), as_rows(pair, list, trim=False)):
        with pytest.raises(UsageError) as caught:
            measure(pair, rows)
        assert caught.value.code == "E0135"
        with pytest.raises(UsageError) as refused:
            Planner(mode=lambda _: Mode.STATIC, whole_network=True).make(pair, rows)
        assert refused.value.code == "E0133"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_refused_with_tensor_and_row(pair, method, value) -> None:
    rows = as_rows(pair, feeds([1, 2, 3, 4], [1, value, 3, 4]), trim=False)
    with pytest.raises(ConversionError, match=r"tensor x is not finite.*row 1, counted from 0") as caught:
        measure(pair, rows, ranges=method)
    assert caught.value.code == "E0740"
    assert caught.value.fix


def test_input_whose_name_python_has_taken_is_given_under_that_name() -> None:
    graph = trace(torch.nn.ReLU(), (torch.ones(1, 4),))  # forward(input): fx calls the node input_1
    (place,) = [node for node in graph.graph.nodes if node.op == "placeholder"]
    assert (place.target, place.name) == ("input", "input_1")
    ((row,),) = as_rows(graph, [{"input": np.array([[1, 2, 3, 4]], np.float32)}], trim=False)
    assert row.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("feed", "code", "says"),
    [
        ({"y": np.ones((1, 4), np.float32)}, "E0733", "no input x"),
        ({"x": np.ones((1, 4), np.float64)}, "E0734", "is float64; the model takes float32"),
        ({"x": np.ones((1, 4), np.uint8)}, "E0734", "is uint8"),
        ({"x": np.ones((1, 5), np.float32)}, "E0735", r"shape \(1, 5\); the model takes \(1, 4\)"),
        ({"x": np.ones((4,), np.float32)}, "E0735", r"shape \(4,\)"),
        ({"x": np.ones((0, 4), np.float32)}, "E0735", r"shape \(0, 4\)"),
    ],
)
def test_sample_of_another_form_is_refused_by_its_number(pair, feed, code, says) -> None:
    rows = [*feeds([1, 2, 3, 4]), feed]
    for given in (lambda: as_rows(pair, rows, trim=False), lambda: len(as_rows(pair, lambda: rows, trim=False))):
        with pytest.raises(ConversionError, match=says) as caught:
            given()
        assert caught.value.code == code
        assert "row 1" in caught.value.what
        assert caught.value.fix


def test_text_of_another_type_or_rank_is_refused_and_any_length_is_taken(text) -> None:
    graph, _ = text
    ids, mask = np.array([[5, 6, 7]], np.int32), np.ones((1, 3), np.int32)
    assert len(as_rows(graph, [{"input_ids": ids, "attention_mask": mask}], trim=True)) == 1
    for wrong, code in ((ids.astype(np.int64), "E0734"), (ids[0], "E0735"), (ids[:, :0], "E0735")):
        with pytest.raises(ConversionError) as caught:
            as_rows(graph, [{"input_ids": wrong, "attention_mask": mask}], trim=True)
        assert caught.value.code == code


def test_word_that_the_model_does_not_know_is_refused_by_its_row(text) -> None:
    graph, rows = text
    unknown = (torch.full((1, 4), 9999, dtype=torch.int32), torch.ones(1, 4, dtype=torch.int32))
    with pytest.raises(ConversionError, match="cannot run calibration row 2") as caught:
        measure(graph, [*rows[:2], unknown])
    assert caught.value.code == "E0736"
    assert "index" in caught.value.why


def test_watched_graph_gives_the_answers_of_the_plain_one_and_is_left_alone(text) -> None:
    graph, rows = text
    before, last = str(graph.graph), next(node.args[0] for node in graph.graph.nodes if node.op == "output")
    names = [node.name for node in (last if isinstance(last, tuple | list) else [last])]
    seen = []
    assert list(watch(graph, rows[:3], names, lambda _, values: seen.append(values.clone()))) == [0, 1, 2]
    for row, values in zip(rows[:3], seen, strict=True):
        answer = graph(*row)
        assert torch.equal(values, answer[0] if isinstance(answer, tuple | list) else answer)
    assert str(graph.graph) == before


def test_text_rows_keep_two_tokens_at_least(text) -> None:
    graph, _ = text
    empty = {"input_ids": np.zeros((1, LENGTH), np.int32), "attention_mask": np.zeros((1, LENGTH), np.int32)}
    assert as_rows(graph, [empty], trim=True)[0][0].shape == (1, 2)
