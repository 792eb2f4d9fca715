"""From the recipe's teacher to checked files or, if the user allows running code, to a function."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgekit.recipe.spec import SourceKind, TeacherSource
from edgekit_models.files import check_sha256, file_sha256, find_file, find_package_folder, near, package_title
from edgekit_models.hub import download_snapshot
from edgekit_models.weights import check_safetensors, refuse_pickle, require_file, weight_files
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["TeacherFiles", "resolve_teacher"]

_DATA_SUFFIXES = frozenset({".json", ".txt", ".safetensors"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFiles:
    """A teacher that is at hand.

    Attributes:
        path: Transformers folder (``folder``, ``hub``, ``package``), weights file (``weights``), or folder of the
            tokenizer (``factory`` of a text model); else None.
        factory: The user's function (``factory``); else None.
        licence: SPDX name from the recipe; empty when unknown.
        description: The source in one line for the bundle's provenance; holds no absolute path.
        digest: sha256 (hex) over the files' names and contents and over ``config``. For a factory it covers the
            module's source file and the tokenizer; what the function loads itself is beyond it.
    """

    path: Path | None
    factory: Callable[[], object] | None
    licence: str
    description: str
    digest: str


def resolve_teacher(source: TeacherSource, *, folder: Path, trust_code: bool, offline: bool) -> TeacherFiles:
    """Find a teacher and check its files.

    Args:
        source: The recipe's ``model.teacher``.
        folder: The recipe's folder; relative paths start there.
        trust_code: The user allowed running the recipe's own code.
        offline: Take a hub model from the local cache only.

    Raises:
        MissingError: A file or a package is not here, or the hub cannot be reached.
        UsageError: The files are not what the recipe says, are pickled or damaged, or need code that was not allowed.
    """
    return _RESOLVERS[source.kind](source, _Terms(folder=folder, trust_code=trust_code, offline=offline))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """The arguments of `resolve_teacher` beside the source."""

    folder: Path
    trust_code: bool
    offline: bool


def _folder(source: TeacherSource, terms: _Terms) -> TeacherFiles:
    root = find_file(source.location, folder=terms.folder)
    if not root.is_dir():
        refuse_pickle(root, title=source.location)
        raise UsageError(
            "E0250",
            f"the teacher {source.location!r} is a file; 'folder' wants a transformers folder",
            fix="name the folder, or use 'weights' for a .safetensors file of one of edgekit's architectures",
        )
    return _transformers(source, root / source.subfolder, description=f"folder {source.location}")


def _package(source: TeacherSource, _terms: _Terms) -> TeacherFiles:
    root = find_package_folder(source.location, source.subfolder)
    return _transformers(
        source, root, description=f"package {package_title(source.location)} {source.subfolder}".strip()
    )


def _hub(source: TeacherSource, terms: _Terms) -> TeacherFiles:
    snapshot = download_snapshot(source, offline=terms.offline)
    description = " ".join(part for part in (f"hub {source.location}@{snapshot.name}", source.subfolder) if part)
    return _transformers(source, snapshot / source.subfolder, description=description)


def _weights(source: TeacherSource, terms: _Terms) -> TeacherFiles:
    path = find_file(source.location, folder=terms.folder)
    refuse_pickle(path, title=source.location)
    check_safetensors(path, title=source.location)
    _check_named(source, {path.name: path})
    return TeacherFiles(
        path=path,
        factory=None,
        licence=source.licence,
        description=f"weights {source.location}",
        digest=_digest({path.name: path} | _tokenizer_of(path.parent), source.config),
    )


def _architecture(source: TeacherSource, _terms: _Terms) -> TeacherFiles:
    return TeacherFiles(
        path=None,
        factory=None,
        licence=source.licence,
        description=f"architecture {source.location}, trained from scratch",
        digest=_digest({}, {"architecture": source.location, "config": source.config}),
    )


def _factory(source: TeacherSource, terms: _Terms) -> TeacherFiles:
    module_name, colon, function_name = source.location.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise UsageError(
            "E0255",
            f"the factory {source.location!r} is not of the form 'module:function'",
            fix="write for example factory: 'my_model:make'",
        )
    if not terms.trust_code:
        raise UsageError(
            "E0256",
            f"the teacher comes from the function {source.location!r}, which is code of the recipe's author",
            why="it would run with your rights: it could read, change or send any of your files",
            fix="read that code; if you trust it, run again with --trust-code",
        )
    function, origin = _import_function(module_name, function_name, folder=terms.folder)
    tokenizer = source.config.get("tokenizer")
    path = find_file(tokenizer, folder=terms.folder) if isinstance(tokenizer, str) else None
    files = ({origin.name: origin} if origin else {}) | (_tokenizer_of(path) if path else {})
    return TeacherFiles(
        path=path,
        factory=function,
        licence=source.licence,
        description=f"factory {source.location}",
        digest=_digest(files, {"factory": source.location, "config": source.config}),
    )


def _tokenizer_of(folder: Path) -> dict[str, Path]:
    path = folder / "tokenizer.json"
    return {path.name: path} if path.is_file() else {}


_RESOLVERS: Mapping[SourceKind, Callable[[TeacherSource, _Terms], TeacherFiles]] = MappingProxyType(
    {
        SourceKind.FOLDER: _folder,
        SourceKind.PACKAGE: _package,
        SourceKind.HUB: _hub,
        SourceKind.FACTORY: _factory,
        SourceKind.WEIGHTS: _weights,
        SourceKind.ARCHITECTURE: _architecture,
    }
)


def _transformers(source: TeacherSource, root: Path, *, description: str) -> TeacherFiles:
    """Check a transformers folder: config, safetensors weights (whole or in shards) and tokenizer."""
    if not root.is_dir():
        raise MissingError(
            "E0251",
            f"the teacher {source.location!r} has no folder {source.subfolder!r}",
            fix="correct 'subfolder' in the recipe",
        )
    names = sorted(entry.name for entry in root.iterdir() if entry.is_file())
    require_file(root, names, "config.json", title=description, why="a transformers folder describes its model in it")
    shards = weight_files(root, names, title=description)
    require_file(
        root,
        names,
        "tokenizer.json",
        title=description,
        why="the tokenizer goes into the bundle in this form",
        fix="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it from older files",
    )
    for name in shards:
        check_safetensors(root / name, title=f"{name} of {description}")
    files = {name: root / name for name in names if Path(name).suffix in _DATA_SUFFIXES}
    _check_named(source, files)
    return TeacherFiles(
        path=root, factory=None, licence=source.licence, description=description, digest=_digest(files, source.config)
    )


def _check_named(source: TeacherSource, files: Mapping[str, Path]) -> None:
    for name, expected in source.sha256.items():
        if name not in files:
            raise MissingError(
                "E0254",
                f"the teacher has no file {name!r}{near(name, files)}, whose sha256 the recipe gives",
                fix="correct the name under 'sha256'",
            )
        check_sha256(files[name], expected, title=f"the teacher's {name}")


def _digest(files: Mapping[str, Path], config: Mapping[str, object]) -> str:
    content = {"files": {name: file_sha256(path) for name, path in files.items()}, "config": config}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _import_function(module_name: str, function_name: str, *, folder: Path) -> tuple[Callable[[], object], Path | None]:
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            "E0257",
            f"the module {module_name!r} of the teacher's factory cannot be imported",
            why=f"{type(error).__name__}: {error}",
            fix="put the module beside the recipe or install it, and check that it imports by itself",
        ) from error
    finally:
        sys.path.remove(place)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise UsageError(
            "E0258",
            f"the module {module_name!r} has no function {function_name!r}{near(function_name, names)}",
            fix="correct the factory in the recipe",
        )
    origin = getattr(module, "__file__", None)
    return function, Path(origin) if origin else None
