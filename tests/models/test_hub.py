"""The hub: what it is asked for, and what its faults become. No network is used."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import requests
from huggingface_hub import constants, errors

from edgekit.recipe.spec import SourceKind, TeacherSource
from edgekit_models.teachers import TeacherFiles, resolve_teacher
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def source(**more) -> TeacherSource:
    return TeacherSource(kind=SourceKind.HUB, location="some-org/some-model", **more)


def resolve(teacher: TeacherSource, *, offline: bool) -> TeacherFiles:
    return resolve_teacher(teacher, folder=Path(), trust_code=False, offline=offline)


@pytest.fixture
def cache(tmp_path: Path, transformers_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as the library lays it out, holding one model that an earlier run fetched."""
    model = tmp_path / "hub" / "models--some-org--some-model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots").mkdir()
    transformers_folder.rename(model / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return model / "snapshots" / COMMIT


def test_cached_model_needs_no_network(cache: Path) -> None:
    teacher = resolve(source(licence="MIT"), offline=True)
    assert teacher.path == cache
    assert teacher.description == f"hub some-org/some-model@{COMMIT}"
    assert teacher.licence == "MIT"


def test_model_that_is_not_cached_is_missing_when_offline(cache: Path) -> None:
    assert cache.is_dir()
    for teacher in (source(revision="v2"), TeacherSource(kind=SourceKind.HUB, location="some-org/other")):
        with pytest.raises(MissingError) as caught:
            resolve(teacher, offline=True)
        assert caught.value.code == "E0265"
        assert "--offline" in caught.value.why


def test_subfolder_of_a_snapshot_is_taken(cache: Path) -> None:
    (cache / "small").mkdir()
    for path in [entry for entry in cache.iterdir() if entry.is_file()]:
        path.rename(cache / "small" / path.name)
    assert resolve(source(subfolder="small"), offline=True).path == cache / "small"


def test_unreachable_hub_is_a_clear_error(tmp_path: Path) -> None:
    # Port 9 of this machine refuses; a fresh process, because the library reads its settings on import.
    program = """
        from pathlib import Path
        from edgekit.recipe.spec import SourceKind, TeacherSource
        from edgekit_models.teachers import resolve_teacher
        source = TeacherSource(kind=SourceKind.HUB, location="some-org/some-model")
        try:
            resolve_teacher(source, folder=Path(), trust_code=False, offline=False)
        except Exception as error:
            print(error)
    """
    for setting in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "HF_HOME": str(tmp_path), **setting},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.startswith("error[E0266]: the hub model 'some-org/some-model' could not be fetched"), (
            done.stdout + done.stderr
        )


def answer(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request("GET", "https://hub.invalid/").prepare()
    return response


@pytest.mark.parametrize(
    ("raised", "wanted", "code"),
    [
        (errors.RepositoryNotFoundError("404", answer(404)), UsageError, "E0264"),
        (errors.GatedRepoError("403", answer(403)), UsageError, "E0262"),
        (errors.RevisionNotFoundError("404", answer(404)), UsageError, "E0263"),
        (errors.HfHubHTTPError("500", response=answer(500)), MissingError, "E0266"),
        (requests.ConnectionError("no route"), MissingError, "E0266"),
        (OSError(28, "No space left on device"), MissingError, "E0266"),
    ],
)
def test_faults_of_the_hub_are_translated(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, wanted: type[EdgekitError], code: str
) -> None:
    def fail(*_args: object, **_options: object) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(wanted) as caught:
        resolve(source(revision="v2"), offline=False)
    assert caught.value.code == code
    assert caught.value.__cause__ is raised


def test_id_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(TeacherSource(kind=SourceKind.HUB, location="not a hub id!"), offline=True)
    assert caught.value.code == "E0261"


def test_code_and_pickles_are_never_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def record(location: str, **options: object) -> str:
        asked.update(options, location=location)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    resolve(source(revision="v2"), offline=False)
    assert asked["location"] == "some-org/some-model"
    assert asked["revision"] == "v2"
    assert asked["local_files_only"] is False
    allowed, ignored = asked["allow_patterns"], asked["ignore_patterns"]
    listing = ["config.json", "vocab.txt", "model.safetensors", "modeling.py", "pytorch_model.bin", "onnx/config.json"]
    kept = list(huggingface_hub.utils.filter_repo_objects(listing, allow_patterns=allowed, ignore_patterns=ignored))
    assert kept == ["config.json", "vocab.txt", "model.safetensors"]
    resolve(source(), offline=True)
    assert asked["revision"] is None
    assert asked["local_files_only"] is True


def test_library_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError) as caught:
        resolve(source(), offline=False)
    assert caught.value.code == "E0260"
    assert "edgekit[build]" in caught.value.fix
