"""Writes docs/errors.md from the table of error codes: ``python docs/make_errors.py [--check]``.

A test runs the check, so that page and ``edgekit explain`` say the same.
"""

import argparse
import sys
from itertools import groupby
from pathlib import Path

from edgekit.error_table import CLASSES, Explained, read_table

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("errors.md")
_HEAD = """\
# Error codes

<!-- Written by docs/make_errors.py; change edgekit/error_codes/*.toml instead. -->

Every error that edgekit raises on purpose has a code, says what happened and, where it knows, why and what to do.
`edgekit explain E0301` shows what stands below for one code, `edgekit explain` lists all of them. The exit code tells a
script what kind of error it was. `edgekit --debug COMMAND ...` shows where in the code an error comes from.
"""


def page() -> str:
    """Give the whole page."""
    entries = list(read_table().values())
    digits = sorted({entry.code[1:3] for entry in entries})
    rows = ["| codes | what they are about | exit codes |", "|---|---|---|"]
    for two in digits:
        exits = sorted({entry.raised.exit_code for entry in entries if entry.code[1:3] == two})
        rows.append(f"| [E{two}..](#class-{two}) | {CLASSES[two].name} | {', '.join(map(str, exits))} |")
    parts = [_HEAD, "\n".join(rows) + "\n"]
    for two, members in groupby(entries, key=lambda entry: entry.code[1:3]):
        parts.append(f'<a id="class-{two}"></a>\n\n## E{two}..: {CLASSES[two].name}\n')
        parts += [_section(entry) for entry in members]
    return "\n".join(parts)


def _section(entry: Explained) -> str:
    return (
        f'<a id="{entry.code}"></a>**{entry.code}: {entry.title}** (exit code {entry.raised.exit_code}, '
        f"`{entry.raised.__name__}`)\n\n{entry.means}\n\n- Usual causes: {entry.causes}\n- What to do: {entry.fix}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is out of date")
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
