"""What every error code means, for ``edgekit explain`` and docs/errors.md; the runtime knows nothing of it."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from types import MappingProxyType

from edgekit_runtime import errors
from edgekit_runtime.errors import EdgekitError, UsageError

__all__ = ["CLASSES", "CodeClass", "Explained", "explain", "read_table"]

_FOLDER = "error_codes"
_NEAR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeClass:
    """What the first two digits of a code say.

    Attributes:
        name: In a word or two, as the list of codes shows it.
        raised: The exception that such codes are raised with, unless a code's own entry names another.
    """

    name: str
    raised: type[EdgekitError]


# The numbering that edgekit_runtime.errors describes.
CLASSES: Mapping[str, CodeClass] = MappingProxyType(
    {
        "00": CodeClass(name="edgekit itself", raised=errors.EdgekitError),
        "01": CodeClass(name="usage", raised=errors.UsageError),
        "02": CodeClass(name="data and model sources", raised=errors.UsageError),
        "03": CodeClass(name="quality", raised=errors.QualityError),
        "04": CodeClass(name="target", raised=errors.TargetError),
        "05": CodeClass(name="bundle", raised=errors.BundleError),
        "06": CodeClass(name="missing", raised=errors.MissingError),
        "07": CodeClass(name="conversion", raised=errors.ConversionError),
        "08": CodeClass(name="device", raised=errors.DeviceError),
        "09": CodeClass(name="inference", raised=errors.UsageError),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One error code.

    Attributes:
        code: ``E`` and four digits.
        title: The fault in a few words.
        means: What has happened.
        causes: What usually leads there.
        fix: What to do.
        raised: The exception that it is raised with.
    """

    code: str
    title: str
    means: str
    causes: str
    fix: str
    raised: type[EdgekitError]

    @property
    def group(self) -> str:
        """Give the name of its class: ``usage``, ``quality``, ..."""
        return CLASSES[self.code[1:3]].name

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {
            "code": self.code,
            "title": self.title,
            "class": self.group,
            "error": self.raised.__name__,
            "exit": self.raised.exit_code,
            "means": self.means,
            "causes": self.causes,
            "fix": self.fix,
        }


def read_table() -> dict[str, Explained]:
    """Read all codes, in their order.

    Raises:
        TypeError: An entry has a field too many or lacks one.
        ValueError: A code stands in two files, or names an exception that is none of ours.
    """
    table: dict[str, Explained] = {}
    pages = sorted(files("edgekit").joinpath(_FOLDER).iterdir(), key=lambda page: page.name)
    for page in pages:
        for code, fields in tomllib.loads(page.read_text(encoding="utf-8")).items():
            if code in table:
                raise ValueError(f"{code} stands twice, also in {page.name}")
            table[code] = _entry(code, **fields)
    return dict(sorted(table.items()))


def _entry(code: str, *, title: str, means: str, causes: str, fix: str, raised: str = "") -> Explained:
    if raised and raised not in errors.__all__:
        raise ValueError(f"{code} is raised with {raised!r}, which is none of {', '.join(errors.__all__)}")
    kind = getattr(errors, raised) if raised else CLASSES[code[1:3]].raised
    return Explained(code=code, title=title, means=means, causes=causes, fix=fix, raised=kind)


def explain(asked: str) -> Explained:
    """Find a code however it is written: ``E0301``, ``e0301``, ``0301``, ``301``.

    Raises:
        UsageError: There is no such code (E0100); the nearest ones are named.
    """
    table = read_table()
    digits = re.fullmatch(r"e?([0-9]{1,4})", asked.strip().strip("[]").lower())
    code = f"E{int(digits[1]):04}" if digits else asked
    if code in table:
        return table[code]
    near = _near_number(code, table) if digits else _about(asked, table)
    raise UsageError(
        "E0100",
        f"there is no error code {asked!r}",
        why=f"near: {', '.join(near)}" if near else "codes are E and four digits",
        fix="all codes: edgekit explain",
    )


def _near_number(code: str, table: Mapping[str, Explained]) -> list[str]:
    """Give the codes with the nearest numbers, and those that differ in a digit or in the order of digits."""
    alike = difflib.get_close_matches(code, table, n=2, cutoff=0.7)
    by_number = sorted(table, key=lambda each: abs(int(each[1:]) - int(code[1:])))
    return sorted(dict.fromkeys([*by_number[: _NEAR - len(alike)], *alike]))


def _about(word: str, table: Mapping[str, Explained]) -> list[str]:
    """Give the first codes whose title or meaning has a word in it."""
    held = (code for code, entry in table.items() if word.lower() in f"{entry.title} {entry.means}".lower())
    return list(islice(held, _NEAR))
