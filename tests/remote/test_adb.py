"""`adb:` by the real adb client, which talks to a server of the test by adb's own protocol; there is no phone here."""

import os

import pytest
from adb_server import running_device
from boards import bare_python, hasty, script
from debian_tools import ADB, tool

from edgekit.lanes.here import EngineHere
from edgekit.remote.adb import open_lanes
from edgekit_runtime.errors import DeviceError, MissingError, UsageError

MODEL = "onnx-fp32"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    program, libraries = tool("adb", ADB)
    folder = tmp_path_factory.mktemp("client")
    loaded = f"export LD_LIBRARY_PATH={libraries}\n" if libraries else ""
    script(
        folder / "adb", f'{loaded}printf "%s\\0" adb "$@" >>{folder}/calls; echo >>{folder}/calls; exec {program} "$@"'
    )
    return folder


@pytest.fixture
def phone(client, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(client), prepend=os.pathsep)
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    (client / "calls").write_text("")
    (tmp_path / "local").mkdir()
    with running_device(tmp_path / "local") as device:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(device.port))
        yield device


@pytest.fixture
def python(tmp_path):
    return bare_python(tmp_path / "python3")


def lane(python, serial=""):
    return open_lanes(f"adb:{serial}?python={python}", [MODEL])[0]


def refused(phone, python, question, serial=""):
    with pytest.raises(DeviceError) as caught:
        lane(python, serial).answer(question)
    assert list(phone.folder.iterdir()) == []
    return caught.value


def test_phone_answers_to_the_bit_and_keeps_nothing(phone, python, question, client, monkeypatch):
    monkeypatch.setattr("edgekit.remote.payload.secrets.token_hex", lambda size: "fedcba9876543210"[: 2 * size])
    shown = lane(python).plan(question)
    assert (client / "calls").read_text() == ""
    found = lane(python).answer(question)
    here = EngineHere(name="here", model=MODEL, engine="onnxruntime").answer(question)
    assert found.lane == f"adb:?python={python}/{MODEL}"
    assert found.outputs.tobytes() == here.outputs.tobytes()
    assert (client / "calls").read_text() == "".join("".join(f"{word}\0" for word in call) + "\n" for call in shown)
    assert "mkdir -m 700 /data/local/tmp/edgekit-fedcba9876543210.device" in phone.commands
    assert list(phone.folder.iterdir()) == []


def test_serial_chooses_the_phone(phone, python, question):
    assert lane(python, "PHONE-1").answer(question).outputs.shape == (4, 2)
    error = refused(phone, python, question, "PHONE-2")
    assert error.code == "E0850"
    assert "device 'PHONE-2' not found" in error.why


@pytest.mark.parametrize(
    "state", ["no devices/emulators found", "more than one device/emulator", "device unauthorized."]
)
def test_adbs_own_words_are_kept(phone, python, question, state):
    phone.state = state
    error = refused(phone, python, question)
    assert (error.code, error.exit_code) == ("E0850", 8)
    assert state in error.why
    assert "adb devices" in error.fix


def test_android_without_python_is_told_plainly(phone, question):
    error = refused(phone, "/data/local/tmp/python3", question)
    assert error.code == "E0852"
    assert "Android has no Python" in error.fix
    assert len(phone.commands) == 1


def test_damaged_copy_is_caught(phone, python, question):
    phone.damage = "rows.json"
    error = refused(phone, python, question)
    assert error.code == "E0853"
    assert error.why.endswith(".device/rows.json")


def test_evidence_for_another_bundle_is_refused(phone, question, tmp_path, evidence):
    other = {**evidence, "bundle": {**evidence["bundle"], "sha256": "0" * 64}}
    assert refused(phone, hasty(tmp_path, other), question).code == "E0856"


def test_phone_unplugged_in_the_middle_is_told(phone, python, question):
    phone.unplug = "selftest"
    assert refused(phone, python, question).code == "E0850"
    assert "rm -rf" in phone.commands[-1]


def test_android_too_old_for_exit_codes_is_refused(phone, python, question):
    phone.features = b"cmd"
    error = refused(phone, python, question)
    assert error.code == "E0850"
    assert "only supports allocating a pty" in error.why
    assert phone.commands == []


def test_failed_self_test_carries_its_exit_code(phone, question, tmp_path):
    dying = 'case "$*" in *selftest*) echo no memory >&2; exit 137;; esac'
    error = refused(phone, bare_python(tmp_path / "python3", first=dying), question)
    assert (error.code, error.why) == ("E0854", "no memory")
    assert "exit code 137" in error.what


@pytest.mark.parametrize(
    "place", ["adb:-s", "adb:a b", "adb:a;id", "adb:$(id)", "adb:x?python=python 3", "adb:/onnx-int9"]
)
def test_hostile_and_mistyped_serials_are_refused(place):
    with pytest.raises(UsageError) as caught:
        open_lanes(place, [MODEL])
    assert caught.value.code == ("E0187" if "?" in place else "E0186")


def test_missing_client_is_a_missing_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError) as caught:
        open_lanes("adb:", [MODEL])
    assert caught.value.code == "E0686"
