"""``edgekit explain``: what an error code means, what leads there and what to do."""

import textwrap
from itertools import groupby

import click

from edgekit.cli.output import json_option, print_json
from edgekit.error_table import Explained, explain, read_table

__all__ = ["command"]

_WIDTH = 100


@click.command("explain")
@click.argument("code", required=False)
@json_option
def command(code: str | None, as_json: bool) -> None:
    """Explain the error CODE, such as E0301; without CODE, list all of them."""
    if code is None:
        table = read_table()
        if as_json:
            print_json("explain", {"codes": [entry.as_json() for entry in table.values()]})
        else:
            _print_all(list(table.values()))
        return
    entry = explain(code)
    if as_json:
        print_json("explain", {"explained": entry.as_json()})
    else:
        _print_one(entry)


def _print_all(entries: list[Explained]) -> None:
    for group, members in groupby(entries, key=lambda entry: entry.group):
        print(group)
        for entry in members:
            print(f"  {entry.code}  {entry.title}")
        print()
    print("One of them in full: edgekit explain CODE")


def _print_one(entry: Explained) -> None:
    print(f"{entry.code}: {entry.title}")
    print(f"  {entry.group}, exit code {entry.raised.exit_code}, {entry.raised.__name__} in Python\n")
    for word, text in (("what", entry.means), ("why", entry.causes), ("fix", entry.fix)):
        lead = f"  {word}: ".ljust(9)
        print(
            textwrap.fill(
                text,
                _WIDTH,
                initial_indent=lead,
                subsequent_indent=" " * 9,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
