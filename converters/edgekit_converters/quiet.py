"""Keeps third-party converters from writing over the user's terminal; what they wrote is shown when they fail."""

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from edgekit_runtime.errors import ConversionError, EdgekitError

__all__ = ["converting"]

_TAIL_LINES = 3


@contextlib.contextmanager
def converting(code: str, what: str) -> Iterator[None]:
    """Run a converter: silent when it works, a ``ConversionError`` with its last words when it does not.

    The C++ parts write to the file descriptors themselves, so those are what is redirected.

    Args:
        code: Of the error.
        what: Of the error, e.g. ``the model could not be exported to ONNX``.

    Raises:
        ConversionError: The converter raised anything but one of our own errors.
    """
    with tempfile.TemporaryFile() as noise:
        try:
            with _redirected(noise.fileno()), warnings.catch_warnings(), _silent_logging():
                warnings.simplefilter("ignore")  # of the converters' own internals
                yield
        except EdgekitError:
            raise
        except Exception as error:
            noise.seek(0)
            said = noise.read().decode("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:]
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            raise ConversionError(
                code,
                what,
                why="\n       ".join([reason, *said]),
                fix="run again with --debug to see where the converter stopped",
            ) from error


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    _flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        # In a notebook or a test, Python's own streams do not end at the descriptors.
        with (
            os.fdopen(target, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False) as text,
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
        ):
            yield
    finally:
        _flush()
        for number, handle in enumerate(kept, start=1):
            os.dup2(handle, number)
            os.close(handle)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what C code wrote waits in a buffer of its own and would come out later


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
