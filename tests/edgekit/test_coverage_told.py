"""A build tells which calibrated ranges did not hold on rows that were not calibrated on."""

import json
from dataclasses import replace
from types import SimpleNamespace

from edgekit import build, report
from edgekit.pipeline import Artifact, Kind
from edgekit.report import BuildReport, Clipped


def made(*clipped: Clipped) -> BuildReport:
    return BuildReport(name="n", target="t", eval_rows=1, machine="m", rows=(), held_out_rows=64, clipped=clipped)


def test_only_a_share_above_a_thousandth_is_told() -> None:
    said: list[str] = []
    progress = SimpleNamespace(notice=said.append)
    build._tell_clipped(made(Clipped(name="a input", clipped=0.0125), Clipped(name="b input", clipped=0.001)), progress)
    (told,) = said
    assert told.startswith("1.25% of a input is clipped on 64 training rows that were not calibrated on")


def test_ranges_that_clip_on_purpose_are_told_once_without_advice_for_more_rows() -> None:
    said: list[str] = []
    clipped = (Clipped(name="a input", clipped=0.25), Clipped(name="b input", clipped=0.125))
    build._tell_clipped(replace(made(*clipped), ranges="mse"), SimpleNamespace(notice=said.append))
    (told,) = said
    assert told.startswith("mse ranges clip on purpose: up to 25.00% (a input) on 64 training rows")
    assert "calibration_rows" not in told


def test_report_holds_the_worst_tensors_and_their_share(tmp_path) -> None:
    tensors = [
        {"name": "a output", "fraction_below": 0.25, "fraction_above": 0.5},
        {"name": "b output", "fraction_below": 0.0, "fraction_above": 0.0},
    ]
    content = {"schema": 1, "rows": 7, "worst": ["a output"], "tensors": tensors}
    (tmp_path / "coverage.json").write_text(json.dumps(content), encoding="utf-8")
    artifacts = {Kind.QUANT_PLAN: Artifact(kind=Kind.QUANT_PLAN, path=tmp_path, digest="")}
    assert report._coverage(artifacts) == (7, (Clipped(name="a output", clipped=0.75),))
    assert made(Clipped(name="a output", clipped=0.75)).as_json()["clipped"] == ({"name": "a output", "clipped": 0.75},)
