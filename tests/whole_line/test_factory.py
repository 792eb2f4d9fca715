"""A teacher that comes from the user's own code."""

import json
import re

import pytest
from command_line import DIGITS, edgekit

FACTORY = """\
import torch
from torch import nn


def make():
    torch.manual_seed(int(open("seed.txt").read()))
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def broken():
    raise RuntimeError("boom")
"""


@pytest.fixture
def project(tmp_path):
    recipe = DIGITS.replace(
        "{architecture: cnn, config: {widths: [16, 32]}, licence: Apache-2.0}", "{factory: 'own:make'}"
    )
    (tmp_path / "digits.yaml").write_text(recipe)
    (tmp_path / "own.py").write_text(FACTORY)
    (tmp_path / "seed.txt").write_text("0")
    return tmp_path


def build(project, *more):
    return edgekit("build", "digits.yaml", "-o", "out", *more, cwd=project, cache=project / "cache")


def test_a_module_of_the_user_teaches_a_student(project):
    run = build(project, "--trust-code")
    assert run.code == 0, run.err
    assert re.search(r"^ExportTeacher: .*not exported: the teacher is a foreign module", run.err, re.MULTILINE)
    rows = {row["lane"]: row for row in json.loads((project / "out/report.json").read_text())["rows"]}
    assert rows["teacher"]["accuracy"] > 0.8
    assert rows["teacher"]["cpu_ms_min"] is None
    assert rows["onnx-int8"]["accuracy"] > 0.8
    again = build(project, "--trust-code")
    assert re.search(r"^AdaptTeacher: cached", again.err, re.MULTILINE)
    (project / "seed.txt").write_text("1")  # other weights, the same code
    other = build(project, "--trust-code")
    assert other.code == 0, other.err
    assert not re.search(r"^AdaptTeacher: cached", other.err, re.MULTILINE)


def test_without_consent_nothing_of_it_runs(project):
    (project / "own.py").write_text("open('ran', 'w').close()\n" + FACTORY)
    run = build(project)
    assert run.code == 2
    assert "error[E0256]" in run.err
    assert not (project / "ran").exists()


def test_a_fault_in_it_is_told_as_the_users(project):
    recipe = (project / "digits.yaml").read_text()
    (project / "digits.yaml").write_text(recipe.replace("own:make", "own:broken"))
    run = build(project, "--trust-code")
    assert run.code == 2
    assert "error[E0281]: the factory 'own:broken' raised RuntimeError: boom" in run.err
    assert re.search(r"own\.py:11", run.err)
