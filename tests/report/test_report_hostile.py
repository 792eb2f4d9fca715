"""Labels, texts and names that others wrote cannot become a part of the page, in whichever field they stand."""

import copy
import json
import re

import pytest
from page_reader import Page
from run_documents import document, write

from edgekit.evidence_document import read_run
from edgekit.html_report.evidence_page import evidence_page
from edgekit.html_report.render import render
from edgekit.lanes.saved import read_document
from edgekit_runtime.errors import UsageError

HOSTILE = (
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "' onmouseover='document.title=1' style='color:red",
    "javascript:document.title='owned'",
    "</td></table></style></title><h1>Passed: all gates are met</h1>",
    "<!-- ]]> --><svg onload=document.title='owned'>",
    "{{ page.title }}{% include 'style.css' %}",
    'data:image/png;base64,"><script>alert(1)</script>',
    "&lt;script&gt;&#x3c;img src=x&#62;",
    "\u202e\u2066evil\u200f\x00\x08\ud800\u2028",
    "long " * 20_000,
)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    elif isinstance(value, str):
        yield path


def put(content, path, text):
    for step in path[:-1]:
        content = content[step]
    content[path[-1]] = text


def at(content, path):
    for step in path:
        content = content[step]
    return content


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """Places of a document that take any text: those with which it is still read."""
    folder, whole = tmp_path_factory.mktemp("hostile"), document()
    places = []
    for path in leaves(whole):
        changed = copy.deepcopy(whole)
        put(changed, path, "harmless")
        try:
            read_run(write(folder / "run.json", changed))
        except UsageError:
            continue
        places.append(path)
    return whole, places


def filled(free, text):
    """Put ``text`` behind what stands in every free place: equal names stay equal, others stay apart."""
    whole, places = free
    content = copy.deepcopy(whole)
    for path in places:
        put(content, path, at(content, path) + text)
    named = content["layers"] | {f"onnx-int8{text}": content["layers"].pop("onnx-int8")}
    return {**content, "layers": named, "versions": {f"tool{text}": "1"}, "sizes": {f"onnx-int8{text}": 5}}


def html_of(tmp_path, content, name="run.json"):
    return render(evidence_page(read_run(write(tmp_path / name, content))))


def test_most_places_of_a_document_are_tried(free):
    _, places = free
    for path in [
        ("bundle", "name"),
        ("rows", "source"),
        ("lanes", 1, "lane"),
        ("lanes", 1, "kernels"),
        ("lanes", 1, "machine", "cpu"),
        ("lanes", 1, "machine", "features", 0),
        ("labels", 0),
        ("created",),
        ("comparison", "lanes", 1, "worst_rows", 0, "raw"),
        ("comparison", "lanes", 1, "worst_rows", 0, "lane"),
        ("comparison", "lanes", 1, "slices", 0, "name"),
        ("verdict", "results", 0, "words"),
        ("layers", "onnx-int8", "layers", 1, "note"),
        ("plan", 0, "why"),
    ]:
        assert path in places
    assert len(places) > 150


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_anywhere_adds_no_element_and_no_attribute(tmp_path, free, text):
    # The same places with harmless text give the same page, element by element. A slash in a name makes it a device's.
    plain = re.sub(r"[^A-Za-z0-9/: ]", "", text)
    harmless, hostile = (Page(html_of(tmp_path, filled(free, each))) for each in (plain, text))
    assert hostile.shape == harmless.shape
    assert len(hostile.shape) > 500
    for tag, attributes in hostile.elements:
        assert tag != "script"
        assert not any(name.startswith("on") or name in {"href", "style", "srcdoc", "action"} for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")


def test_hostile_text_is_shown_as_it_is(tmp_path, free):
    text = Page(html_of(tmp_path, filled(free, HOSTILE[0]))).text
    assert text.count(HOSTILE[0]) > 100
    for evil, shown in [("\u202e", "⟨U+202E⟩"), ("\x00", "⟨U+0000⟩"), ("\ud800", "⟨U+D800⟩")]:
        html = html_of(tmp_path, filled(free, evil))
        assert evil not in html
        assert shown in html


def test_page_forbids_scripts_and_loads_even_if_something_slipped_in(tmp_path):
    (policy,) = [
        attributes["content"]
        for tag, attributes in Page(html_of(tmp_path, document())).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert not rules.keys() & {"script-src", "connect-src", "font-src", "frame-src"}


def test_page_names_no_address_to_load(tmp_path):
    html = html_of(tmp_path, document())
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    assert "http:" not in html
    assert "https:" not in html


def test_hostile_file_name_is_only_text(tmp_path):
    name = "<img src=x onerror=alert(1)>\u202e.json"
    page = Page(html_of(tmp_path, document(), name))
    assert "<img src=x onerror=alert(1)>⟨U+202E⟩.json" in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_very_long_texts_are_cut_and_the_cut_is_told(tmp_path):
    content = document()
    content["comparison"]["lanes"][1]["worst_rows"][0]["raw"] = "word " * 100_000
    html = html_of(tmp_path, content)
    assert len(html) < 200_000
    assert "(500,000 characters)" in html


def test_escape_codes_reach_no_terminal(tmp_path, capsys):
    from edgekit.cli import main

    evil = "\x1b]0;owned\x07\x1b[2J"
    content = document()
    content["bundle"]["name"] = evil
    content["lanes"][1]["engine_version"] = evil
    pair = [str(write(tmp_path / name, held)) for name, held in (("a.json", document()), ("b.json", content))]
    assert main(["diff", *pair]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "⟨U+001B⟩" in out


def test_document_is_still_strict_json(tmp_path):
    content = document()
    path = write(tmp_path / "run.json", content)
    assert read_document(path) == json.loads(json.dumps(content, allow_nan=False))
