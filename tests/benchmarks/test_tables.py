"""The tables of docs/benchmarks.md: equal to the results they were made from, and right about them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import make_tables
from tables import goals, peers
from tables.markdown import table


def lane(variant, cosine, **other):
    row = {"peer": "ort", "variant": variant, "mode": "static", "tuned": True, "engine": "onnxruntime", "sequence": 64}
    row |= {"size_mb": 23.44, "cosine_mean": cosine, "cosine_min": 0.5, "nearest_blocks": 0.25, "nearest_all": 0.125}
    return {**row, "how": f"how {variant}", "documentation": "page", **other}


@pytest.fixture
def results(monkeypatch):
    rows = [
        lane("plain", 0.3, tuned=False),
        lane("close", 0.99, cpu_ms_min=7.0, cpu_ms_median=7.5, times_faster_than_float=2.0),
        lane("far", 0.9),
        lane("free", 0.999, mode="dynamic", cpu_ms_min=9.0, cpu_ms_median=9.0),
        lane("quick", 0.997, mode="mixed", cpu_ms_min=8.0, cpu_ms_median=9.0),
        lane("float", 1.0, mode="float"),
        lane("long", 0.999, sequence=128),
        lane("broken", 1.0, error="a | b"),
        {**lane("own", 0.9999, peer="extra", mode="dynamic")},
    ]
    content = {"figures": {"lanes": dict(enumerate(rows)), "peer_versions": {"onnxruntime": "1.31.1"}}}
    monkeypatch.setattr(peers, "load", lambda name: content)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]


def test_the_page_says_what_the_results_say():
    page = make_tables.PAGE.read_text(encoding="utf-8")
    assert make_tables.filled(page) == page, "run: python benchmarks/make_tables.py"


def test_every_table_that_is_made_stands_in_the_page():
    page = make_tables.PAGE.read_text(encoding="utf-8")
    assert [name for name in make_tables.TABLES if f"<!-- table: {name} -->" not in page] == []


def test_only_what_stands_between_the_markers_is_written(monkeypatch):
    monkeypatch.setattr(make_tables, "TABLES", {"one": lambda: "new\n1"})
    text = "before\n<!-- table: one -->\nold\nold\n<!-- end -->\nafter\n<!-- table: one -->\n<!-- end -->\n"
    wanted = "<!-- table: one -->\nnew\n1\n<!-- end -->"
    assert make_tables.filled(text) == f"before\n{wanted}\nafter\n{wanted}\n"
    with pytest.raises(KeyError, match="two"):
        make_tables.filled("<!-- table: two -->\n<!-- end -->")


def test_a_bar_in_a_cell_does_not_end_it():
    assert table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |"


def test_the_best_of_a_tool_are_its_default_its_closest_and_the_fastest_that_is_close_enough(results):
    rows = cells(peers.best(64))[2:]
    assert [row[1:3] for row in rows] == [
        ["closest", "`own`"],
        ["static at its defaults", "`plain`"],
        ["closest static", "`close`"],
        ["closest", "`free`"],
        ["fastest from 0.997 up", "`quick`"],
    ]
    assert rows[2][3:] == ["ONNX Runtime", "23.4", "0.9900 / 0.5000", "0.250 / 0.125", "7.00 / 7.50", "2.00x"]


def test_a_recipe_that_failed_is_in_the_table_of_failures_alone(results):
    assert "broken" not in peers.every(64)
    assert [row[1] for row in cells(peers.every(64))[2:]] == [
        "`own`",
        "`plain`",
        "`close`",
        "`far`",
        "`free`",
        "`quick`",
        "`float`",
    ]
    assert cells(peers.failures())[2:] == [["ONNX Runtime quantizer", "`broken`, 64 tokens", "`a \\| b`"]]


def test_every_recipe_of_a_peer_says_how_it_was_set(results):
    rows = cells(peers.recipes())[2:]
    assert rows[0] == ["ONNX Runtime quantizer 1.31.1", "`plain`", "default", "how plain", "page"]
    assert [row[1] for row in rows] == [
        "`plain`",
        "`close`",
        "`far`",
        "`free`",
        "`quick`",
        "`float`",
        "`long`",
        "`broken`",
    ]


def measured(result, figures):
    return [list(goal.measured(figures)) for goal in goals.GOALS if goal.result == result]


def row_of(name, cosine, ms, **other):
    row = {"lane": name, "cosine_mean": cosine, "cpu_ms_min": ms, "nearest_blocks": 0.97, "nearest_all": 0.95}
    return {**row, "times_faster_than_fp32": 2.5, "mb": 23.0, **other}


def test_a_figure_on_its_bound_has_reached_it_and_a_nan_has_not():
    assert goals.at_least("x", 0.5, 0.5, ".1f") == "x 0.5"
    assert goals.at_most("x", 0.5, 0.5, ".1f") == "x 0.5"
    assert goals.at_least("x", 0.499, 0.5, ".1f") == goals.at_most("x", 0.501, 0.5, ".1f") == "x 0.5 (**missed**: 0.5)"
    assert "missed" in goals.at_least("x", float("nan"), 0.5)
    assert "missed" in goals.at_most("x", float("nan"), 0.5)


def test_the_fastest_plan_is_looked_for_among_those_that_are_close_enough():
    lanes = [
        row_of("onnx-fp32", 1.0, 1.0),
        row_of("onnx-wild", 0.9969, 2.0),
        row_of("onnx-slow", 0.9999, 4.0),
        row_of("onnx-good", 0.9985, 3.0),
        row_of("tflite-wild", 0.5, 1.0),
    ]
    fastest, static = measured("minilm", {"s64": {"lanes": lanes}})
    assert fastest == [
        (
            "s64 ONNX, plan `good`: cosine 0.99850 (**missed**: 0.99900), nearest in blocks of 150 0.970, "
            "among 600 0.950 (**missed**: 0.960), times faster 2.50, MB 23.0"
        ),
        "s64 TFLite: **missed**, no plan reaches cosine 0.997",
    ]
    assert static == []


def test_static_plans_are_held_to_a_bound_of_each_format():
    lanes = [row_of("onnx-static", 0.998, 1.0), row_of("tflite-static", 0.998, 1.0)]
    assert measured("minilm", {"s64": {"lanes": lanes}})[1] == [
        "s64 ONNX: cosine 0.99800 (**missed**: 0.99900)",
        "s64 TFLite: cosine 0.99800",
    ]


def test_whole_int8_plans_are_held_to_the_bound_of_their_residual_stream():
    def plan(cosine):
        return {"onnx": {"onnxruntime": {"cosine_mean": cosine}}, "simulated": {"cosine_mean": 1.0}}

    figures = {"plans": {"int8-naive": plan(0.5), "int8": plan(0.98), "int16-residual": plan(0.98)}}
    assert measured("whole_int8", figures) == [
        ["`int8`: cosine 0.98000", "`int16-residual`: cosine 0.98000 (**missed**: 0.99000)"]
    ]


def test_drops_are_held_to_the_bounds_of_their_kind():
    def lost(median, worst):
        return {"median_drop_points": median, "worst_drop_points": worst, "results": 3}

    summary = {
        "transformer onnx": lost(0.05, 0.4),
        "cnn_rnn tflite": lost(0.2, 0.4),
        "layernorm_x30 onnx": lost(0.0, 0.6),
    }
    zoo, stress = measured("zoo_int8", {"summary": summary})
    assert zoo == [
        "transformers, ONNX (3 results): median 0.05, worst 0.40 (**missed**: 0.30)",
        "CNNs and RNNs, TFLite (3 results): median 0.20 (**missed**: 0.10), worst 0.40",
    ]
    assert stress == ["LayerNorm, ONNX (3 results): median 0.00, worst 0.60 (**missed**: 0.50)"]


def test_calibration_shows_time_and_the_highest_peak():
    time = {"padded": {"minmax": {"calibration_cpu_s": 5.0, "bound_cpu_s": 4.0}}}
    memory = {
        "minmax": {
            "rows_4096": {"peak_mib": 110.0, "bound_mib": 150.0},
            "rows_16": {"peak_mib": 100.0, "bound_mib": 150.0},
            "rows_256": {"peak_mib": 160.0, "bound_mib": 150.0},
        }
    }
    assert measured("calibration", {"time": time, "memory": memory}) == [
        [
            "padded, `minmax`: CPU s 5.00 (**missed**: 4.00)",
            "`minmax`, 16 to 4,096 rows: 100 to 110 MiB, highest peak 160 (**missed**: 150)",
        ]
    ]


def test_agreement_counts_all_parts_of_the_grids():
    grids = {"codes": {"both": 2, "equal": 2}, "bias": {"both": 2, "equal": 1}}
    layers = {"onnx_and_tflite": {"largest_steps": 2, "equal_share": 0.9999}}
    figures = {"case": {"grids": grids, "layers": layers, "end_to_end": {"same_decisions": 0.99}}}
    assert measured("agreement", figures) == [
        [
            (
                "`case`: grids and weights equal 75.00% (**missed**: 100.00%), largest step 2 (**missed**: 1), "
                "equal codes 99.9900%, same decisions 99.00% (**missed**: 99.50%)"
            )
        ]
    ]
