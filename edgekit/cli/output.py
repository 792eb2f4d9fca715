"""What commands write: results on stdout, as text or as versioned JSON; everything else on stderr."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import click

from edgekit_runtime.errors import EdgekitError

__all__ = [
    "bundle_argument",
    "error_json",
    "human_bytes",
    "json_is_printed",
    "json_option",
    "print_json",
    "print_table",
]

SCHEMA = 1

_JSON_KEY = "edgekit.json"  # in click's meta, which all contexts of a call share
_F = TypeVar("_F", bound=Callable[..., object])


def json_option(function: _F) -> _F:
    """Give a command ``--json`` as the argument ``as_json``."""

    def remember(context: click.Context, _: click.Parameter, value: object) -> object:
        context.meta[_JSON_KEY] = bool(value)
        return value

    option = click.option("--json", "as_json", is_flag=True, callback=remember, help="Print JSON on stdout.")
    return option(function)


def bundle_argument(function: _F) -> _F:
    """Give a command the argument BUNDLE as ``bundle``."""
    return click.argument("bundle", type=click.Path(path_type=str), metavar="BUNDLE")(function)


def print_json(command: str, content: Mapping[str, object]) -> None:
    """Print ``{"schema": 1, "command": ..., ...}`` on one line.

    Raises:
        ValueError: A number is NaN or infinite, which JSON has no word for.
    """
    document = {"schema": SCHEMA, "command": command, **content}
    sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def error_json(context: click.Context, error: EdgekitError) -> None:
    """Print an error as JSON if the command was asked for JSON."""
    if context.meta.get(_JSON_KEY):
        parts = {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix, "exit": error.exit_code}
        print_json(context.invoked_subcommand or "", {"error": parts})


def json_is_printed() -> None:
    """Say that the document of this call is out: an error that follows it goes to stderr alone."""
    click.get_current_context().meta[_JSON_KEY] = False


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Print columns as wide as their widest cell; those in ``right`` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def human_bytes(size: int) -> str:
    """Write a size for people, in units of 1000: ``4.1 MB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
