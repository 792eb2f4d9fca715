"""Where a build leaves its result: found to be writable before the work, changed in one step after it."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edgekit.parity.agreement import Fault
from edgekit_runtime.errors import QualityError, UsageError

__all__ = ["publish", "refuse", "require_writable"]


def require_writable(folder: Path) -> None:
    """Find out before the work, not after it, that the result could not be written.

    Raises:
        UsageError: It cannot (E0129).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            "E0129",
            f"the output folder {str(folder)!r} cannot be written",
            why=error.strerror or str(error),
            fix="name another folder with --out",
        ) from error


def publish(source: Path, bundle: Path) -> None:
    """Put the bundle in place: the path holds the old file or the whole new one at any moment."""
    temporary = bundle.with_name(f".{bundle.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as read, temporary.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        temporary.replace(bundle)
    finally:
        temporary.unlink(missing_ok=True)


def refuse(bundle: Path, faults: Sequence[Fault], folder: Path, *, code: str, advice: str) -> NoReturn:
    """Leave no bundle that looks finished: one of an earlier build is set aside under another name.

    Raises:
        QualityError: Always, with ``code``.
    """
    aside = ""
    if bundle.exists():
        older = bundle.with_name(f"{bundle.name}.older")
        bundle.replace(older)
        aside = f"; the bundle of an earlier build is now {older.name}"
    raise QualityError(
        code,
        f"no bundle: {len(faults)} bound{'s' if len(faults) > 1 else ''} missed",
        why="; ".join(str(fault) for fault in faults),
        fix=f"see {folder / 'report.json'} and the models in {bundle.with_suffix('.lanes').name}{aside}; {advice}",
    )
