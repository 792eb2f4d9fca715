"""What setting up the emulator and one emulated self-test take.

``PYTHONPATH=benchmarks python benchmarks/bench_emulator.py`` runs the setup as a user runs it, from nothing, into a
cache of its own that is deleted afterwards, and answers the goldens of the demo bundle on each 64-bit core and model,
with the emulator of edgekit's cache. Seconds are those of the clock, for a user waits by it; they hold for this machine
and its network. Writes ``results/emulator.json``.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import write_result

from edgekit.emulator.lanes import open_lanes
from edgekit.lanes.base import Question
from edgekit.lanes.models import held_models
from edgekit_runtime.bundle import verify
from edgekit_runtime.rows import golden_rows

_BUNDLE = Path("runs/sentiment/x86-64/sentiment-x86-64.edge")
_CORES = ("arm:cortex-a53", "arm:cortex-a72", "arm:cortex-a76")


def set_up() -> dict[str, object]:
    """Prepare the emulator in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [sys.executable, "-m", "edgekit", "emulator", "setup"]
        done = subprocess.run(
            command, env={**os.environ, "EDGEKIT_CACHE": folder}, check=True, capture_output=True, text=True
        )
        seconds = time.monotonic() - start
        kept = sum(path.lstat().st_size for path in Path(folder).rglob("*") if not path.is_dir())
    fetched = re.search(r"fetches (\d+) files, (\d+) MB", done.stderr)
    if fetched is None:
        raise RuntimeError(f"setup does not say what it fetches: {done.stderr[:200]}")
    return {
        "seconds": round(seconds, 1),
        "files": int(fetched[1]),
        "fetched_mb": int(fetched[2]),
        "kept_mb": round(kept / 1e6, 1),
    }


def self_tests(path: Path) -> dict[str, object]:
    """Answer the goldens on every core."""
    bundle = verify(path)
    asked = Question(path=path, bundle=bundle, rows=golden_rows(bundle))
    found: dict[str, object] = {}
    for core in _CORES:
        for lane in open_lanes(core, held_models(bundle)):
            start = time.monotonic()
            evidence = lane.answer(asked)
            seconds = round(time.monotonic() - start, 1)
            found[lane.name] = {"seconds": seconds, "rows": len(asked.rows), "faults": list(evidence.selftest or ())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=_BUNDLE)
    given = parser.parse_args()
    figures = {"setup_from_nothing": set_up(), "self_test": self_tests(given.bundle)}
    write_result("emulator", figures, command="PYTHONPATH=benchmarks python benchmarks/bench_emulator.py")


if __name__ == "__main__":
    main()
