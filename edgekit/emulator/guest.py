"""Runs in the emulated Python: answers rows with a bundle, and marks each inference for the counting plugin.

It imports what a device has, edgekit_runtime alone, and is started by path: the desktop's package is not there.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit_runtime.bundle import verify
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.evidence import collect
from edgekit_runtime.model import Model
from edgekit_runtime.rows import read_rows

_MARK = 0x5EED0000  # no open file has this number, so closing it fails and does nothing; see count.c


def mark() -> None:
    """Tell the plugin that a window begins or ends."""
    try:
        os.close(_MARK)
    except OSError:
        return


def main(argv: Sequence[str]) -> int:
    """Answer, and write the evidence of one lane."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bundle", "rows", "engine", "lane", "evidence"):
        parser.add_argument(name)
    parser.add_argument("empty", type=int)
    given = parser.parse_args(argv)
    try:
        # An engine that may be wrong is not asked to prove itself: whoever compares the answers is the judge.
        with Model(verify(given.bundle), engine=given.engine, prove=False) as model:
            for _ in range(2 * given.empty):
                mark()
            found = collect(model, read_rows(given.rows), lane=given.lane, timed=False, mark=mark)
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(given.evidence).write_text(json.dumps(found.as_json()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
