"""`ssh://` against a real sshd on the loopback: right answers, clear failures, and nothing left on the board."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from boards import bare_python, hasty, script

from edgekit.lanes.here import EngineHere
from edgekit.remote.ssh import open_lanes
from edgekit_runtime.errors import DeviceError, MissingError, UsageError

MODEL = "onnx-fp32"
FOLDER = re.compile(r"edgekit-[0-9a-f]{16}")


@pytest.fixture
def python(tmp_path):
    return bare_python(tmp_path / "python on the board")


@pytest.fixture
def hasty_python(tmp_path, evidence):
    return hasty(tmp_path, evidence)


def lane(python, login="board"):
    return open_lanes(f"ssh://{login}?python={python}", [MODEL])[0]


def left_behind(board):
    """Give what is left of the folders that a run made here and on the board, which is the same machine."""
    names = {name for call in board.calls() for word in call for name in FOLDER.findall(word)}
    assert len(names) <= 1
    return [path for name in names for path in Path("/tmp").glob(f"{name}*")]


def kinds(board):
    """Tell the calls apart by what they do."""
    signs = {"find_spec": "probe", "mkdir": "make", "sha256": "check", "selftest": "answer", "rm -rf": "remove"}
    found = []
    for program, *words in board.calls():
        named = [kind for sign, kind in signs.items() if sign in words[-1]]
        found.append(named[0] if program == "ssh" else "fetch" if words[-1].startswith("/") else "copy")
    return found


def refused(board, python, question):
    with pytest.raises(DeviceError) as caught:
        lane(python).answer(question)
    assert left_behind(board) == []
    return caught.value


def test_board_answers_to_the_bit_what_the_same_engine_answers_here(board, python, question):
    found = lane(python, f"{board.user}@127.0.0.1:{board.port}").answer(question)
    here = EngineHere(name="here", model=MODEL, engine="onnxruntime").answer(question)
    assert found.lane == f"ssh://{board.user}@127.0.0.1:{board.port}?python={python}/{MODEL}"
    assert found.outputs.tobytes() == here.outputs.tobytes()
    # 'good' adds 1 to the second logit, 'bad' to the first.
    np.testing.assert_array_equal(found.outputs[:2], [[0, 1], [2, 0]])
    assert found.tensors.keys() == here.tensors.keys()
    assert all(np.array_equal(found.tensors[name], here.tensors[name]) for name in here.tensors)
    assert (found.engine, found.engine_version, found.selftest) == (here.engine, here.engine_version, here.selftest)
    assert left_behind(board) == []


def test_dry_run_shows_exactly_what_is_run_and_runs_nothing(board, hasty_python, question, monkeypatch):
    monkeypatch.setattr("edgekit.remote.payload.secrets.token_hex", lambda size: "0123456789abcdef"[: 2 * size])
    shown = lane(hasty_python).plan(question)
    assert board.calls() == []
    lane(hasty_python).answer(question)
    assert board.calls() == shown
    assert kinds(board) == ["probe", "make", "copy", "check", "answer", "fetch", "remove"]
    assert left_behind(board) == []


def test_folder_on_the_board_is_private_and_a_chatty_login_does_not_disturb(board, question, tmp_path, evidence):
    spying = f'echo Welcome!; case "$*" in *selftest*) ls -ld "${{6%/*}}" >{tmp_path}/seen;; esac'
    assert lane(hasty(tmp_path, evidence, spying)).answer(question).outputs.shape == (4, 2)
    assert (tmp_path / "seen").read_text().startswith("drwx------")


def test_copy_that_was_damaged_on_its_way_is_caught(board, python, question, tmp_path, monkeypatch):
    damaging = f'for last; do :; done; {board.bin}/scp "$@" || exit; dd if=/dev/zero of="${{last#*:}}bundle.edge" '
    script(tmp_path / "scp", damaging + "bs=1 seek=2000 count=1 conv=notrunc status=none")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    error = refused(board, python, question)
    assert error.code == "E0853"
    assert re.fullmatch(r"differs: /\w+/edgekit-\w+\.device/bundle\.edge", error.why)
    assert kinds(board) == ["probe", "make", "copy", "check", "remove"]


def test_board_without_numpy_and_engine_is_told_what_to_install(board, question, tmp_path):
    python = bare_python(tmp_path / "python", packages=False)
    error = refused(board, python, question)
    assert (error.code, error.exit_code) == ("E0852", 8)
    assert f"{python} -m pip install numpy onnxruntime" in error.fix
    assert kinds(board) == ["probe"]


def test_board_without_that_python_is_told_apart(board, question, tmp_path):
    error = refused(board, tmp_path / "absent", question)
    assert error.code == "E0852"
    assert "?python=" in error.fix


def test_old_python_is_refused_before_anything_is_copied(board, question, tmp_path):
    facts = '{"python": [3, 9, 2], "machine": "armv7l", "found": ["numpy", "onnxruntime"]}'
    error = refused(board, script(tmp_path / "python", f"echo '{facts}'"), question)
    assert error.code == "E0852"
    assert "3.9.2" in error.what


def test_failure_of_the_self_test_carries_the_boards_last_words(board, question, tmp_path):
    dying = 'case "$*" in *selftest*) printf "no\\033[2J memory\\n" >&2; exit 9;; esac'
    error = refused(board, bare_python(tmp_path / "python", first=dying), question)
    assert (error.code, error.why) == ("E0854", "no?[2J memory")  # nothing in it can steer a terminal
    assert "exit code 9" in error.what


def test_evidence_for_other_rows_is_refused(board, question, tmp_path, evidence):
    other = {**evidence, "rows": {**evidence["rows"], "sha256": "0" * 64}}
    error = refused(board, hasty(tmp_path, other), question)
    assert error.code == "E0856"
    assert kinds(board)[-2:] == ["fetch", "remove"]


def test_unknown_key_of_a_host_is_never_accepted(board, python, question, tmp_path, monkeypatch):
    known = board.folder / "known"
    kept = known.read_text()
    known.write_text("")
    try:
        error = refused(board, python, question)
    finally:
        known.write_text(kept)
    assert error.code == "E0851"
    assert "ssh board" in error.fix
    assert known.read_text() == kept


def test_no_password_is_asked_for(board, python, question):
    authorised = board.folder / "authorised"
    kept = authorised.read_text()
    authorised.write_text("")
    try:
        error = refused(board, python, question)
    finally:
        authorised.write_text(kept)
    assert error.code == "E0851"
    assert "passwords are not asked for" in error.why
    assert "ssh-copy-id board" in error.fix


def test_nobody_listening_is_a_device_error_with_the_words_of_ssh(board, python, question):
    with pytest.raises(DeviceError) as caught:
        lane(python, "127.0.0.1:1").answer(question)
    assert caught.value.code == "E0850"
    assert "Connection refused" in caught.value.why


def test_lost_connection_is_told_and_the_folder_goes_all_the_same(board, question, tmp_path):
    # The nearest ancestor of that name is the sshd of this one connection.
    up = 'p=$PPID; until [ "$(cat /proc/$p/comm)" = sshd ]; do p=$(sed -n "s/^PPid:[^0-9]*//p" /proc/$p/status); done'
    cut = f'case "$*" in *selftest*) {up}; kill -9 $p; exec sleep 600;; esac'
    error = refused(board, bare_python(tmp_path / "python", first=cut), question)
    assert error.code == "E0850"
    assert "closed" in error.why
    assert kinds(board) == ["probe", "make", "copy", "check", "answer", "remove"]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_signal_ends_the_boards_process_and_removes_its_folder(board, question, tmp_path, number, exit_code):
    python = bare_python(
        tmp_path / "python", first=f'case "$*" in *selftest*) echo $$ >{tmp_path}/pid; exec sleep 600;; esac'
    )
    asking = (
        "import sys; from pathlib import Path; from edgekit.remote.ssh import open_lanes; "
        "from edgekit.lanes.base import Question; from edgekit_runtime.bundle import verify; "
        "from edgekit_runtime.rows import RawRows; path = Path(sys.argv[2]); "
        f"lane = open_lanes(sys.argv[1], ['{MODEL}'])[0]; "
        "lane.answer(Question(path=path, bundle=verify(path), rows=RawRows(texts=('good',))))"
    )
    command = [sys.executable, "-c", asking, f"ssh://board?python={python}", str(question.path)]
    # A group of its own: a terminal sends the interrupt to the whole group, ssh included.
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.killpg(process.pid, number)
        process.stderr.read()
    assert process.returncode == exit_code
    assert left_behind(board) == []
    assert kinds(board) == ["probe", "make", "copy", "check", "answer", "remove"]
    state = Path(f"/proc/{int((tmp_path / 'pid').read_text())}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_folder_that_cannot_be_removed_is_told(board, hasty_python, question, tmp_path, monkeypatch):
    script(tmp_path / "ssh", f'case "$*" in *"rm -rf"*) echo gone >&2; exit 255;; esac; exec {board.bin}/ssh "$@"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DeviceError) as caught:
        lane(hasty_python).answer(question)
    (folder,) = left_behind(board)
    shutil.rmtree(folder)
    assert (caught.value.code, caught.value.why) == ("E0857", "gone")
    assert str(folder) in caught.value.fix


def test_missing_client_is_a_missing_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError) as caught:
        open_lanes("ssh://board", [MODEL])
    assert caught.value.code == "E0685"


@pytest.mark.parametrize(
    "place",
    [
        "ssh://",
        "ssh://-oProxyCommand=id",
        "ssh://-l@board",
        "ssh://-root@board",
        "ssh://board;id",
        "ssh://bo ard",
        "ssh://board\n",
        "ssh://$(id)",
        "ssh://pi:secret@board",
        "ssh://board/onnx-int9",
        "ssh://board:0",
        "ssh://board:65536",
        "ssh://board:22x",
        "ssh://[::1",
        "ssh://::1",
        "ssh://board?python=",
        "ssh://board?python=-c",
        "ssh://board?python=bin/python",
        "ssh://board?python=/bin/py%0athon",
        "ssh://board?engine=tensorrt",
        "ssh://board?pyhton=/bin/python",
    ],
)
def test_hostile_and_mistyped_places_are_refused(place):
    with pytest.raises(UsageError) as caught:
        open_lanes(place, [MODEL])
    assert caught.value.code == ("E0187" if "?" in place else "E0186")


def test_words_of_a_command_reach_the_clients_as_they_are(question):
    first, second = open_lanes(
        "ssh://me@[fe80::1%eth0]:2200?python=/o p'/x&engine=litert-builtin", [MODEL, "tflite-int8"]
    )
    plan = first.plan(question)
    assert plan[0][-3:-1] == ["--", "me@fe80::1%eth0"]
    assert plan[0][-1].startswith("'/o p'\"'\"'/x' -c ")
    assert plan[2][-1].startswith("me@[fe80::1%eth0]:/tmp/edgekit-")
    assert plan[0][-5:-3] == ["-p", "2200"]
    assert "-P" in plan[2]
    assert not any("StrictHostKeyChecking" in word for command in plan for word in command)
    assert all("BatchMode=yes" in command for command in plan)
    assert (first.interpreter.engine(MODEL), second.interpreter.engine("tflite-int8")) == (
        "onnxruntime",
        "litert-builtin",
    )
