"""What a report says: each figure where a reader looks for it, and no section about what was not measured."""

import base64
import io
import json
import sys

import numpy as np
import pytest
import run_documents
from page_reader import Page, table_rows
from PIL import Image
from run_documents import document, flipped, lane, lanes, layer, reference_logits, write

from edgekit.cli import main
from edgekit.evidence_document import read_run
from edgekit.html_report.build_page import build_page
from edgekit.html_report.charts import BarRow, IntervalRow, bar_chart, interval_chart, nice_ticks
from edgekit.html_report.evidence_page import evidence_page
from edgekit.html_report.png import png_uri
from edgekit.html_report.render import MOST_BYTES, render
from edgekit.html_report.text import clip, visible
from edgekit.parity.rows import Thumbnail
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.rows import RawRows


def html_of(tmp_path, content):
    return render(evidence_page(read_run(write(tmp_path / "run.json", content))))


def headings(html):
    return [part.partition("</h2>")[0] for part in html.split("<h2>")[1:]]


def test_sections_come_in_reading_order(tmp_path):
    assert headings(html_of(tmp_path, document())) == [
        "Accuracy",
        "Changed answers",
        "Lanes",
        "Gates",
        "Worst slice",
        "Layers",
        "Worst rows",
        "In words",
        "Instructions by class",
        "Plan",
        "Provenance",
    ]


def test_verdict_comes_before_everything_else_and_names_what_was_missed(tmp_path):
    html = html_of(tmp_path, document())
    header, _, rest = html.partition("</header>")
    assert '<header class="bad">' in header
    assert "✗ Failed: " in header
    assert "pi.json/device: the outputs hold NaN or infinity" in Page(header).text
    assert "arm:cortex-a72" not in header  # it missed nothing
    assert "<h2>" in rest
    assert "<h2>" not in header


def test_sound_lanes_pass_in_green_and_words(tmp_path):
    held = [lanes()[0], lane("onnx-int8", reference_logits())]
    header = html_of(tmp_path, document(held)).partition("</header>")[0]
    assert '<header class="good">' in header
    assert "✓ Passed: no gate is missed" in header


def test_figures_of_each_lane_are_those_of_the_answers(tmp_path):
    # torch: 36 of 40 right; onnx-int8 flips two that were right: 34 of 40 right, 2 of 40 changed.
    # Exact intervals: R's binom.test(36, 40), binom.test(34, 40) and binom.test(2, 40).
    rows = table_rows(html_of(tmp_path, document()))
    assert ["torch", "float32 here", "90.00 %", "76.34 to 97.21 %", "-", "-"] in rows
    found = next(row for row in rows if row[:2] == ["onnx-int8", "int8 here"])
    assert found[2:4] == ["85.00 %", "70.16 to 94.29 %"]
    assert found[4].startswith("5.00 points (")
    assert found[5] == "0.5"  # both of two discordant rows to one side: 2 * 0.5^2
    closeness = next(row for row in rows if row[0] == "onnx-int8" and "of 40" in row[1])
    assert closeness[1] == "2 of 40: 5.00 % (0.61 to 16.92)"
    # 80 entries of size 1, four of them off by 2: 10 log10(80 / 16); cosine (76 - 4) / 80.
    assert closeness[2:5] == ["7.0 dB", "0.900000", "2 logits"]
    assert closeness[5] == "255 steps"  # the grid of 8 bits spans -1 to 1: 2 / (2 / 255)


def test_equal_answers_are_called_exact_and_nan_stays_nan(tmp_path):
    rows = table_rows(html_of(tmp_path, document()))
    emulated = next(row for row in rows if row[0].startswith("arm:") and "of 40" in row[1])
    assert emulated[1:3] == ["0 of 40: 0.00 % (0.00 to 8.81)", "exact"]
    broken = next(row for row in rows if row[0] == "pi.json/device" and "of 40" in row[1])
    assert broken[2:] == ["NaN"] * 4


def test_instructions_are_never_shown_as_a_latency(tmp_path):
    html = html_of(tmp_path, document())
    emulated = next(row for row in table_rows(html) if row[0].startswith("arm:") and "48,123,456" in row)
    assert "-" in emulated
    assert "1.25" not in " ".join(emulated)
    assert "no latency" in Page(html).text


def test_where_a_lane_ran_and_what_it_cost(tmp_path):
    rows = table_rows(html_of(tmp_path, document()))
    assert [
        "onnx-int8",
        "onnxruntime 9.8.7\nint8, 1 thread",
        "Desk CPU\nx86_64",
        "14.45",
        "1.250",
        "1.500",
        "-",
        "-",
    ] in rows
    device = next(row for row in rows if row[0] == "pi.json/device" and "81.5" in row)
    assert device[2] == "0x41 0xd08\naarch64"


def test_missed_gates_come_first_with_measured_value_and_bound(tmp_path):
    rows = table_rows(html_of(tmp_path, document()))
    gates = [row for row in rows if row[0] in {"failed", "undecided", "passed"}]
    outcomes = [row[0] for row in gates]
    assert outcomes == sorted(outcomes, key=["failed", "undecided", "passed"].index)
    assert ["undecided", "onnx-int8", "max changed", "2 of 40: 5.00 % (0.61 to 16.92)", "at most 5 points"] in gates
    assert ["failed", "pi.json/device", "finite", "the outputs hold NaN or infinity", "-"] in gates


def test_layer_that_is_out_of_line_is_named_and_marked(tmp_path):
    html = html_of(tmp_path, document())
    text = Page(html).text
    assert "onnx-int8: first out of line is encoder.second: weights of channel 3 are 2 times too large." in text
    assert "12.2 dB local, 11.8 dB inherited" in text
    assert ["head", "linear", "static", "exact", "NaN", "40.0 dB", "0.290", "1 %", ""] in table_rows(html)
    assert html.count('<li class="bad">\n<span class="label" dir="auto">encoder.second</span>') == 1
    assert '<li class="bad">\n<span class="label" dir="auto">encoder.first</span>' not in html


def test_most_layers_are_cut_to_the_worst_in_order_of_execution(tmp_path):
    many = tuple(layer(f"layer{place:03d}", 20.0 + place % 7, 20.0) for place in range(400))
    html = html_of(tmp_path, document(layers=many))
    assert "The 120 worst of 400 layers are shown." in Page(html).text
    shown = [row[0] for row in table_rows(html) if row[0].startswith("layer")]
    # 58 layers each have 20 and 21 dB, the last four come from the 57 with 22 dB.
    assert len(shown) == 120
    assert shown == sorted(shown)
    assert {int(name[5:]) % 7 for name in shown} == {0, 1, 2}


def test_worst_rows_show_inputs_answers_and_who_differs(tmp_path):
    rows = table_rows(html_of(tmp_path, document()))
    (row,) = [row for row in rows if len(row) == 5 and row[1] == "review number 10"]
    assert row[0] == "10"
    assert row[2:4] == ["negative", "negative (1.000)"]
    assert row[4] == "≠ onnx-int8: positive (1.000), off by 2 logits"
    worst = [row for row in rows if len(row) == 5 and row[1].startswith("review number")]
    assert [row[0] for row in worst] == ["5", "10", "11"]  # NaN before flips


def test_images_stand_in_the_page_as_they_were(tmp_path):
    pixels = np.arange(40 * 6 * 5 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 6, 5, 3)
    html = html_of(tmp_path, document(rows=RawRows(arrays={"images": pixels})))
    images = [attrs for tag, attrs in Page(html).elements if tag == "img"]
    assert [attrs["alt"] for attrs in images] == ["input of row 5", "input of row 10", "input of row 11"]
    data = base64.b64decode(images[1]["src"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as decoded:
        assert np.array_equal(np.asarray(decoded), pixels[10])


def test_grey_picture_decodes_to_its_pixels():
    uri = png_uri(Thumbnail(height=2, width=3, channels=1, pixels=bytes([0, 50, 100, 150, 200, 255])))
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as decoded:
        assert (decoded.mode, decoded.size) == ("L", (3, 2))
        assert np.asarray(decoded).tolist() == [[0, 50, 100], [150, 200, 255]]


@pytest.mark.parametrize(
    ("height", "width", "channels", "size"), [(2, 2, 1, 3), (0, 2, 1, 0), (2, 2, 2, 8), (500, 1, 1, 500)]
)
def test_pixels_that_are_no_picture_are_refused(height, width, channels, size):
    with pytest.raises(ValueError, match="no picture"):
        png_uri(Thumbnail(height=height, width=width, channels=channels, pixels=bytes(size)))


def test_without_labels_there_is_no_accuracy(tmp_path):
    html = html_of(tmp_path, document(targets=None))
    assert headings(html)[:2] == ["Changed answers", "Lanes"]
    assert "accuracy" not in Page(html).text.lower().replace("accuracy lost", "")


def test_answers_of_a_device_alone_are_not_called_good(tmp_path):
    content = run_documents.device_document([lane("device", reference_logits())])
    html = html_of(tmp_path, content)
    assert '<header class="open">' in html
    assert "Not judged: the self-test passed" in html
    assert headings(html) == ["Lanes", "Provenance"]


def test_failed_self_test_of_a_device_is_bad(tmp_path):
    content = run_documents.device_document([lane("device", reference_logits())])
    content["lanes"][0]["selftest"] = ["outputs: 3.0 dB, at least 20 dB"]
    html = html_of(tmp_path, content)
    assert '<header class="bad">' in html
    assert "device: outputs: 3.0 dB, at least 20 dB" in html.partition("</header>")[0]


def test_provenance_holds_digests_versions_and_cpu_features(tmp_path):
    rows = table_rows(html_of(tmp_path, document()))
    assert ["bundle sha256", "ab" * 32] in rows
    assert ["seed", "7"] in rows
    assert ["edgekit", "0.1.0"] in rows
    board = next(row for row in rows if row[0] == "arm:cortex-a72/tflite-int8\npi.json/device")
    assert board[-1] == "asimd fp"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lanes", [{"lane": "x"}]),
        ("comparison", {"schema": 2}),
        ("verdict", {"passed": True}),
        ("layers", {"onnx-int8": {"layers": [{}]}}),
        ("plan", [{"name": "x"}]),
        ("sizes", ["x"]),
        ("labels", "text"),
        ("rows", {"count": "many", "sha256": "", "source": ""}),
    ],
)
def test_damaged_part_is_named(tmp_path, name, value):
    path = write(tmp_path / "run.json", {**document(), name: value})
    with pytest.raises(UsageError, match=f"'{name}'") as caught:
        read_run(path)
    assert caught.value.code == "E0190"


def test_verdict_that_its_own_gates_refute_is_refused(tmp_path):
    content = document()
    assert content["verdict"]["passed"] is False
    content["verdict"]["passed"] = True
    with pytest.raises(UsageError, match="'verdict'"):
        read_run(write(tmp_path / "run.json", content))


def full_size(tmp_path):
    """As much as a comparison of 12 lanes with noisy images can hold."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    held = [
        lanes()[0],
        *(lane(f"ssh://board{place}/onnx-int8", flipped(*range(place, place + 25))) for place in range(11)),
    ]
    many = tuple(layer(f"encoder.layers.{place}.attention.query", 20.0, 20.0) for place in range(400))
    content = document(held, rows=RawRows(arrays={"images": images}), layers=many)
    content["layers"] = {f"{form}-int8": content["layers"]["onnx-int8"] for form in ("onnx", "tflite")}
    content["plan"] = content["plan"] * 400
    return html_of(tmp_path, content)


def test_largest_usual_report_stays_below_one_megabyte(tmp_path):
    html = full_size(tmp_path)
    assert html.count("<img ") == 20
    assert len(html.encode()) <= MOST_BYTES == 1_000_000


def test_report_that_would_be_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.html_report.render.MOST_BYTES", 10_000)
    with pytest.raises(UsageError, match="too large") as caught:
        html_of(tmp_path, document())
    assert caught.value.code == "E0192"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 3, [0, 1, 2, 3]),
        (0.1, 2.9, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
        (-12, 47, [-20, -10, 0, 10, 20, 30, 40, 50]),
        (5, 5, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, wanted):
    assert nice_ticks(low, high) == pytest.approx(wanted)


@pytest.mark.parametrize("value", [0.0, 1e20, -1e20, 1e-300, 1e300])
def test_ticks_of_any_value_are_few_and_apart(value):
    ticks = nice_ticks(value, value)
    assert 2 <= len(ticks) <= 12
    assert sorted(set(ticks)) == ticks


def test_marks_lie_where_their_values_are():
    rows = [IntervalRow(label="x", text="", value=1.0, interval=(0.0, 4.0), colour="int8")]
    (drawn,) = interval_chart("t", rows, ()).rows
    (mark,) = drawn.marks
    assert (mark.low, mark.dot, mark.high) == ("0.00%", "25.00%", "100.00%")


def test_value_that_is_not_finite_is_not_drawn_but_told():
    rows = [
        IntervalRow(label="x", text="nan", value=float("nan"), interval=None, colour="int8"),
        IntervalRow(label="y", text="1", value=1.0, interval=None, colour="int8"),
    ]
    bad, good = interval_chart("t", rows, ()).rows
    assert (bad.marks, bad.state, bad.value) == ((), "bad", "nan")
    assert good.state is None


def test_bars_begin_at_zero_and_endless_ones_reach_the_end():
    legend = (("local", ""), ("inherited", ""))
    rows = [
        BarRow(label="x", text="", values=(-10.0, 30.0)),
        BarRow(label="y", text="", values=(float("inf"), float("nan"))),
    ]
    first, second = bar_chart("t", rows, legend).rows
    # The scale runs from -10 to 30: 0 lies at 25 %.
    assert [(mark.low, mark.high) for mark in first.marks] == [("0.00%", "25.00%"), ("25.00%", "100.00%")]
    assert [(mark.low, mark.width) for mark in second.marks] == [("25.00%", "75.00%")]


def test_text_that_hides_or_reorders_is_spelled_out():
    assert visible("a\u202eb\u200bc\x00\x1b[31m\ud800") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+0000⟩⟨U+001B⟩[31m⟨U+D800⟩"
    assert visible("naïve 漢字 עברית\n\ttab") == "naïve 漢字 עברית\n\ttab"
    assert clip("abcdef", 3) == "abc… (6 characters)"
    assert clip("abc", 3) == "abc"


def test_report_of_a_run_is_written_and_the_verdict_printed(tmp_path, capsys):
    run, out = write(tmp_path / "run.json", document()), tmp_path / "a.html"
    assert main(["report", str(run), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["passed"], answer["bytes"]) == (False, len(out.read_bytes()))
    assert answer["verdict"] in out.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("made", "code", "exit_code"),
    [("none", "E0689", 6), ("folder", "E0688", 6), ("text", "E0183", 2), ("other report", "E0191", 2)],
)
def test_what_is_no_run_is_refused(tmp_path, capsys, made, code, exit_code):
    run = tmp_path / "run"
    if made in {"folder", "other report"}:
        run.mkdir()
    if made == "other report":
        (run / "report.json").write_text('{"schema": 1}')
    if made == "text":
        run.write_text("hello")
    assert main(["report", str(run), "--out", str(tmp_path / "x.html")]) == exit_code
    assert code in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_unwritable_report_is_refused_and_leaves_nothing(tmp_path, capsys):
    run = write(tmp_path / "run.json", document())
    assert main(["report", str(run), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert "E0193" in capsys.readouterr().err


def test_lacking_jinja2_says_what_to_install(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("jinja2", "edgekit.html_report.render"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(write(tmp_path / "run.json", document()))]) == 6
    assert "pip install 'edgekit[report]'" in capsys.readouterr().err


def test_missing_build_names_the_builds_below(tmp_path):
    (tmp_path / "x86-64").mkdir()
    (tmp_path / "x86-64" / "report.json").write_text("{}")
    with pytest.raises(MissingError) as caught:
        build_page(tmp_path)
    assert str(tmp_path / "x86-64") in caught.value.fix
