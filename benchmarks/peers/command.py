"""The command line that all peers share: ``PYTHONPATH=benchmarks python -m peers.peer_X quantise [VARIANT ...]``."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from peers.work import DEFAULT_WORK, SEQUENCES, Quantise, Variant, make_models

__all__ = ["peer_main"]


def peer_main(description: str | None, rows: Mapping[Variant, Quantise]) -> None:
    """Make the model files of one peer; embeddings and times are taken by ``peers.lane``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("mode", choices=["quantise", "list"])
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(row.name for row in rows)}; all if none is given")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES)
    parser.add_argument("--again", action="store_true", help="also what is there already, or failed before")
    arguments = parser.parse_args()
    if arguments.mode == "list":
        for row in rows:
            print(f"{row.title}: {row.how} ({row.page})")
        return
    for sequence in arguments.sequences:
        make_models(
            rows,
            work=arguments.work,
            sequence=sequence,
            names=tuple(arguments.variants),
            again=arguments.again,
        )
