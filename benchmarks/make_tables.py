"""Writes the tables of docs/benchmarks.md from benchmarks/results: ``python benchmarks/make_tables.py [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; text around it is left alone. A test runs the
check, so that no figure of the page differs from the file that a benchmark wrote.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from tables import goals, minilm, peers, schemes, zoo
from tables.markdown import facts

__all__ = ["PAGE", "TABLES", "filled"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
TABLES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "goals": goals.goals,
        "minilm": minilm.lanes,
        "minilm facts": partial(facts, "minilm"),
        "peers best 64": partial(peers.best, 64),
        "peers best 128": partial(peers.best, 128),
        "peers all 64": partial(peers.every, 64),
        "peers all 128": partial(peers.every, 128),
        "peers failures": peers.failures,
        "peers recipes": peers.recipes,
        "peers facts": partial(facts, "peers"),
        "zoo": zoo.drops,
        "zoo facts": partial(facts, "zoo_int8"),
        "schemes": schemes.schemes,
        "schemes facts": partial(facts, "schemes"),
    }
)
_PLACE = re.compile(r"(<!-- table: (?P<name>[^>]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Give a page with every table made anew.

    Raises:
        KeyError: A marker names a table that nobody makes.
        FileNotFoundError: The benchmark of a table has not been run.
    """
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is out of date")
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old)
    if parser.parse_args().check:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
