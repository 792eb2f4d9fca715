"""Teacher sources: folder, package, weights, architecture, factory. The hub has its own file."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from edgekit.recipe.spec import SourceKind, TeacherSource
from edgekit_models.teachers import TeacherFiles, resolve_teacher
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError


def resolve(folder: Path, kind: SourceKind, location: str, *, trust_code: bool = False, **more) -> TeacherFiles:
    source = TeacherSource(kind=kind, location=location, **more)
    return resolve_teacher(source, folder=folder, trust_code=trust_code, offline=True)


def refused(
    error: type[EdgekitError], code: str, folder: Path, kind: SourceKind, location: str, **more
) -> EdgekitError:
    with pytest.raises(error) as caught:
        resolve(folder, kind, location, **more)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return caught.value


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_folder_is_taken_whole(tmp_path: Path, transformers_folder: Path) -> None:
    digest = sha256(transformers_folder / "model.safetensors")
    teacher = resolve(
        tmp_path, SourceKind.FOLDER, "my-bert", sha256={"model.safetensors": digest}, licence="Apache-2.0"
    )
    assert teacher.path == transformers_folder
    assert teacher.factory is None
    assert teacher.licence == "Apache-2.0"
    assert teacher.description == "folder my-bert"


def test_digest_follows_every_file_and_no_place(tmp_path: Path, transformers_folder: Path) -> None:
    first = resolve(tmp_path, SourceKind.FOLDER, "my-bert").digest
    moved = tmp_path / "elsewhere"
    transformers_folder.rename(moved)
    assert resolve(moved, SourceKind.FOLDER, ".").digest == first
    (moved / "notes.md").write_text("read by nobody")
    assert resolve(moved, SourceKind.FOLDER, ".").digest == first
    for name in ("config.json", "tokenizer.json"):
        (moved / name).write_text('{"changed": true}')
        assert resolve(moved, SourceKind.FOLDER, ".").digest != first
        first = resolve(moved, SourceKind.FOLDER, ".").digest


def test_wrong_sha256_is_refused(tmp_path: Path, transformers_folder: Path) -> None:
    assert transformers_folder.is_dir()
    refused(UsageError, "E0202", tmp_path, SourceKind.FOLDER, "my-bert", sha256={"model.safetensors": "0" * 64})
    error = refused(
        MissingError, "E0254", tmp_path, SourceKind.FOLDER, "my-bert", sha256={"model.safetensor": "0" * 64}
    )
    assert "did you mean 'model.safetensors'" in error.what


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_incomplete_folder_is_refused(tmp_path: Path, transformers_folder: Path, name: str) -> None:
    (transformers_folder / name).unlink()
    assert f"has no {name}" in refused(MissingError, "E0253", tmp_path, SourceKind.FOLDER, "my-bert").what


def test_missing_folder_names_the_nearest(tmp_path: Path, transformers_folder: Path) -> None:
    assert transformers_folder.is_dir()
    error = refused(MissingError, "E0201", tmp_path, SourceKind.FOLDER, "my-bart")
    assert "did you mean 'my-bert'" in error.what
    refused(UsageError, "E0250", tmp_path, SourceKind.FOLDER, "my-bert/config.json")
    refused(MissingError, "E0251", tmp_path, SourceKind.FOLDER, "my-bert", subfolder="model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl", "MODEL.PT"])
def test_pickled_checkpoint_is_refused_with_the_way_out(tmp_path: Path, transformers_folder: Path, name: str) -> None:
    (transformers_folder / "model.safetensors").rename(transformers_folder / name)
    for kind, location in (
        (SourceKind.FOLDER, "my-bert"),
        (SourceKind.FOLDER, f"my-bert/{name}"),
        (SourceKind.WEIGHTS, f"my-bert/{name}"),
    ):
        error = refused(UsageError, "E0242", tmp_path, kind, location)
        assert "safetensors" in error.fix


def test_pickle_beside_safetensors_is_left_alone(tmp_path: Path, transformers_folder: Path) -> None:
    (transformers_folder / "pytorch_model.bin").write_bytes(b"a pickle")
    assert resolve(tmp_path, SourceKind.FOLDER, "my-bert").path == transformers_folder


def test_shards_are_found_by_their_index(tmp_path: Path, transformers_folder: Path, safetensors_bytes: bytes) -> None:
    (transformers_folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = transformers_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}))
    (transformers_folder / names[0]).write_bytes(safetensors_bytes)
    assert names[1] in refused(MissingError, "E0253", tmp_path, SourceKind.FOLDER, "my-bert").what
    (transformers_folder / names[1]).write_bytes(safetensors_bytes[:-1])
    refused(UsageError, "E0243", tmp_path, SourceKind.FOLDER, "my-bert")
    (transformers_folder / names[1]).write_bytes(safetensors_bytes)
    assert resolve(tmp_path, SourceKind.FOLDER, "my-bert").path == transformers_folder
    for damaged in ("{", "[]", '{"weight_map": {"a": "../secret.safetensors"}}', '{"weight_map": {"a": 1}}'):
        index.write_text(damaged)
        refused(UsageError, "E0252", tmp_path, SourceKind.FOLDER, "my-bert")


def test_damaged_weights_are_refused(tmp_path: Path, safetensors_bytes: bytes) -> None:
    path = tmp_path / "w.safetensors"
    cuts = [safetensors_bytes[:length] for length in range(len(safetensors_bytes))]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
    empty = (2).to_bytes(8, "little") + b"{}"
    for data in [*cuts, safetensors_bytes + b"\0", pointer, b"<!DOCTYPE html><html></html>", empty]:
        path.write_bytes(data)
        refused(UsageError, "E0243", tmp_path, SourceKind.WEIGHTS, "w.safetensors", config={"widths": [8]})
    path.write_bytes(pointer)
    error = refused(UsageError, "E0243", tmp_path, SourceKind.WEIGHTS, "w.safetensors")
    assert "Git LFS pointer" in error.why


def test_weights_file_comes_with_its_config(tmp_path: Path, safetensors_bytes: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes)
    named = {"w.safetensors": sha256(path)}
    teacher = resolve(tmp_path, SourceKind.WEIGHTS, "w.safetensors", config={"widths": [8]}, sha256=named)
    assert teacher.path == path
    assert teacher.description == "weights w.safetensors"
    other = resolve(tmp_path, SourceKind.WEIGHTS, "w.safetensors", config={"widths": [16]})
    assert other.digest != teacher.digest
    refused(UsageError, "E0202", tmp_path, SourceKind.WEIGHTS, "w.safetensors", sha256={"w.safetensors": "0" * 64})


def test_own_architecture_needs_no_file(tmp_path: Path) -> None:
    teacher = resolve(tmp_path, SourceKind.ARCHITECTURE, "cnn", config={"widths": [8, 16]})
    assert (teacher.path, teacher.factory) == (None, None)
    assert teacher.description == "architecture cnn, trained from scratch"
    same = resolve(tmp_path, SourceKind.ARCHITECTURE, "cnn", config={"widths": (8, 16)})
    other = resolve(tmp_path, SourceKind.ARCHITECTURE, "cnn", config={"widths": [8, 24]})
    assert teacher.digest == same.digest != other.digest


def test_package_is_read_without_importing_it(tmp_path: Path, transformers_folder: Path, install) -> None:
    files = {f"minilm/model/{path.name}": path.read_bytes() for path in transformers_folder.iterdir()}
    site = install("some-minilm", "0.1.0", {"minilm/__init__.py": b"raise RuntimeError('imported')", **files})
    teacher = resolve(tmp_path, SourceKind.PACKAGE, "some-minilm==0.1.0", subfolder="minilm/model")
    assert teacher.path == site / "minilm/model"
    assert teacher.description == "package some-minilm==0.1.0 minilm/model"
    assert teacher.digest == resolve(tmp_path, SourceKind.FOLDER, "my-bert").digest
    assert "minilm" not in sys.modules
    near = refused(MissingError, "E0204", tmp_path, SourceKind.PACKAGE, "some-minilm", subfolder="minilm/models")
    assert "did you mean 'minilm/model'" in near.what
    refused(MissingError, "E0204", tmp_path, SourceKind.PACKAGE, "some-minilm", subfolder="../my-bert")
    refused(MissingError, "E0203", tmp_path, SourceKind.PACKAGE, "no-such-minilm", subfolder="minilm")
    refused(UsageError, "E0205", tmp_path, SourceKind.PACKAGE, "some-minilm==9", subfolder="minilm/model")
    (site / "minilm/model/tokenizer.json").unlink()
    refused(MissingError, "E0253", tmp_path, SourceKind.PACKAGE, "some-minilm", subfolder="minilm/model")


FACTORY = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def make_teacher(): return "a module"
value = 3
"""


def test_code_runs_only_when_the_user_trusts_it(tmp_path: Path) -> None:
    (tmp_path / "factory_module.py").write_text(FACTORY)
    error = refused(UsageError, "E0256", tmp_path, SourceKind.FACTORY, "factory_module:make_teacher")
    assert "--trust-code" in error.fix
    assert "your rights" in error.why
    assert not (tmp_path / "ran").exists()
    before = list(sys.path)
    try:
        teacher = resolve(tmp_path, SourceKind.FACTORY, "factory_module:make_teacher", trust_code=True)
        assert teacher.factory is not None
        assert teacher.factory() == "a module"
        assert teacher.path is None
        assert (tmp_path / "ran").exists()
        assert sys.path == before
        near = refused(UsageError, "E0258", tmp_path, SourceKind.FACTORY, "factory_module:make_techer", trust_code=True)
        assert "did you mean 'make_teacher'" in near.what
        refused(UsageError, "E0258", tmp_path, SourceKind.FACTORY, "factory_module:value", trust_code=True)
    finally:
        sys.modules.pop("factory_module", None)


@pytest.mark.parametrize("location", ["", "module", "module:", ":make", "mod ule:make", "os:system('x')", "a:b:c"])
def test_factory_that_is_no_name_is_refused(tmp_path: Path, location: str) -> None:
    refused(UsageError, "E0255", tmp_path, SourceKind.FACTORY, location, trust_code=True)


def test_factory_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken_factory.py").write_text("1 / 0\n")
    for name, cause in (("broken_factory", "ZeroDivisionError"), ("no_such_factory", "ModuleNotFoundError")):
        error = refused(UsageError, "E0257", tmp_path, SourceKind.FACTORY, f"{name}:make", trust_code=True)
        assert cause in error.why


def test_every_kind_has_a_resolver() -> None:
    from edgekit_models import teachers

    assert set(teachers._RESOLVERS) == set(SourceKind)
