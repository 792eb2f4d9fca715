"""The recipes and the script in examples/."""

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from edgekit.recipe.load import load_recipe
from edgekit.targets import TARGETS
from edgekit_models.data import load_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECIPES = sorted(EXAMPLES.glob("*.yaml"))


def test_the_three_recipes_are_here() -> None:
    assert [path.stem for path in RECIPES] == ["digits", "fashion", "sentiment"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_states_what_a_bundle_needs(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.model.teacher.licence
    assert recipe.data.licence
    assert set(recipe.targets) <= set(TARGETS)


def test_digits_give_the_rows_that_the_recipe_states() -> None:
    recipe = load_recipe(EXAMPLES / "digits.yaml")
    assert recipe.data.image is not None
    dataset = load_dataset(recipe.data, task=recipe.model.task, folder=recipe.folder, seed=recipe.seed)
    assert (len(dataset.train), len(dataset.evaluation)) == (1437, 360)
    assert dataset.warnings == ()
    image = recipe.data.image
    tensor = (dataset.train.images * image.scale - image.mean[0]) / image.std[0]
    assert abs(float(tensor.mean())) < 0.1
    assert abs(float(tensor.std()) - 1) < 0.1


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_fashion", EXAMPLES / "fetch_fashion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "fetch_fashion.py"))
    return module


def debian_package(names: tuple[str, ...]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name in names:
            entry = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    whole = b"!<arch>\n"
    for name, content in members.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        whole += b"\n" * (len(content) % 2)
    return whole


def test_fashion_files_come_out_of_the_package(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "package.deb"
    package.write_bytes(debian_package(script._FILES))
    monkeypatch.setattr(script.sys, "argv", ["fetch_fashion.py", str(package)])
    assert script.main() == 5
    assert "nothing was unpacked" in capsys.readouterr().err
    folder = tmp_path / "data" / "fashion-mnist"
    assert not folder.exists()
    monkeypatch.setattr(script, "_SHA256", script.hashlib.sha256(package.read_bytes()).hexdigest())
    assert script.main() == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in script._FILES}
    package.unlink()
    assert script.main() == 0  # the files are there: nothing is fetched


def test_without_apt_the_script_says_what_to_do(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.sys, "argv", ["fetch_fashion.py"])
    monkeypatch.setattr(script.shutil, "which", lambda _: None)
    assert script.main() == 6
    assert "fetch the .deb elsewhere" in capsys.readouterr().err
