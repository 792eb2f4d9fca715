"""Measures the CPU time of model files of one engine, one block of inferences after the other, as it is told.

``python -m peers.stopwatch --engine E`` reads JSON lines and answers each with one: first the list of files and rows to
open, then the number of a file, again and again. All files stay open, so that lanes of several engines, each in its own
environment, can take turns.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from peers.lane import ENGINES, Call
from peers.work import Rows

__all__ = ["cpu_times", "serve"]

WARM_UP, RUNS = 2, 12
_ROWS = 64


def cpu_times(call: Call, rows: Rows, *, runs: int = RUNS, warm_up: int = WARM_UP, start: int = 0) -> list[float]:
    """Give the CPU time of single inferences in ms, of all threads of this process, after a warm-up.

    Args:
        call: Runs one row.
        rows: Inferences take one after the other.
        runs: Inferences measured.
        warm_up: Inferences before, which fill the caches that other lanes have emptied.
        start: Row of the first inference; wraps round.
    """
    feeds = list(rows.each())
    took = []
    for turn in range(start, start + warm_up + runs):
        ids, mask = feeds[turn % len(feeds)]
        before = time.process_time_ns()
        call(ids, mask)
        took.append((time.process_time_ns() - before) / 1e6)
    return took[warm_up:]


def serve(engine: str, orders: TextIO, answers: TextIO) -> None:
    """Open what the first order lists, then measure one block for each order.

    The first answer names what cannot be opened, by number: the reason. Others are lists of CPU ms.
    """
    wanted = json.loads(orders.readline())
    opened: dict[int, tuple[Call, Rows]] = {}
    failed: dict[int, str] = {}
    for place, item in enumerate(wanted):
        rows = Rows.load(Path(item["rows"]))
        rows = Rows(input_ids=rows.input_ids[:_ROWS], attention_mask=rows.attention_mask[:_ROWS])
        try:
            opened[place] = ENGINES[engine](Path(item["model"])), rows
        except Exception as failure:  # noqa: BLE001 - whatever an engine raises is the lane's result
            failed[place] = f"{type(failure).__name__}: {failure}"
    _answer(answers, failed)
    measured = dict.fromkeys(opened, 0)
    for order in orders:
        place = int(order)
        call, rows = opened[place]
        _answer(answers, cpu_times(call, rows, start=measured[place]))
        measured[place] += WARM_UP + RUNS


def _answer(stream: TextIO, content: object) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=list(ENGINES), required=True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints must not stand among the answers
    serve(parser.parse_args().engine, sys.stdin, answers)


if __name__ == "__main__":
    main()
