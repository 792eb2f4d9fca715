"""Every code that is raised is explained, once, with its class; the command and the page tell it."""

import ast
import contextlib
import dataclasses
import json
import os
import pty
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import cli
from edgekit.cli import main
from edgekit.cli.app import COMMANDS
from edgekit.error_table import CLASSES, explain, read_table
from edgekit.recipe import spec
from edgekit_runtime import errors

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path for folder in ("edgekit", "converters", "models", "runtimes") for path in sorted((ROOT / folder).rglob("*.py"))
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CODE = re.compile(r"E[0-9]{4}")
TABLE = read_table()
# The numbering in the docstring of edgekit_runtime.errors; sources and inference have two kinds of faults each.
DIGITS = {
    "00": {"EdgekitError"},
    "01": {"UsageError"},
    "02": {"UsageError", "MissingError"},
    "03": {"QualityError"},
    "04": {"TargetError"},
    "05": {"BundleError"},
    "06": {"MissingError"},
    "07": {"ConversionError"},
    "08": {"DeviceError"},
    "09": {"UsageError", "BundleError"},
}


def name_of(call):
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def constants(node):
    """Give the nodes of codes in an expression; a condition in it compares codes and raises none."""
    if isinstance(node, ast.Compare):
        return []
    if isinstance(node, ast.Constant):
        return [node] if isinstance(node.value, str) and CODE.fullmatch(node.value) else []
    return [found for child in ast.iter_child_nodes(node) for found in constants(child)]


def givers():
    """Give what raises or makes an error: the classes, and the functions that hand their ``code`` on to one.

    Returns:
        Name -> (name of the class, place of the code among the arguments).
    """
    found = {name: (name, 0) for name in errors.__all__}
    for tree in TREES.values():
        for function in (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)):
            names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
            if "code" not in names:
                continue
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                first = call.args[0] if call.args else None
                if name_of(call) in errors.__all__ and isinstance(first, ast.Name) and first.id == "code":
                    assert function.name not in found, f"two functions called {function.name} take a code"
                    found[function.name] = (name_of(call), names.index("code"))
    return found


def raised():
    """Give (code, class, place) of each code in the sources that becomes part of an error, and the codes left over."""
    known, sites, left = givers(), [], []
    for path, tree in TREES.items():
        claimed = set()
        # A function of its own comes after the module and the functions around it; each claims the same codes.
        for scope in (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)):
            named = [
                found
                for node in ast.walk(scope)
                if isinstance(node, ast.Assign) and "code" in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                for found in constants(node.value)
            ]
            for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call) and name_of(node) in known):
                kind, place = known[name_of(call)]
                given = [each.value for each in call.keywords if each.arg == "code"] or call.args[place : place + 1]
                for argument in given:
                    codes = constants(argument)
                    if isinstance(argument, ast.Name) and argument.id == "code":
                        codes = named
                    claimed |= set(codes)
                    sites += [(code.value, kind, f"{path.relative_to(ROOT)}:{code.lineno}") for code in codes]
        left += [f"{path.relative_to(ROOT)}:{code.lineno}" for code in constants(tree) if code not in claimed]
    return sites, left


SITES, LEFT_OVER = raised()


def test_every_code_in_the_sources_belongs_to_an_error_that_this_test_understands():
    assert LEFT_OVER == []
    assert len(SITES) > 400


def test_every_raised_code_is_explained_and_no_other():
    assert {code for code, _, _ in SITES} == set(TABLE)


def test_every_code_is_raised_with_the_class_that_its_digits_and_its_entry_say():
    wrong = [
        f"{place}: {code} with {kind}"
        for code, kind, place in SITES
        if kind not in DIGITS[code[1:3]] or kind != TABLE[code].raised.__name__
    ]
    assert wrong == []


def test_classes_are_those_of_the_numbering():
    assert {two: CLASSES[two].raised.__name__ in kinds for two, kinds in DIGITS.items()} == dict.fromkeys(DIGITS, True)
    assert set(CLASSES) == set(DIGITS)


def test_no_two_codes_have_one_title_or_one_meaning():
    for field in ("title", "means"):
        texts = [getattr(entry, field).lower() for entry in TABLE.values()]
        assert sorted(text for text in set(texts) if texts.count(text) > 1) == []


@pytest.mark.parametrize("field", ["means", "causes", "fix"])
def test_every_entry_has_one_to_three_sentences(field):
    odd = []
    for code, entry in TABLE.items():
        text = getattr(entry, field)
        ends = len(re.findall(r"[.:](?= [A-Z`]|$)", text))
        command = re.fullmatch(r"`[^`]+`", text)  # a fix may be the command to run and nothing more
        if not command and not (text == text.strip() and text.endswith((".", "`")) and 1 <= max(ends, 1) <= 3):
            odd.append(code)
        if len(text) > 300:
            odd.append(code)
    assert odd == []


def test_titles_are_short_and_no_sentences():
    assert [code for code, entry in TABLE.items() if len(entry.title) > 65 or entry.title.endswith(".")] == []


def test_options_and_commands_that_are_advised_exist():
    text = "\n".join(f"{entry.means} {entry.causes} {entry.fix}" for entry in TABLE.values())
    shell = "\n".join(
        path.read_text(encoding="utf-8") for path in SOURCES if path.parent.name in {"cli", "edgekit_runtime"}
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    assert len(options) > 20
    assert [option for option in sorted(options) if f'"{option}"' not in shell] == []
    assert set(re.findall(r"`edgekit ([a-z]+)", text)) <= set(COMMANDS)


def test_keys_of_recipes_that_are_advised_exist():
    sections = {
        "quantize": spec.QuantizeSpec,
        "data": spec.DataSpec,
        "adapt": spec.AdaptSpec,
        "export": spec.ExportSpec,
        "student": spec.StudentSpec,
    }
    text = " ".join(f"{entry.means} {entry.causes} {entry.fix}" for entry in TABLE.values())
    named = re.findall(rf"\b({'|'.join(sections)})\.([a-z_]+)", text)
    assert len(named) > 20
    fields = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in sections.items()}
    assert [f"{section}.{key}" for section, key in named if key not in fields[section]] == []


def test_codes_in_the_docs_are_explained():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {code: page.name for page in pages for code in CODE.findall(page.read_text(encoding="utf-8"))}
    assert len(named) >= len(TABLE)
    assert {code: page for code, page in named.items() if code not in TABLE} == {}


def test_the_page_is_made_from_the_table():
    made = runpy.run_path(str(ROOT / "docs/make_errors.py"))
    text = made["PAGE"].read_text(encoding="utf-8")
    assert text == made["page"](), "run: python docs/make_errors.py"
    anchors = re.findall(r'<a id="([^"]+)">', text)
    assert len(anchors) == len(set(anchors))
    assert set(TABLE) <= set(anchors)
    assert set(re.findall(r"\(#([^)]+)\)", text)) <= set(anchors)


@pytest.mark.parametrize("written", ["E0301", "e0301", "0301", "301", "[E0301]", " e301 "])
def test_a_code_is_found_however_it_is_written(written):
    assert explain(written).code == "E0301"


@pytest.mark.parametrize("asked", ["E0999", "99999", "saturate", "E", "", "-1", "٣٠١", "E03O1", "E0301 E0302"])
def test_an_unknown_code_is_refused_with_what_is_near(asked, capsys):
    assert main(["explain", "--json", "--", asked]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "E0100"
    assert set(CODE.findall(error["why"])) <= set(TABLE)


def test_near_codes_are_neighbours_or_differ_in_a_digit_or_speak_of_the_word():
    def near(asked):
        with pytest.raises(errors.UsageError) as caught:
            explain(asked)
        return CODE.findall(caught.value.why)

    assert {"E0305", "E0306"} <= set(near("E0307"))
    assert "E0909" in near("999")
    assert "E0771" in near("saturate") or "E0772" in near("saturate")
    assert near("qqqq") == []


def test_one_code_is_told_in_full(capsys):
    assert main(["explain", "e0203"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    entry = TABLE["E0203"]
    assert text.startswith("E0203: A package of the recipe is not installed")
    assert "exit code 6, MissingError" in text
    for part in (entry.means, entry.causes, entry.fix):
        assert part in text


def test_json_has_every_part(capsys):
    assert main(["explain", "--json", "E0911"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert (held["schema"], held["command"]) == (1, "explain")
    assert set(held["explained"]) == {"code", "title", "class", "error", "exit", "means", "causes", "fix"}
    assert (held["explained"]["error"], held["explained"]["exit"]) == ("BundleError", 5)


def test_all_codes_are_listed(capsys):
    assert main(["explain"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  (E[0-9]{4})  \S", text, re.MULTILINE) == list(TABLE)
    assert main(["explain", "--json"]) == 0
    assert [entry["code"] for entry in json.loads(capsys.readouterr().out)["codes"]] == list(TABLE)


def test_explaining_loads_nothing_heavy():
    code = "import sys; from edgekit.cli import main; main(['explain', 'E0301']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "tomllib" in loaded
    assert not loaded & {
        "numpy",
        "torch",
        "onnx",
        "onnxruntime",
        "pydantic",
        "yaml",
        "edgekit_models",
        "edgekit_converters",
    }


def told_on_a_terminal(monkeypatch, error):
    monkeypatch.setattr(cli, "_run", lambda _: (_ for _ in ()).throw(error))
    main_end, other_end = pty.openpty()
    with os.fdopen(other_end, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        main(["targets"])
    told = b""
    with contextlib.suppress(OSError):  # Linux ends a pty with EIO
        while part := os.read(main_end, 4096):
            told += part
    os.close(main_end)
    return told.decode()


def test_a_terminal_is_told_where_there_is_more_unless_the_error_says_it_all(monkeypatch):
    assert told_on_a_terminal(monkeypatch, errors.UsageError("E0101", "what", why="why")).endswith(
        "more: edgekit explain E0101\r\n"
    )
    assert "more:" not in told_on_a_terminal(monkeypatch, errors.UsageError("E0101", "what", why="why", fix="fix"))


def test_a_script_is_not_told_more(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda _: (_ for _ in ()).throw(errors.UsageError("E0101", "what")))
    assert main(["targets"]) == 2
    assert capsys.readouterr().err == "error[E0101]: what\n"
