"""The few forms that all generated tables share."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "facts", "load", "megabytes", "ratio", "table"]

RESULTS = Path(__file__).resolve().parents[1] / "results"


def load(name: str) -> Any:  # noqa: ANN401 - JSON; every table knows its own form
    """Read ``benchmarks/results/<name>.json``.

    Raises:
        FileNotFoundError: The benchmark has not been run.
    """
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def facts(name: str) -> str:
    """Say where the figures of a result come from: file, command, machine."""
    found = load(name)
    machine = found["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    return f"[results](../benchmarks/results/{name}.json): `{found['command']}`; {where}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Give a Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def megabytes(size: float) -> str:
    return f"{size:.1f}"


def ratio(value: float | None) -> str:
    return f"{value:.2f}x" if value else ""
