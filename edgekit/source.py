"""The digest of the code behind a stage, so that a result of older code is never reused."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from edgekit_runtime.errors import UsageError

__all__ = ["OWN_PACKAGES", "source_digest"]

OWN_PACKAGES = ("edgekit", "edgekit_converters", "edgekit_models", "edgekit_runtime")


def source_digest(cls: type) -> str:
    """Digest the module that defines ``cls`` and every edgekit module that it reaches by its imports.

    Comments, docstrings and layout do not count: an edit that cannot change a result costs no rebuild.

    Args:
        cls: The class of a stage.

    Returns:
        sha256 (hex); the same for the same code at any path.

    Raises:
        UsageError: The class was defined where no source file is, e.g. at a prompt.
    """
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise UsageError(
            "E0111",
            f"stage {cls.__name__} has no source file, so its results cannot be told from those of older code",
            fix="define the stage in a .py file",
        )
    return _closure_digest(cls.__module__, Path(file))


@cache
def _closure_digest(name: str, file: Path) -> str:
    found: dict[str, Path] = {}
    # The root goes under a fixed name: a script is `__main__` when it runs and `script` when it is imported.
    queue: list[tuple[str, str, Path]] = [("", name, file)]
    while queue:
        key, dotted, path = queue.pop()
        if key in found or path in found.values():
            continue
        found[key] = path
        queue.extend((each, each, where) for each, where in _own_imports(dotted, path))
    digest = hashlib.sha256()
    for key in sorted(found):
        digest.update(f"{key}:{_code_digest(found[key])}\n".encode())
    return digest.hexdigest()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


@cache
def _code_digest(path: Path) -> str:
    # A tree of its own: `_tree` is shared, and dropping docstrings changes it.
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _own_imports(module: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of each edgekit module that ``path`` imports, anywhere in it, packages included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                stem = parents[: len(parents) - node.level + 1]
                base = ".".join([*stem, base] if base else stem)
            # `from package import x`: x may be a module or a name in it; a name is simply not found as a file.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _files_of(name)


def _files_of(dotted: str) -> Iterator[tuple[str, Path]]:
    parts = dotted.split(".")
    folder = _package_folder(parts[0]) if parts[0] in OWN_PACKAGES else None
    if folder is None:
        return
    for depth in range(1, len(parts) + 1):
        inner = folder.joinpath(*parts[1:depth])
        for file in (inner / "__init__.py", inner.with_suffix(".py")):
            if file.is_file() and (depth > 1 or file.name == "__init__.py"):
                yield ".".join(parts[:depth]), file


@cache
def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
