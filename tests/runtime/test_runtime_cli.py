import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_models

from edgekit_runtime.__main__ import main

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "tflite_runtime",
    "tensorflow",
    "tokenizers",
    "PIL",
    "edgekit",
)


def test_commands_answer_for_people(image_path, text_path, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((8, 8), np.uint8))
    for arguments, word in [
        (["verify", image_path], "intact"),
        (["run", text_path, "good film", "bad film"], "good film"),
        (["run", image_path, tmp_path / "x.npy", "--engine", "litert"], "x.npy"),
        (["selftest", text_path, "--engine", "litert"], "passed"),
        (["bench", image_path, "--runs", "3"], "CPU"),
        (["doctor"], "ready"),
        (["doctor", image_path], "ready"),
    ]:
        assert main([str(part) for part in arguments]) == 0
        assert word in capsys.readouterr().out


def test_json_is_one_object_with_a_schema(image_path, text_path, capsys):
    for arguments, key in [
        (["verify", image_path], "digest"),
        (["run", text_path, "good film"], "predictions"),
        (["selftest", text_path], "passed"),
        (["bench", image_path, "--runs", "3"], "cpu_ms_min"),
        (["doctor"], "engines"),
    ]:
        assert main([*map(str, arguments), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["schema"], answer["command"]) == (1, arguments[0])
        assert key in answer


def test_exit_codes_and_messages(tmp_path, image_path, capsys):
    broken = tmp_path / "broken.edge"
    broken.write_bytes(image_path.read_bytes()[:-1])
    for arguments, code in [
        (["verify", str(broken)], 5),
        (["verify", str(tmp_path / "absent.edge")], 6),
        (["run", str(image_path), str(tmp_path / "absent.png")], 6),
        (["run", str(image_path), "x", "--threads", "0"], 2),
    ]:
        assert main(arguments) == code
        streams = capsys.readouterr()
        assert streams.err.startswith("error[E0")
        assert not streams.out
        assert main([*arguments, "--json"]) == code
        assert set(json.loads(capsys.readouterr().out)["error"]) == {"code", "what", "why", "fix"}


def test_failed_selftest_has_its_own_exit_code(tmp_path, image_parts, capsys):
    from edgekit_runtime.bundle import write_bundle

    wrong = {**image_parts["members"], "golden/onnxruntime.npy": tiny_models.npy(np.ones((6, 3), np.float32))}
    write_bundle(tmp_path / "x.edge", **{**image_parts, "members": wrong})
    assert main(["selftest", str(tmp_path / "x.edge")]) == 3
    assert "FAIL outputs" in capsys.readouterr().out


def test_unforeseen_error_is_exit_1_and_has_a_traceback_for_debug_alone(image_path, monkeypatch, capsys):
    def raise_it(_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("edgekit_runtime.__main__._check", raise_it)
    assert main(["bench", str(image_path), "--json"]) == 1
    streams = capsys.readouterr()
    assert streams.err.startswith("error[E0001]: unforeseen: RuntimeError: on purpose")
    assert "Traceback" not in streams.err
    assert json.loads(streams.out)["error"]["code"] == "E0001"
    assert main(["bench", str(image_path), "--debug"]) == 1
    assert "in raise_it" in capsys.readouterr().err


def test_interrupted_program_ends_without_a_traceback():
    code = (
        "import runpy, sys, edgekit_runtime.bundle as bundle\n"
        "def interrupted(_): raise KeyboardInterrupt\n"
        "bundle.verify = interrupted\n"
        "sys.argv = ['edgekit_runtime', 'verify', 'x.edge']\n"
        "runpy.run_module('edgekit_runtime', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_module_runs_as_a_program(text_path):
    command = [sys.executable, "-m", "edgekit_runtime", "run", str(text_path), "good film", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["predictions"][0]["label"] in tiny_models.CLASSES


@pytest.mark.parametrize("module", ["edgekit_runtime", "edgekit_runtime.model", "edgekit_runtime.__main__"])
def test_import_loads_no_engine_and_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_takes_at_most_150_ms():
    code = "import time; t = time.process_time(); import edgekit_runtime; print(time.process_time() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)
    ]
    assert min(times) <= 0.150
