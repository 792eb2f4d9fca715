"""What does a comparison layer by layer cost, and how far do sound layers lie from what is expected of them?"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from record import write_result

_LANES = ("onnx-int8", "tflite-int8")


def measure(bundle: Path, lane: str, *, rows: int, max_ram_mb: int) -> dict[str, object]:
    """Run the command in a process of its own, whose CPU time counts from its first instruction to its last."""
    options = ["--rows", str(rows), "--max-ram", str(max_ram_mb), "--json"]
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "debug", "layers", str(bundle), "--on", lane, *options],
        check=True,
        capture_output=True,
        text=True,
    )
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {**figures(json.loads(done.stdout)), "cpu_s": round(spent, 1), "max_ram_mb": max_ram_mb}


def figures(report: dict[str, Any]) -> dict[str, object]:
    """Give what stays of a report."""
    layers = [row for row in report["layers"] if row["kind"] != "between"]
    gaps = [row["expected_db"] - row["local"]["sqnr_db"] for row in layers if isinstance(row["expected_db"], float)]
    steps = [row["local"]["rmse_steps"] for row in layers if row["local"]["rmse_steps"] is not None]
    return {
        "layers": len(layers),
        "between": len(report["layers"]) - len(layers),
        "rows": report["rows"],
        "peak_rss_mb": report["peak_rss_mb"],
        "first_divergence": report["first_divergence"],
        "above_expected_noise_db_median": round(median(gaps), 2),
        "above_expected_noise_db_most": round(max(gaps), 2),
        "output_steps_median": round(median(steps), 3) if steps else None,
        "inherited_sqnr_db_least": round(min(row["inherited"]["sqnr_db"] for row in layers), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", metavar="NAME=BUNDLE", help="a .edge file with its .lanes beside it")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--max-ram", type=int, nargs="+", default=[1500], metavar="MB")
    given = parser.parse_args()
    found: dict[str, object] = {}
    for text in given.bundles:
        name, _, path = text.partition("=")
        for lane in _LANES:
            for ram in given.max_ram:
                key = f"{name}/{lane}" + (f"/{ram}MB" if len(given.max_ram) > 1 else "")
                found[key] = measure(Path(path), lane, rows=given.rows, max_ram_mb=ram)
    write_result("layers", found, command="python benchmarks/bench_layers.py demo=... minilm=... --max-ram 1500 450")


if __name__ == "__main__":
    main()
