"""``edgekit emulator setup | status | remove``."""

import json

import pytest

from edgekit.cli import main
from edgekit.emulator.home import Home
from edgekit.emulator.pins import PARTS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_status_of_nothing_says_how_to_set_it_up(cache, capsys):
    assert main(["emulator", "status"]) == 0
    shown = capsys.readouterr().out
    assert str(cache / "emulator") in shown
    assert shown.count("not set up") == len(PARTS) + 1
    assert "edgekit emulator setup" in shown


def test_status_shows_what_is_ready_and_how_large_it_is(cache, capsys):
    home = Home.default()
    home.part("armv7").mkdir(parents=True)
    (home.part("armv7") / "file").write_bytes(b"x" * 5000)
    home.seal("armv7")
    assert main(["emulator", "status", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = {row["part"]: row for row in shown["parts"]}
    assert (shown["schema"], shown["command"], shown["folder"]) == (1, "emulator", str(cache / "emulator"))
    assert {part for part, row in rows.items() if row["ready"]} == {"armv7"}
    assert 5000 < rows["armv7"]["bytes"] < 6000
    assert "tflite-runtime 2.14.0" in rows["armv7"]["holds"]
    assert "onnxruntime 1.31.1" in rows["aarch64"]["holds"]
    assert "qemu-user 7.2" in rows["qemu"]["holds"]


def test_setup_without_apt_ends_with_exit_code_6_and_the_container(cache, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["emulator", "setup", "--arch", "armv7"]) == 6
    shown = capsys.readouterr().err
    assert "error[E0670]" in shown
    assert "docker run" in shown


def test_setup_knows_its_guests(cache, capsys):
    assert main(["emulator", "setup", "--arch", "riscv"]) == 2
    assert "'aarch64', 'armv7', 'all'" in capsys.readouterr().err


def test_remove_deletes_the_emulator_and_nothing_else(cache, capsys):
    (cache / "emulator" / "qemu").mkdir(parents=True)
    (cache / "other").mkdir()
    assert main(["emulator", "remove"]) == 0
    assert [path.name for path in cache.iterdir()] == ["other"]
    assert str(cache / "emulator") in capsys.readouterr().err
