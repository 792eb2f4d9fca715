"""The stage cache: what is reused, what is not, and what a crash leaves."""

import json
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import cache_stages
import pytest
from cache_stages import Hang, MakeData, MakeTeacher, Recorder

from edgekit import cache as cache_module
from edgekit.cache import Cache, default_root, run_stages, stage_key
from edgekit.pipeline import Kind
from edgekit_runtime.errors import MissingError, UsageError

SCRIPT = cache_stages.__file__


def build(root, *stages, seed=0):
    recorder = Recorder()
    return run_stages(stages or [MakeData(), MakeTeacher()], cache=Cache(root), seed=seed, progress=recorder), recorder


def entries(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def leftovers(root):
    return [path.name for path in root.iterdir() if path.name.startswith(".tmp")]


def test_second_run_reuses_every_stage_and_its_note(tmp_path):
    first, made = build(tmp_path)
    second, reused = build(tmp_path)
    assert [event[0] for event in made.events] == ["started", "made", "started", "made"]
    assert reused.of("cached") == [("cached", "MakeData", "4 letters"), ("cached", "MakeTeacher", "")]
    assert second == first
    assert (second[Kind.TEACHER].path / "teacher.txt").read_text() == "ROWS"
    assert not leftovers(tmp_path)


def test_stage_sees_only_its_own_files_in_the_artifact(tmp_path):
    artifacts, _ = build(tmp_path)
    files = {path.relative_to(artifacts[Kind.DATA].path).as_posix() for path in artifacts[Kind.DATA].path.rglob("*")}
    assert files == {"sub", "sub/rows.txt", "count.txt"}


def test_changed_config_is_made_again_with_all_that_follows(tmp_path):
    build(tmp_path)
    _, recorder = build(tmp_path, MakeData(text="other"), MakeTeacher())
    assert not recorder.of("cached")
    assert len(entries(tmp_path)) == 4


def test_later_stage_is_reused_when_its_input_comes_out_the_same(tmp_path):
    build(tmp_path)
    recorder = build(tmp_path, MakeData(needs=("numpy", "click")), MakeTeacher())[1]
    assert [event[:2] for event in recorder.events if event[0] in {"made", "cached"}] == [
        ("made", "MakeData"),
        ("cached", "MakeTeacher"),
    ]


def test_changed_seed_is_made_again(tmp_path):
    build(tmp_path)
    assert not build(tmp_path, seed=1)[1].of("cached")


def test_changed_version_is_made_again(tmp_path, monkeypatch):
    build(tmp_path, MakeData())
    real = metadata.version
    monkeypatch.setattr(cache_module.metadata, "version", lambda name: "0.0.1" if name == "numpy" else real(name))
    assert not build(tmp_path, MakeData())[1].of("cached")


def test_changed_code_is_made_again(tmp_path, monkeypatch):
    build(tmp_path, MakeData())
    monkeypatch.setattr(cache_module, "source_digest", lambda _: "other code")
    assert not build(tmp_path, MakeData())[1].of("cached")


def test_changed_python_is_made_again(tmp_path, monkeypatch):
    build(tmp_path, MakeData())

    class Version:
        major, minor = 3, 99

    monkeypatch.setattr(cache_module.sys, "version_info", Version)
    assert not build(tmp_path, MakeData())[1].of("cached")


def test_missing_distribution_is_an_error_with_a_command(tmp_path):
    with pytest.raises(MissingError, match="no-such-distribution") as caught:
        build(tmp_path, MakeData(needs=("no-such-distribution",)))
    assert "pip install" in caught.value.fix


def test_config_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(TypeError):
        stage_key(MakeData(text=Path("x")), {}, seed=0)
    with pytest.raises(ValueError, match="JSON"):
        stage_key(MakeData(text=float("nan")), {}, seed=0)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte": lambda entry: flip(entry / "files" / "sub" / "rows.txt"),
    "cut file": lambda entry: (entry / "files" / "sub" / "rows.txt").write_text("ro"),
    "missing file": lambda entry: (entry / "files" / "count.txt").unlink(),
    "added file": lambda entry: (entry / "files" / "new.txt").touch(),
    "file behind a link": lambda entry: relink(entry / "files" / "count.txt"),
    "folder in place of a file": lambda entry: refolder(entry / "files" / "count.txt"),
    "no files": lambda entry: shutil.rmtree(entry / "files"),
    "no record": lambda entry: (entry / "artifact.json").unlink(),
    "empty record": lambda entry: (entry / "artifact.json").write_bytes(b""),
    "flipped record": lambda entry: flip(entry / "artifact.json"),
    "record of another kind": lambda entry: (entry / "artifact.json").write_text("[]"),
    "note changed": lambda entry: renote(entry / "artifact.json"),
}


def relink(path):
    path.rename(path.parents[2] / "aside.txt")
    path.symlink_to(path.parents[2] / "aside.txt")


def refolder(path):
    path.unlink()
    path.mkdir()


def renote(path):
    path.write_text(path.read_text().replace("4 letters", "5 letters"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_entry_is_made_again_and_told_in_one_line(tmp_path, damage):
    good, _ = build(tmp_path)
    damage(good[Kind.DATA].path.parent)
    healed, recorder = build(tmp_path)
    assert len(recorder.of("notice")) == 1
    assert "\n" not in recorder.of("notice")[0][1]
    assert recorder.of("made") == [("made", "MakeData", "4 letters")]
    assert healed == good
    assert not build(tmp_path)[1].of("made")
    assert not leftovers(tmp_path)


def test_exception_in_a_stage_leaves_nothing_of_it(tmp_path):
    class Broken(MakeTeacher):
        def run(self, artifacts, into, /):
            (into / "half.txt").write_text("half")
            raise ValueError("on purpose")

    recorder = Recorder()
    with pytest.raises(ValueError, match="on purpose"):
        run_stages([MakeData(), Broken()], cache=Cache(tmp_path), seed=0, progress=recorder)
    assert recorder.events[-1] == ("failed", "Broken")
    assert [name.partition("-")[0] for name in entries(tmp_path)] == ["data"]
    assert not leftovers(tmp_path)


def test_stage_that_writes_nothing_is_refused(tmp_path):
    class Idle(MakeData):
        def run(self, artifacts, into, /):
            return "nothing to do"

    with pytest.raises(UsageError, match="wrote no file"):
        build(tmp_path, Idle())
    assert not entries(tmp_path)


def test_stage_that_leaves_a_link_is_refused(tmp_path):
    class Linker(MakeData):
        def run(self, artifacts, into, /):
            (into / "link").symlink_to("/etc/hostname")
            return ""

    with pytest.raises(UsageError, match="'link'"):
        build(tmp_path, Linker())
    assert not entries(tmp_path)


def test_wrong_order_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match="MakeTeacher needs data"):
        build(tmp_path, MakeTeacher(), MakeData())
    assert not entries(tmp_path)


def test_stage_cannot_change_the_artifacts_of_others(tmp_path):
    class Meddler(MakeTeacher):
        def run(self, artifacts, into, /):
            artifacts[Kind.PARITY] = artifacts[Kind.DATA]
            return ""

    with pytest.raises(TypeError):
        build(tmp_path, MakeData(), Meddler())


def test_killed_run_leaves_only_temporary_folders_and_the_next_run_finishes(tmp_path):
    root, flag = tmp_path / "cache", tmp_path / "flag"
    command = [sys.executable, SCRIPT, str(root), "hang", str(flag)]
    with subprocess.Popen(command) as child:
        try:
            deadline = time.monotonic() + 60
            while not flag.exists():
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert Cache(root).sweep() == 0, "a live folder must not be swept"
        finally:
            child.kill()
    assert [name.partition("-")[0] for name in entries(root)] == ["data"]
    assert leftovers(root), "the kill came too late to test anything"
    made, recorder = build(root, MakeData(), Hang(flag=str(flag)))
    assert [event[0] for event in recorder.events] == ["started", "cached", "started", "made"]
    assert (made[Kind.TEACHER].path / "whole.txt").read_text() == "whole"
    assert not leftovers(root)


def test_four_processes_at_once_agree_on_one_result(tmp_path):
    root, gun = tmp_path / "cache", tmp_path / "gun"
    command = [sys.executable, SCRIPT, str(root), "own", str(gun)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    time.sleep(1.0)
    gun.touch()
    outputs = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * 4
    made = [output for output in outputs if any(event[:2] == ["made", "Own"] for event in output["events"])]
    assert len(made) >= 2, "the processes did not overlap, so the test says nothing"
    assert len({output["digest"] for output in outputs}) == 1
    assert len({output["texts"]["pid.txt"] for output in outputs}) == 1
    assert [name.partition("-")[0] for name in entries(root)] == ["data", "teacher"]
    assert not leftovers(root)


def test_loser_of_a_race_against_a_damaged_entry_puts_its_own_in_place(tmp_path):
    class Racer(MakeTeacher):
        def run(self, artifacts, into, /):
            # Another process publishes under the same key, and its entry goes bad, all while this one works.
            key = stage_key(self, artifacts, seed=0)
            entry = Cache(tmp_path).entry(Kind.TEACHER, key)
            entry.mkdir()
            (entry / "artifact.json").write_text("rubbish")
            (into / "mine.txt").write_text("mine")
            return ""

    made, recorder = build(tmp_path, MakeData(), Racer())
    assert (made[Kind.TEACHER].path / "mine.txt").read_text() == "mine"
    assert len(recorder.of("notice")) == 1
    assert not leftovers(tmp_path)


def test_unusable_root_names_the_variable(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError) as caught:
        build(file / "cache", MakeData())
    assert "EDGEKIT_CACHE" in caught.value.fix


def test_default_root_follows_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("EDGEKIT_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_root() == Path("/home/someone/.cache/edgekit")


def test_no_handle_is_left_open(tmp_path):
    build(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for seed in range(5):
        build(tmp_path, seed=seed)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
