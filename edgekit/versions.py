"""Version numbers and the ranges that edgekit's own metadata asks for, without a package for it."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

__all__ = ["Requirement", "installed_versions", "requirements", "version_matches"]

_CLAUSE = re.compile(r"(==|!=|>=|<=|>|<|~=)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*((?:[=!<>~][^;@]*)?)(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_COMPARE: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        ">=": operator.ge,
        "<=": operator.le,
        ">": operator.gt,
        "<": operator.lt,
    }
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that edgekit wants.

    Attributes:
        name: Distribution, in lower case with hyphens.
        versions: Range such as ``>=4.57,<4.58``; empty = any.
        extra: Extra that it belongs to; empty for the base.
    """

    name: str
    versions: str
    extra: str


def requirements(distribution: str) -> tuple[Requirement, ...]:
    """Read what an installed distribution requires, extras included, from its own metadata.

    Raises:
        ValueError: An entry is of a form that edgekit does not use in its own metadata.
    """
    found = []
    for text in metadata.requires(distribution) or ():
        match = _REQUIREMENT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"requirement {text!r} is not understood")
        extra = _EXTRA.search(match[3] or "")
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        found.append(Requirement(name, re.sub(r"\s+", "", match[2]), extra[1] if extra else ""))
    return tuple(found)


def installed_versions() -> dict[str, str]:
    """Give the versions of what an answer depends on, of those packages that are installed."""
    found = {}
    for name in ("edgekit", "torch", "onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def version_matches(version: str, versions: str) -> bool:
    """Say whether a version lies in a range.

    Only the release numbers count: ``2.13.0+cpu`` and ``2.13.0rc1`` are taken as ``2.13.0``.

    Args:
        version: E.g. ``2.13.0+cpu``.
        versions: E.g. ``==2.13.*`` or ``>=4.57,<4.58``; empty matches all.

    Raises:
        ValueError: The range is of another form.
    """
    for clause in filter(None, (part.strip() for part in versions.split(","))):
        match = _CLAUSE.fullmatch(clause)
        if match is None or match[1] == "~=" or (match[3] and match[1] not in {"==", "!="}):
            raise ValueError(f"version range {clause!r} is not understood")
        wanted = tuple(map(int, match[2].split(".")))
        release = _release(version)
        if match[3]:
            release = (*release, *(0,) * len(wanted))[: len(wanted)]
        else:
            width = max(len(release), len(wanted))
            release, wanted = _pad(release, width), _pad(wanted, width)
        if not _COMPARE[match[1]](release, wanted):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _pad(parts: tuple[int, ...], width: int) -> tuple[int, ...]:
    return (*parts, *(0,) * (width - len(parts)))
