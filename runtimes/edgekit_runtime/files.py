"""Files that are read without waiting for anybody, and written whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgekit_runtime.errors import UsageError

__all__ = ["open_regular", "write_whole"]


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe would wait for a writer that may never come.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file to read, and say what the open file is.

    Raises:
        FileNotFoundError: There is none; the caller knows what that means.
        UsageError: It is a folder, a pipe or a device, or cannot be read (E0901).
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError("E0901", f"{os.fspath(path)} is not a regular file")
            yield file, status
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError("E0901", f"cannot read {os.fspath(path)!r}", why=error.strerror or str(error)) from error


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that the path holds either the old file or the whole new one, whatever happens in between.

    Raises:
        UsageError: The folder cannot be written (E0902).
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself must survive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError("E0902", f"cannot write {final}", why=error.strerror or str(error)) from error
