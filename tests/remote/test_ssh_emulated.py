"""`ssh://` to an ARM board: the device's Python and engine are real ARM ones, on an emulated core."""

import shlex

import pytest
from boards import script

from edgekit.emulator.cores import get_core
from edgekit.emulator.home import Home
from edgekit.emulator.lanes import open_lanes as emulated_lanes
from edgekit.emulator.view import guest_view
from edgekit.remote.ssh import open_lanes

MODEL = "onnx-fp32"


@pytest.fixture
def arm_python(tmp_path):
    home, core = Home.default(), get_core("arm:cortex-a72")
    if not all(home.is_ready(part) for part in ("qemu", core.arch)):
        pytest.skip("the emulator is not set up: edgekit emulator setup")
    with guest_view(home, core) as view:
        sysroot = view / "sysroot"
        command = home.command(arch=core.arch, cpu=core.name, sysroot=sysroot, plugin=(), arguments=())
        # What the run puts on PYTHONPATH goes before the guest's own packages.
        words = [
            f'PYTHONPATH="$PYTHONPATH":{shlex.quote(word.partition("=")[2])}'
            if word.startswith("PYTHONPATH=")
            else shlex.quote(word)
            for word in command
        ]
        yield script(tmp_path / "python3", f'exec {" ".join(words)} "$@"')


def test_arm_board_behind_ssh_answers_as_the_emulated_core(board, question, arm_python):
    (remote,) = open_lanes(f"ssh://board?python={arm_python}", [MODEL])
    (emulated,) = emulated_lanes("arm:cortex-a72", [MODEL])
    found, wanted = remote.answer(question), emulated.answer(question)
    assert found.machine == wanted.machine
    assert found.machine.arch == "aarch64"
    assert found.outputs.tobytes() == wanted.outputs.tobytes()
    assert (found.engine, found.engine_version) == (wanted.engine, wanted.engine_version)
