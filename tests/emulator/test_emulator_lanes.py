"""Bundles on emulated ARM cores: real emulation, real engines."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from edgekit.emulator import run
from edgekit.emulator.cores import CORES, get_core
from edgekit.emulator.counts import CLASSES
from edgekit.emulator.home import Home
from edgekit.emulator.lanes import open_lanes
from edgekit.emulator.run import Job, run_job
from edgekit.lanes.base import Question
from edgekit_runtime.bundle import verify
from edgekit_runtime.errors import DeviceError, MissingError, UsageError
from edgekit_runtime.evidence import fingerprint
from edgekit_runtime.rows import IMAGES, RawRows

PIXELS = np.random.default_rng(11).integers(0, 256, (7, 8, 8), np.uint8)
BOTH = ("onnx-int8", "tflite-int8")
STEP = tiny_models.INT8_OUTPUT[0]


@pytest.fixture(scope="module")
def answers(emulator, bundle_path):
    """Give a function that runs a lane; each (lane, number of the run) once."""
    question = Question(path=bundle_path, bundle=verify(bundle_path), rows=RawRows(arrays={IMAGES: PIXELS}))

    @cache
    def answered(place, model, number=0):
        (lane,) = open_lanes(place, (model,))
        return lane.answer(question)

    return answered


def float_logits():
    return np.concatenate([tiny_models.image_logits(image.astype(np.float32) / 255) for image in PIXELS])


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
@pytest.mark.parametrize("model", BOTH)
def test_aarch64_engines_answer_like_the_float_network(answers, core, model):
    found = answers(f"arm:{core}", model)
    # Half a step of each of 64 weights of at most a pixel of 1, and of the output: far above what int8 really loses.
    assert found.outputs.shape == (7, 3)
    assert np.abs(found.outputs - float_logits()).max() < 2 * STEP
    assert (found.lane, found.machine.arch, found.precision) == (f"arm:{core}/{model}", "aarch64", "int8")
    assert found.selftest == ()
    assert found.tensors["image"] == pytest.approx([fingerprint(image / np.float32(255)) for image in PIXELS], rel=1e-6)
    assert "asimddp" in found.machine.features or core == "cortex-a53"


def test_armv7_answers_with_tflite_runtime(answers):
    found = answers("armv7:cortex-a7", "tflite-int8")
    assert np.abs(found.outputs - float_logits()).max() < 2 * STEP
    assert (found.engine, found.machine.arch) == ("tflite-runtime", "armv7l")
    assert found.cost.instructions_min > 64 * 3
    assert found.cost.instruction_classes == {}


def test_an_emulated_lane_reports_no_time(answers):
    cost = answers("arm:cortex-a76", "tflite-int8").cost
    assert (cost.cpu_ms_min, cost.cpu_ms_median, cost.peak_rss_mib) == (None, None, None)


@pytest.mark.parametrize("model", BOTH)
def test_a_core_with_dot_products_uses_them_and_one_without_does_not(answers, model):
    counted = {core: answers(f"arm:{core}", model).cost for core in ("cortex-a53", "cortex-a76")}
    assert counted["cortex-a53"].instruction_classes["dot_product"] == 0
    # 64 products of each of 3 outputs, 16 to an instruction: 12 at least.
    assert counted["cortex-a76"].instruction_classes["dot_product"] >= 12
    for cost in counted.values():
        assert sum(cost.instruction_classes[name] for name in CLASSES) == cost.instructions_min


def test_litert_takes_the_same_instructions_in_every_run(answers):
    first, second = (answers("arm:cortex-a76", "tflite-int8", number).cost for number in (0, 1))
    assert first.instructions_min == second.instructions_min
    assert first.instruction_classes == second.instruction_classes


def test_onnxruntime_takes_the_same_instructions_to_a_thousandth(answers):
    first, second = (answers("arm:cortex-a76", "onnx-int8", number).cost for number in (0, 1))
    assert abs(first.instructions_min - second.instructions_min) <= 1e-3 * first.instructions_min


def test_few_rows_are_asked_often_enough_to_count(emulator, bundle_path, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = RawRows(arrays={IMAGES: PIXELS[:2]})
    found = run_job(Job(bundle=bundle_path, rows=rows, engine="litert", lane="x"), get_core("arm:cortex-a76"), emulator)
    assert found.outputs.shape == (2, 3)
    assert found.tensors["image"].shape == (2,)
    assert found.cost.instructions_min > 0
    assert list(tmp_path.iterdir()) == [], "a run left something behind"


def test_an_error_of_the_device_code_comes_back_with_its_words(emulator, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = Job(bundle=tmp_path / "none.edge", rows=RawRows(arrays={IMAGES: PIXELS}), engine="litert", lane="here")
    with pytest.raises(DeviceError, match="exit code 6") as raised:
        run_job(job, get_core("arm:cortex-a53"), emulator)
    assert raised.value.code == "E0830"
    assert "none.edge" in raised.value.why
    assert list(tmp_path.iterdir()) == []


def test_a_crash_is_told_with_the_signal_and_the_last_lines(tmp_path):
    with pytest.raises(DeviceError, match="killed by SIGSEGV") as raised:
        run._run(["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo line $n >&2; done; kill -SEGV $$"], tmp_path, "lane")
    assert raised.value.code == "E0831"
    assert "line 8" in raised.value.why
    assert "line 1 " not in raised.value.why


def test_an_endless_guest_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_LIMIT_SECONDS", 0.2)
    with pytest.raises(DeviceError) as raised:
        run._run(["sleep", "60"], tmp_path, "lane")
    assert raised.value.code == "E0832"


def test_an_interrupt_kills_the_guest(tmp_path):
    code = (
        "from pathlib import Path; from edgekit.emulator.run import _run; import sys\n"
        "_run(['sh', '-c', 'echo $$ > pid; exec sleep 60'], Path(sys.argv[1]), 'lane')"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().strip()):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait() != 0
    guest = int(pid.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(guest, 0)


def test_a_time_limits_kill_ends_the_guest_and_removes_its_folders(emulator, bundle_path, tmp_path):
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from edgekit.emulator.lanes import open_lanes; from edgekit.lanes.base import Question\n"
        "from edgekit_runtime.bundle import verify; from edgekit_runtime.rows import RawRows\n"
        "path = Path(sys.argv[1]); rows = RawRows(arrays={'images': np.zeros((5000, 8, 8), np.uint8)})\n"
        "(lane,) = open_lanes('arm:cortex-a53', ['onnx-int8'])\n"
        "lane.answer(Question(path=path, bundle=verify(path), rows=rows))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "EDGEKIT_CACHE": str(emulator.root.parent)}
    with subprocess.Popen([sys.executable, "-c", code, bundle_path], env=environment) as child:
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        while not (guests := children.read_text().split()):
            assert child.poll() is None
            time.sleep(0.02)
        child.terminate()
    assert child.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{guest}").exists() for guest in guests)


def test_a_place_gives_a_lane_for_each_model_that_it_has_an_engine_for():
    assert [lane.name for lane in open_lanes("arm:cortex-a72", BOTH)] == [f"arm:cortex-a72/{model}" for model in BOTH]
    assert [lane.name for lane in open_lanes("armv7:cortex-a7", BOTH)] == ["armv7:cortex-a7/tflite-int8"]


@pytest.mark.parametrize(
    ("place", "models", "code"),
    [("arm:cortex-a99", BOTH, "E0160"), ("armv7:cortex-a53", BOTH, "E0160"), ("armv7:cortex-a7", BOTH[:1], "E0161")],
)
def test_a_core_or_engine_that_is_not_there_is_refused(place, models, code):
    with pytest.raises(UsageError) as raised:
        open_lanes(place, models)
    assert raised.value.code == code


def test_a_lane_without_the_emulator_says_how_to_set_it_up(bundle_path, tmp_path):
    job = Job(bundle=bundle_path, rows=RawRows(arrays={IMAGES: PIXELS}), engine="litert", lane="x")
    with pytest.raises(MissingError) as raised:
        run_job(job, get_core("armv7:cortex-a7"), Home(tmp_path))
    assert raised.value.code == "E0677"
    assert raised.value.fix == "edgekit emulator setup --arch armv7"


# Main identification registers of the Arm technical reference manuals, revision as in the boards.
@pytest.mark.parametrize(
    ("place", "midr"),
    [
        ("arm:cortex-a53", 0x410FD034),
        ("arm:cortex-a72", 0x410FD083),
        ("arm:cortex-a76", 0x414FD0B1),
        ("armv7:cortex-a7", 0x410FC075),
    ],
)
def test_cpuinfo_has_the_identification_of_the_core(place, midr):
    assert set(CORES) >= {place}
    blocks = get_core(place).cpuinfo().strip().split("\n\n")
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        held = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        assert held["processor"] == str(number)
        assert int(held["CPU implementer"], 16) == midr >> 24
        assert int(held["CPU variant"], 16) == midr >> 20 & 0xF
        assert int(held["CPU part"], 16) == midr >> 4 & 0xFFF
        assert int(held["CPU revision"]) == midr & 0xF
        assert ("asimddp" in held["Features"].split()) == (place == "arm:cortex-a76")
