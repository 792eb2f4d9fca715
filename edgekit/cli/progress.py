"""How far a build is, on stderr: a moving line on a terminal, one line per stage elsewhere."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from edgekit.cache import Progress

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["make_progress"]


def make_progress(stream: TextIO | None = None) -> Progress:
    """Choose by what ``stream`` (stderr if None) is."""
    out = sys.stderr if stream is None else stream
    return _TerminalProgress(out) if out.isatty() else _LineProgress(out)


def _line(name: str, seconds: float, note: str, *, cached: bool) -> str:
    how = "cached" if cached else f"{seconds:.1f} s"
    return f"{name}: {how}{f' - {note}' if note else ''}"


@dataclass(frozen=True, slots=True)
class _LineProgress:
    """One line when a stage ends, and one when it starts, so that a log shows where a build hangs."""

    stream: TextIO

    def stage_started(self, name: str, /) -> None:
        self._write(f"{name} ...")

    def stage_done(self, name: str, /, *, seconds: float, note: str, cached: bool) -> None:
        self._write(_line(name, seconds, note, cached=cached))

    def stage_failed(self, name: str, /) -> None:
        self._write(f"{name}: failed")

    def notice(self, text: str, /) -> None:
        self._write(text)

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


@dataclass(slots=True)
class _TerminalProgress:
    """A spinner with the running stage; finished stages stay above it."""

    stream: TextIO
    _status: "Status | None" = field(default=None, init=False)

    def stage_started(self, name: str, /) -> None:
        from rich.console import Console
        from rich.markup import escape

        self._status = Console(file=self.stream).status(escape(name))
        self._status.start()

    def stage_done(self, name: str, /, *, seconds: float, note: str, cached: bool) -> None:
        self._stop()
        mark = "=" if cached else "+"
        self.stream.write(f"{mark} {_line(name, seconds, note, cached=cached)}\n")

    def stage_failed(self, name: str, /) -> None:
        self._stop()  # gives the cursor back
        self.stream.write(f"x {name}: failed\n")

    def notice(self, text: str, /) -> None:
        if self._status is None:
            self.stream.write(f"! {text}\n")
        else:
            self._status.console.print(f"! {text}", markup=False, highlight=False)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
