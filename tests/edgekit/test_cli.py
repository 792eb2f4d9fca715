"""The command line itself: exit codes, help, what is imported when."""

import contextlib
import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import click
import pytest

from edgekit import __version__, cli
from edgekit.cli import app, main
from edgekit.cli.app import COMMANDS
from edgekit.cli.output import human_bytes, print_json
from edgekit.cli.progress import make_progress
from edgekit.extras import MODULE_EXTRAS, missing_module
from edgekit.targets import TARGETS
from edgekit.versions import requirements
from edgekit_runtime import errors

HEAVY = (
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "pydantic",
    "yaml",
    "rich",
    "transformers",
    "pandas",
    "ai_edge_litert",
)


def python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60, **options
    )


def test_help_loads_no_heavy_module():
    code = "import sys; from edgekit.cli import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = python(code)
    assert done.returncode == 0
    assert "doctor" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "click" in loaded
    assert not loaded & set(HEAVY)


def test_help_takes_less_than_300_ms():
    command = [sys.executable, "-m", "edgekit", "--help"]
    best = float("inf")
    for _ in range(5):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        # CPU time of the child, which other processes on the machine cannot stretch as they do the clock.
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.3


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name, capsys):
    found = importlib.import_module(f"edgekit.cli.{COMMANDS[name].module}").command
    calls = [[name, part] for part in found.commands] if isinstance(found, click.Group) else [[name]]
    for call in calls:
        assert main([*call, "--help"]) == 0
        text = capsys.readouterr().out
        assert "--json" in text
        assert f"Usage: edgekit {' '.join(call)}" in text


def test_no_heavy_module_is_imported_for_the_help_of_a_command():
    code = "import sys; from edgekit.cli import main\nfor name in sys.argv[1:]: main([name, '--help'])\n"
    done = python(code + "print(*sorted(sys.modules), file=sys.stderr)", *COMMANDS)
    assert not {name.partition(".")[0] for name in done.stderr.split()} & (set(HEAVY) - {"numpy"})


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_unknown_command_names_the_nearest(capsys):
    assert main(["bild"]) == 2
    assert "Did you mean 'build'" in capsys.readouterr().err


def test_unknown_option_is_exit_2(capsys):
    assert main(["targets", "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err


ERRORS = {
    errors.UsageError: 2,
    errors.QualityError: 3,
    errors.TargetError: 4,
    errors.BundleError: 5,
    errors.MissingError: 6,
    errors.ConversionError: 7,
    errors.DeviceError: 8,
}


def raising(monkeypatch, error):
    def raise_it(_):
        raise error

    monkeypatch.setattr("edgekit.cli.targets.get_target", raise_it)


@pytest.mark.parametrize(("kind", "code"), ERRORS.items())
def test_each_error_has_its_exit_code_and_three_lines(monkeypatch, capsys, kind, code):
    raising(monkeypatch, kind("E0999", "what", why="why", fix="fix"))
    assert main(["targets", "x"]) == code
    captured = capsys.readouterr()
    assert captured.err == "error[E0999]: what\n  why: why\n  fix: fix\n"
    assert captured.out == ""


def test_error_as_json_is_on_stdout_and_still_on_stderr(monkeypatch, capsys):
    raising(monkeypatch, errors.QualityError("E0399", "what", why="why", fix="fix"))
    assert main(["targets", "x", "--json"]) == 3
    captured = capsys.readouterr()
    error = {"code": "E0399", "what": "what", "why": "why", "fix": "fix", "exit": 3}
    assert json.loads(captured.out) == {"schema": 1, "command": "targets", "error": error}
    assert captured.err.startswith("error[E0399]: what")


def test_unforeseen_error_is_exit_1_without_a_traceback(monkeypatch, capsys):
    raising(monkeypatch, RuntimeError("on purpose"))
    assert main(["targets", "x"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error[E0001]: unforeseen: RuntimeError: on purpose")
    assert "--debug" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("error", [RuntimeError("on purpose"), errors.UsageError("E0199", "on purpose")])
def test_debug_shows_the_traceback(monkeypatch, capsys, error):
    raising(monkeypatch, error)
    main(["--debug", "targets", "x"])
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "raise_it" in text


def test_missing_package_of_an_extra_is_exit_6_with_the_command(monkeypatch, capsys):
    raising(monkeypatch, ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert main(["targets", "x"]) == 6
    assert "pip install 'edgekit[build]'" in capsys.readouterr().err


def test_missing_module_that_is_not_of_an_extra_is_unforeseen(monkeypatch, capsys):
    raising(monkeypatch, ModuleNotFoundError("No module named 'edgekit.no'", name="edgekit.no"))
    assert main(["targets", "x"]) == 1
    assert "E0001" in capsys.readouterr().err


def test_without_click_one_error_with_the_command():
    done = python("import sys; sys.modules['click'] = None\nfrom edgekit.cli import main; sys.exit(main(['--help']))")
    assert done.returncode == 6
    assert done.stderr == "error[E0612]: the package 'click' is not installed\n  fix: pip install 'edgekit[build]'\n"


def test_every_module_of_the_table_belongs_to_its_extra():
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    wanted = {(need.name, need.extra) for need in requirements("edgekit")}
    for module, extra in MODULE_EXTRAS.items():
        assert (names.get(module, module.replace("_", "-")), extra) in wanted
    assert missing_module("json") is None


def test_ctrl_c_is_exit_130_with_one_line(tmp_path):
    code = "import sys, time\nfrom edgekit.cli import main, targets\n"
    code += "def wait(_):\n    open(sys.argv[1], 'w').close()\n    time.sleep(60)\n"
    code += "targets.get_target = wait\nsys.exit(main(['targets', 'x']))"
    flag = tmp_path / "flag"
    with subprocess.Popen([sys.executable, "-c", code, str(flag)], stderr=subprocess.PIPE, text=True) as child:
        try:
            while not flag.exists():
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            _, text = child.communicate(timeout=30)
        finally:
            child.kill()
    assert child.returncode == 130
    assert text.count("\n") == 1
    assert text.startswith("interrupted")


def test_closed_pipe_is_silent():
    command = f"'{sys.executable}' -m edgekit targets | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""


def test_targets_table_shows_every_board(capsys):
    assert main(["targets"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in TARGETS)


def test_targets_as_json(capsys):
    assert main(["targets", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["command"]) == (1, "targets")
    assert [row["name"] for row in answer["targets"]] == list(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_one_target_shows_every_source(name, capsys):
    assert main(["targets", name]) == 0
    text = capsys.readouterr().out
    assert all(source in text for source in TARGETS[name].sources.values())
    assert main(["targets", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == TARGETS[name].as_json()


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_init_writes_a_recipe_that_loads(tmp_path, capsys, task):
    from edgekit.recipe.load import load_recipe

    file = tmp_path / "My Film Model.yaml"
    assert main(["init", str(file), "--task", task]) == 0
    assert str(file) in capsys.readouterr().out
    recipe = load_recipe(file)
    assert recipe.name == "my-film-model"
    assert recipe.model.task == task


def test_init_replaces_only_with_force(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text("mine")
    assert main(["init", str(file)]) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["init", str(file), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(file)
    assert file.read_text().startswith("# An edgekit recipe")


def test_init_into_a_missing_folder_is_a_usage_error(tmp_path, capsys):
    assert main(["init", str(tmp_path / "no" / "recipe.yaml")]) == 2
    assert "E0122" in capsys.readouterr().err


def test_build_refuses_a_wrong_target_before_it_reads_the_recipe(tmp_path, capsys):
    assert main(["build", str(tmp_path / "none.yaml"), "-t", "rpi-5"]) == 2
    assert "did you mean 'rpi5'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_123_456, "4.1 MB"), (2_000_000_000_000, "2000.0 GB")],
)
def test_sizes_are_in_units_of_1000(size, text):
    assert human_bytes(size) == text


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        print_json("x", {"a": float("nan")})


def test_progress_writes_one_line_a_stage_where_no_terminal_is(capsys):
    progress = make_progress()
    progress.stage_started("Distill")
    progress.notice("cache: damaged")
    progress.stage_done("Distill", seconds=12.34, note="2 epochs", cached=False)
    progress.stage_done("Prune", seconds=0.01, note="", cached=True)
    progress.stage_failed("Export")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Distill ...",
        "cache: damaged",
        "Distill: 12.3 s - 2 epochs",
        "Prune: cached",
        "Export: failed",
    ]


def _until_closed(handle):
    with contextlib.suppress(OSError), os.fdopen(handle, newline="") as stream:  # Linux ends a pty with EIO
        while text := stream.read(1):
            yield text


def test_progress_on_a_terminal_gives_the_cursor_back_after_a_failure():
    main_end, other_end = pty.openpty()
    with os.fdopen(other_end, "w") as terminal:
        progress = make_progress(terminal)
        progress.stage_started("Distill [1/2]")
        progress.notice("a [note]")
        progress.stage_failed("Distill [1/2]")
    text = "".join(_until_closed(main_end))
    assert "a [note]" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    assert text.rstrip().endswith("x Distill [1/2]: failed")


def test_tables_are_not_built_by_import_side_effects():
    assert cli.__all__ == ["main"]
    assert list(app.app.list_commands(None)) == list(COMMANDS)
