"""``edgekit diff``: what differs between two runs or two bundles."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from edgekit.diff import AnswerDiff, Change, Difference
    from edgekit.parity.metrics import Measure

__all__ = ["command"]

_DIFFERENT = 3  # as for a missed quality bound
_MOST_ROWS = 20
_MOST_CHANGES = 40  # of one subject
_LONGEST = 72  # characters of a cell


@click.command("diff")
@click.argument("a", type=click.Path(path_type=Path), metavar="A")
@click.argument("b", type=click.Path(path_type=Path), metavar="B")
@click.option("--exit-code", is_flag=True, help="Exit with 3 if a row got another answer, or none can be compared.")
@json_option
def command(a: Path, b: Path, exit_code: bool, as_json: bool) -> None:
    """Say what differs between A and B: two evidence files, or two bundles."""
    from edgekit.diff import diff

    found = diff(a, b)
    if as_json:
        print_json("diff", {"a": str(a), "b": str(b), **found.as_json()})
    else:
        _print(found)
    if exit_code and found.decisions_differ:
        sys.stdout.flush()
        raise click.exceptions.Exit(_DIFFERENT)


def _print(found: "Difference") -> None:
    if found.same:
        print("nothing differs")
        return
    for answers in found.answers:
        _print_answers(answers)
    for name, changes in found.sections.items():
        print(f"\n{_short(name)}")
        print_table(("", "A", "B"), [_cells(change) for change in changes[:_MOST_CHANGES]])
        if len(changes) > _MOST_CHANGES:
            print(f"... and {len(changes) - _MOST_CHANGES:,} more; --json gives all")


def _cells(change: "Change") -> tuple[str, str, str]:
    return (_short(change.what), _short(change.a), _short(change.b))


def _measure(measure: "Measure") -> str:
    text = str(measure)
    return text if measure.unit.value == measure.name else f"{measure.name.replace('_', ' ')} {text}"


def _short(text: str) -> str:
    from edgekit.html_report.text import visible

    line = " ".join(visible(text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _print_answers(found: "AnswerDiff") -> None:
    if found.reason:
        print(f"{_short(found.lane)}: not compared, {found.reason}")
    elif found.identical:
        print(f"{_short(found.lane)}: identical to the bit")
    else:
        print(f"{_short(found.lane)}: " + ", ".join(map(_measure, found.measures)))
    if found.tensors:
        print(f"  preprocessing gives other tensors in {found.tensors:,} rows")
    for row in found.changed[:_MOST_ROWS]:
        print(f"  row {row.row}: {_short(row.a)} -> {_short(row.b)}")
    if len(found.changed) > _MOST_ROWS:
        print(f"  ... and {len(found.changed) - _MOST_ROWS:,} more rows; --json gives all")
