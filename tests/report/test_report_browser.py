"""The report in a real browser without a network: what it shows, and that it asks for nothing and runs nothing."""

import json
import os
import re
import shutil
import subprocess

import pytest
from page_reader import Page
from PIL import Image
from run_documents import document, lane, lanes, reference_logits, write

from edgekit.html_report.render import write_report

BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed: apt install chromium")


def browse(path, folder, *options, width=1000, height=1400):
    """Open a file; give what the browser prints, what its console says, and the addresses that it asked for."""
    log = folder / "net.json"
    command = [
        BROWSER,
        "--headless",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        f"--window-size={width},{height}",
        *options,
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = {each for each in re.findall(r'"url":"([^"]+)"', log.read_text()) if not each.startswith("file:")}
    return done.stdout, console, asked


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(write(folder / "run.json", document()), folder / "report.html")
    return folder / "report.html"


def test_text_is_there_and_the_browser_neither_complains_nor_asks_for_anything(report, tmp_path):
    dom, console, asked = browse(report, tmp_path, "--dump-dom")
    assert (console, asked) == ([], set())
    text = Page(dom).text
    for words in (
        "✗ Failed: ",
        "tiny 1.2.3",
        "onnx-int8 85.00 % (70.16 to 94.29 %)",
        "2 of 40: 5.00 % (0.61 to 16.92)",
        "first out of line is encoder.second",
        "review number 10",
        "48,123,456",
        "no latency",
        "ab" * 32,
    ):
        assert words in text


def test_browser_builds_the_very_elements_that_were_written(report, tmp_path):
    # A browser that mends a page (a cell out of place, an element that was not closed) moves its elements.
    dom, _, _ = browse(report, tmp_path, "--dump-dom")
    wanted = [tag for tag, _ in Page(report.read_text(encoding="utf-8")).elements]
    assert [tag for tag, _ in Page(dom).elements] == wanted


def test_hostile_report_runs_nothing(tmp_path):
    content = document()
    evil = "\"></td></title></style><script>document.title='owned';console.log('owned')</script><img src=//x.test/y>"
    content["labels"] = [evil, "b"]
    content["bundle"]["name"] = evil
    content["lanes"][1]["machine"]["cpu"] = evil
    content["comparison"]["lanes"][1]["worst_rows"][0]["raw"] = evil
    content["plan"][0]["why"] = evil
    write_report(write(tmp_path / "run.json", content), tmp_path / "report.html")
    dom, console, asked = browse(tmp_path / "report.html", tmp_path, "--dump-dom")
    assert (console, asked) == ([], set())
    assert "<title>owned" not in dom
    assert Page(dom).text.count("<script>document.title='owned'") >= 5


def test_console_and_network_are_really_watched(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><title>x</title><img src='http://x.test/y.png'><script>console.error('boo')</script>"
    )
    _, console, asked = browse(bad, tmp_path, "--dump-dom")
    assert "boo" in console[0]
    assert asked == {"http://x.test/y.png"}


def colours(path):
    with Image.open(path) as read:
        image = read.convert("RGB")
        counts = {colour: count for count, colour in image.getcolors(maxcolors=image.width * image.height)}
        return counts, image.size, image.getpixel((500, 25))


@pytest.mark.parametrize(
    ("good", "scheme", "paper", "banner"),
    [
        (False, "light", (0xFF, 0xFF, 0xFF), (0xFC, 0xE8, 0xE8)),
        (True, "light", (0xFF, 0xFF, 0xFF), (0xE3, 0xF4, 0xE8)),
        (False, "dark", (0x14, 0x17, 0x1A), (0x42, 0x16, 0x19)),
    ],
)
def test_screenshot_has_the_colour_of_the_verdict_at_its_top(tmp_path, good, scheme, paper, banner):
    held = [lanes()[0], lane("onnx-int8", reference_logits())] if good else lanes()
    write_report(write(tmp_path / "run.json", document(held)), tmp_path / "report.html")
    picture = tmp_path / "picture.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    browse(tmp_path / "report.html", tmp_path, f"--screenshot={picture}", *dark)
    counts, size, top = colours(picture)
    assert size == (1000, 1400)
    assert max(counts, key=counts.get) == paper
    assert top == banner
    assert counts[banner] > 30_000
    assert len(counts) > 50  # text with smooth edges


def test_nothing_sticks_out_at_phone_width(report, tmp_path):
    # The page itself runs no script, so a page around it measures it.
    framed = tmp_path / "frame.html"
    framed.write_text(
        "<!DOCTYPE html><title>x</title><body style='margin:0;background:#123456'>"
        f"<iframe src='{report.as_uri()}' width=360 height=9000 style='border:0'></iframe>"
        "<script>onload=()=>{const d=document.querySelector('iframe').contentDocument.documentElement;"
        "document.title=JSON.stringify([d.scrollWidth,d.clientWidth])}</script>"
    )
    dom, _, _ = browse(framed, tmp_path, "--dump-dom", "--allow-file-access-from-files")
    title = dom.partition("<title>")[2].partition("</title>")[0]
    scroll, client = json.loads(title)
    assert scroll == client == 360
