"""The shape of the project: layout, import rows, light start, sizes of files, versions, wheels."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOTS = {"edgekit": ".", "edgekit_converters": "converters", "edgekit_models": "models", "edgekit_runtime": "runtimes"}
FOLDERS = ("edgekit", "converters", "models", "runtimes", "tests", "examples", "benchmarks", "docs", ".ci")
TEXT_SUFFIXES = frozenset({".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".json", ".cfg", ""})
UNTRACKED = (("__pycache__",), ("dist",), ("build",), ("runs",), ("site",), ("examples", "data"))

# Lower rows know nothing of higher ones. The longest name that fits a module decides its row.
ROWS = {
    "edgekit_runtime": 1,
    "edgekit.recipe": 2,
    "edgekit.pipeline": 2,
    "edgekit.machine": 2,
    "edgekit.cache": 2,
    "edgekit.source": 2,
    "edgekit.extras": 2,
    "edgekit.versions": 2,
    "edgekit.targets": 2,
    "edgekit.parity": 2,
    "edgekit_models": 3,
    "edgekit_converters": 4,
    "edgekit": 5,
}
HEAVY = (
    *(
        "torch",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "tensorflow",
        "ai_edge_litert",
        "ai_edge_quantizer",
        "litert_torch",
    ),
    *("tflite_runtime", "jax", "transformers", "tokenizers", "huggingface_hub", "safetensors", "torch_pruning"),
    *("pandas", "pyarrow", "scipy", "sklearn", "PIL", "matplotlib", "jinja2", "datasets", "cryptography"),
)


def python_files() -> list[Path]:
    folders = [ROOT / name for name in FOLDERS]
    return [path for folder in folders for path in sorted(folder.rglob("*.py")) if tracked(path)]


def tracked(path: Path) -> bool:
    """Tell whether a path is the project's own, by where it starts: a test folder may be called build."""
    parts = path.relative_to(ROOT).parts
    return "__pycache__" not in parts and not any(parts[: len(start)] == start for start in UNTRACKED)


def package_modules() -> Iterator[tuple[str, Path]]:
    for package, root in ROOTS.items():
        for path in sorted((ROOT / root / package).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(package_modules())


def row(module: str) -> int:
    if module == "edgekit":  # its __init__ holds the version and imports nothing
        return 2
    parts = module.split(".")
    return next(ROWS[name] for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in ROWS)


def imported(module: str, path: Path) -> Iterator[str]:
    """Give our own modules that a file imports, wherever in it the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            names = [full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ROOTS)


def run(*arguments: str, folder: Path = ROOT) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_source_roots_hold_one_package_and_are_none() -> None:
    for package, root in ROOTS.items():
        assert (ROOT / root / package / "__init__.py").is_file()
        assert (ROOT / root / package / "py.typed").is_file()
        assert not (ROOT / root / "__init__.py").exists()


def test_imports_run_downwards_only() -> None:
    wrong = [
        f"{module} (row {row(module)}) imports {name} (row {row(name)})"
        for module, path in MODULES.items()
        for name in imported(module, path)
        if row(name) > row(module)
    ]
    assert not wrong


def test_import_rows_see_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import edgekit.build, os\nfrom edgekit import recipe\nfrom edgekit import __version__\n"
        "from . import errors\n"
        "def later():\n    from edgekit_converters import training as t\n"
    )
    assert list(imported("edgekit_runtime.engines", path)) == [
        "edgekit.build",
        "edgekit.recipe",
        "edgekit",
        "edgekit_runtime.errors",
        "edgekit_converters.training",
    ]
    assert row("edgekit.build") > row("edgekit_converters.export.onnx") > row("edgekit_models.data")
    assert row("edgekit_models") > row("edgekit.recipe.spec") > row("edgekit_runtime.errors")
    assert row("edgekit.cli.parity") > row("edgekit.parity")


def loaded_by(statement: str) -> set[str]:
    listing = "import sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    return set(run("-c", f"{statement}\n{listing}").split())


def test_runtime_loads_no_engine_and_nothing_of_the_desktop() -> None:
    loaded = loaded_by("import edgekit_runtime")
    assert "edgekit_runtime" in loaded
    assert not loaded & {*HEAVY, "edgekit", "edgekit_models", "edgekit_converters", "numpy"}


def test_runtime_reads_a_model_with_numpy_alone() -> None:
    loaded = loaded_by("import edgekit_runtime; edgekit_runtime.load, edgekit_runtime.verify")
    assert "numpy" in loaded
    assert not loaded & {*HEAVY, "edgekit", "edgekit_models", "edgekit_converters"}


def test_help_loads_nothing_heavy() -> None:
    statement = "from edgekit.cli import main\nassert main(['--help']) == 0"
    loaded = loaded_by(statement)
    assert "click" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml", "edgekit_models", "edgekit_converters"}


def test_data_and_teachers_are_light_until_they_are_used() -> None:
    loaded = loaded_by("import edgekit_models.data, edgekit_models.teachers")
    assert not loaded & {*HEAVY, "pydantic"}


def test_no_path_of_one_machine_is_written_down() -> None:
    machine = re.compile(r"(?<![\w.:/-])/(?:work|tmp|root)/\w")
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    files += [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        if path.suffix in TEXT_SUFFIXES and tracked(path)
        if (found := machine.search(path.read_text("utf-8", errors="replace")))
    ]
    assert len(files) > 50
    assert not wrong
    assert machine.search(f"see {Path('/', 'tmp', 'x')}") is not None


def test_files_and_functions_are_short() -> None:
    long = []
    for path in python_files():
        text = path.read_text("utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        long += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if (node.end_lineno or 0) - node.lineno + 1 > 60
        ]
    assert not long


def test_no_two_test_modules_share_a_name() -> None:
    # pytest imports them by their bare names; the second of two is an error of the whole run.
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in {"conftest.py", "__init__.py"}]
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_every_public_name_exists() -> None:
    wrong = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text("utf-8"))
        defined = set(top_level_names(tree))
        public = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        ]
        for name in public[0] if public else ():
            # A lazy module answers for names that it does not define.
            lazy = "__getattr__" in defined and hasattr(importlib.import_module(module), name)
            if name not in defined and not lazy:
                wrong.append(f"{module}.{name}")
    assert not wrong


def top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def project(folder: Path) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def test_both_distributions_carry_one_version() -> None:
    versions = {project(ROOT)["version"], project(ROOT / "runtimes")["version"]}
    versions |= {importlib.import_module(name).__version__ for name in ("edgekit", "edgekit_runtime")}
    assert len(versions) == 1


def test_both_distributions_carry_one_licence() -> None:
    assert (ROOT / "runtimes" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_runtime_depends_on_numpy_alone() -> None:
    for folder in (ROOT, ROOT / "runtimes"):
        assert [re.split(r"\W", str(name))[0] for name in project(folder)["dependencies"]] == ["numpy"]


@pytest.mark.parametrize(
    ("folder", "packages"), [(".", set(ROOTS)), ("runtimes", {"edgekit_runtime"})], ids=["edgekit", "edgekit-runtime"]
)
def test_wheel_holds_its_packages_and_no_other_name(tmp_path: Path, folder: str, packages: set[str]) -> None:
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), folder=ROOT / folder)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "__pycache__" not in name}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == packages
    for package in packages:
        root = ROOT / ROOTS[package]
        files = [path for path in (root / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        source = {path.relative_to(root).as_posix() for path in files}
        assert source <= names
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names), "a wheel carries its licence"
