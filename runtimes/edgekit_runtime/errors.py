"""The error tree that desktop and device share.

    EdgekitError                    every error that edgekit raises on purpose
    ├── UsageError        exit 2    the call, the recipe or the data is wrong; the user can mend it
    ├── QualityError      exit 3    a quality bound was missed
    ├── TargetError       exit 4    the target was not reached (an operator fell back, a format is absent)
    ├── BundleError       exit 5    a bundle failed verification; nothing in it was used
    ├── MissingError      exit 6    a package, a file or an engine is not here
    ├── ConversionError   exit 7    a model could not be converted
    └── DeviceError       exit 8    a device could not be reached

A code ``E0512`` names one fault: its first two digits are the class (01 usage, 02 data and model sources, 03 quality,
04 target, 05 bundle, 06 missing, 07 conversion, 08 device, 09 inference), its last two count within it. Codes of 02 are
raised as usage or missing, those of 09 as usage or bundle; all others as the class of their digits.
"""

from typing import ClassVar

__all__ = [
    "BundleError",
    "ConversionError",
    "DeviceError",
    "EdgekitError",
    "MissingError",
    "QualityError",
    "TargetError",
    "UsageError",
]


class EdgekitError(Exception):
    """What went wrong, why, and what to do about it.

    Attributes:
        code: ``E`` and four digits; one per fault.
        what: The fault in one sentence, with the offending value.
        why: The cause as far as it is known; may be empty.
        fix: What the user can do next; may be empty.
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.fix = code, what, why, fix

    def __str__(self) -> str:
        """Give the three lines a user reads: ``error[E0512]: what``, ``why:``, ``fix:``."""
        lines = [f"error[{self.code}]: {self.what}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Let an error cross a process border with its parts."""
        return (_rebuild, (type(self), self.code, self.what, self.why, self.fix))


def _rebuild(cls: type[EdgekitError], code: str, what: str, why: str, fix: str) -> EdgekitError:
    error = cls.__new__(cls)
    EdgekitError.__init__(error, code, what, why=why, fix=fix)
    return error


class UsageError(EdgekitError, ValueError):
    """The call, the recipe or the data is wrong."""

    exit_code = 2


class QualityError(EdgekitError):
    """A quality bound was missed."""

    exit_code = 3


class TargetError(EdgekitError):
    """The target was not reached."""

    exit_code = 4


class BundleError(EdgekitError):
    """A bundle failed verification; no engine has seen a byte of it."""

    exit_code = 5


class MissingError(EdgekitError, LookupError):
    """A package, a file or an engine is not here."""

    exit_code = 6


class ConversionError(EdgekitError):
    """A model could not be converted."""

    exit_code = 7


class DeviceError(EdgekitError):
    """A device could not be reached."""

    exit_code = 8
