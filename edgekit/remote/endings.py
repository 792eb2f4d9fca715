"""Turns the signals that end a program at once into exceptions, so that what must be removed is removed first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Never

__all__ = ["endings_raise"]

# Sent by `kill`, a time limit or a closed terminal. Python itself raises for an interrupt.
_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def endings_raise() -> Iterator[None]:
    """Raise SystemExit where the program would have ended; whoever handles these signals already goes on to do so."""
    elsewhere = threading.current_thread() is not threading.main_thread()  # where Python lets nobody handle signals
    taken = [] if elsewhere else [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _: FrameType | None) -> Never:
    raise SystemExit(128 + number)
