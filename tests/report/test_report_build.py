"""The report of a build's folder, from what the builds write themselves."""

import json

import pytest
import tiny_bundles
from page_reader import Page, table_rows

from edgekit.html_report.build_page import build_page
from edgekit.html_report.render import render
from edgekit.parity.closeness import Closeness
from edgekit.quantise_only.build import LaneLine, QuantiseReport
from edgekit.report import BuildReport, Clipped, LaneRow
from edgekit_runtime.bundle import pack, verify
from edgekit_runtime.errors import UsageError


def line(lane, **figures):
    plain = {"engine": "onnxruntime", "size_mb": 14.454777, "parameters": 1234, "macs": 5678}
    return LaneRow(lane=lane, **plain, accuracy=0.845, accuracy_interval_95=(0.82, 0.865), **figures)


def recipe_report():
    return BuildReport(
        name="sentiment",
        target="rpi4",
        eval_rows=1500,
        machine="Desk CPU, x86_64",
        rows=(
            line("torch"),
            line("onnx-int8", drop_points=0.25, changed=5, sqnr_db=37.04, cpu_ms_min=1.8641, cpu_ms_median=1.9),
        ),
        held_out_rows=64,
        clipped=(Clipped(name="layers.3 output", clipped=0.000144),),
        saturating=("a", "b"),
    )


def folder_of(tmp_path, report, *, faults=(), with_bundle=False):
    content = {**report.as_json(), "passed": not faults, "faults": list(faults), "sha256": "ab" * 32}
    (tmp_path / "report.json").write_text(json.dumps(content))
    if with_bundle:
        path = tmp_path / "text.edge"
        tiny_bundles.write_text_bundle(path)
        held = verify(path)
        layer = {"name": "head", "kind": "linear", "mode": "static", "why": "integer kernels", "weight_scales": []}
        members = {name: held.read(name) for name in held.names} | {
            "plan.json": json.dumps({"layers": [layer]}).encode()
        }
        manifest = held.manifest
        same = {name: getattr(manifest, name) for name in ("name", "version", "task", "target", "models")}
        path.write_bytes(pack(**same, members=members))
    return tmp_path


def test_build_that_met_its_bounds_is_good_and_shows_its_lanes(tmp_path):
    html = render(build_page(folder_of(tmp_path, recipe_report(), with_bundle=True)))
    assert '<header class="good">' in html
    assert "sentiment 1.2.3" in Page(html).text
    rows = table_rows(html)
    (int8,) = [row for row in rows if row[0] == "onnx-int8"]
    assert int8[1:6] == ["onnxruntime", "84.50 % (82.00 to 86.50)", "+0.25 points", "5 of 1,500", "37.0 dB"]
    assert int8[6:] == ["14.45", "1,234", "5,678", "1.864", "1.900"]
    assert ["layers.3 output", "0.0144 %"] in rows
    assert ["head", "linear", "static", "integer kernels"] in rows
    assert "2 int8 ONNX layers can saturate" in Page(html).text
    assert ["bundle sha256", verify(tmp_path / "text.edge").digest] in rows


def test_build_that_missed_a_bound_says_which(tmp_path):
    html = render(build_page(folder_of(tmp_path, recipe_report(), faults=["onnx-int8: accuracy drop is 3 points"])))
    header = html.partition("</header>")[0]
    assert '<header class="bad">' in header
    assert "onnx-int8: accuracy drop is 3 points" in header


def test_faults_outweigh_a_passed_beside_them(tmp_path):
    folder = folder_of(tmp_path, recipe_report(), faults=["x"])
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**content, "passed": True}))
    assert build_page(folder).state == "bad"
    (folder / "report.json").write_text(json.dumps({**content, "faults": []}))
    assert build_page(folder).state == "bad"


def test_model_that_was_quantised_as_it_is_shows_how_close_it_is(tmp_path):
    close = Closeness(rows=150, cosine_mean=0.99812, cosine_worst=0.97, sqnr_db=float("inf"), nearest_all=0.985)
    lane = LaneLine(
        lane="tflite-int8",
        size_mb=22.8,
        close=close,
        cpu_ms_min=3.25,
        cpu_ms_median=3.5,
        plan="mixed+search",
        in_bundle=True,
    )
    report = QuantiseReport(name="minilm", target="rpi4", model="a folder", rows=150, machine="Desk CPU", lanes=(lane,))
    html = render(build_page(folder_of(tmp_path, report)))
    (row,) = [row for row in table_rows(html) if row[0] == "tflite-int8"]
    assert row == [
        "tflite-int8",
        "mixed+search",
        "yes",
        "0.99812",
        "0.97000",
        "exact",
        "98.5 %",
        "22.80",
        "3.250",
        "3.500",
    ]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"lanes": [{}], "faults": []}', '{"rows": 5, "faults": [], "passed": true}']
)
def test_file_that_no_build_wrote_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        build_page(tmp_path)
    assert caught.value.code == "E0191"
