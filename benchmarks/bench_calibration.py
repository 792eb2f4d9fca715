"""What does calibration cost beside plain inference, and does its memory stay flat from 16 to 4,096 samples?

all-MiniLM-L6-v2 in PyTorch, one thread, all linear layers static: 60 tensors are watched. The 728 sentences that the
peers get (``peers/prepare.py``) are repeated to any number, padded to 64 tokens or with padding cut off, as a build
does it. Every figure comes from a process of its own.

*Time*: each row runs once plainly and once in the calibration, in turn, so that both see the same machine. The rest is
the cost of the whole calibration beyond the rows: preparing the graph and searching the ranges.

*Memory*: peak resident memory of a process that calibrates and does nothing else, beyond its memory after the imports,
once for the calibration alone (the loaded model included) and once with loading and tracing the model.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import torch
from bench_minilm import Embedder, contract_of, feeds_of
from peers.work import DEFAULT_WORK
from record import write_result

from edgekit_converters.quantize.calibration.rows import Row, as_rows
from edgekit_converters.quantize.calibration.run import measure
from edgekit_converters.quantize.graph import Graph, trace
from edgekit_models.checkpoints import read_transformers_folder

METHODS = ("minmax", "percentile", "entropy", "mse")
LENGTH, TIMED_ROWS = 64, 256
MEMORY_ROWS = {method: (16, 256, 4096) if method == "minmax" else (16, 256, 1024) for method in METHODS}
BOUND_RATIO, BOUND_S = 1.15, 1.0


def status_mib(field: str) -> float:
    """Read ``VmRSS`` or ``VmHWM`` of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


def load(work: Path) -> Graph:
    encoder = read_transformers_folder(work / "model", classes=2, max_length=LENGTH).eval()
    return trace(Embedder(encoder).eval(), contract_of(LENGTH).example(), longest=LENGTH)


def rows_of(graph: Graph, work: Path, count: int, *, trim: bool) -> Iterator[Row]:
    place = work / f"s{LENGTH}"
    feeds = [*feeds_of(place / "calibration.npz"), *feeds_of(place / "eval.npz")]
    return iter(as_rows(graph, lambda: islice(cycle(feeds), count), trim=trim))


def probe_time(work: Path, method: str, count: int, *, trim: bool) -> dict[str, float]:
    graph = load(work)
    for row in rows_of(graph, work, 32, trim=trim):  # warm up
        graph(*row)
    plain: list[float] = []
    pauses: list[float] = []

    def in_turn() -> Iterator[Row]:
        for row in rows_of(graph, work, count, trim=trim):
            pauses.append(time.thread_time())
            with torch.no_grad():
                start = time.thread_time()
                graph(*row)
                plain.append(time.thread_time() - start)
            pauses[-1] = time.thread_time() - pauses[-1]
            yield row

    start = time.thread_time()
    measure(graph, in_turn(), ranges=method, peaks=False)  # type: ignore[arg-type]
    calibration = time.thread_time() - start - sum(pauses)
    bound = BOUND_S + BOUND_RATIO * sum(plain)
    return {
        "inference_cpu_ms_per_sample": round(sum(plain) / count * 1e3, 3),
        "calibration_cpu_ms_per_sample": round(calibration / count * 1e3, 3),
        "ratio": round(calibration / sum(plain), 3),
        "calibration_cpu_s": round(calibration, 2),
        "bound_cpu_s": round(bound, 2),
    }


def probe_memory(work: Path, method: str, count: int, *, trim: bool) -> dict[str, float]:
    baseline = status_mib("VmRSS")
    graph = load(work)
    weights = sum(value.nbytes for value in graph.parameters()) / 2**20
    rows = rows_of(graph, work, count, trim=trim)
    loading = status_mib("VmHWM") - baseline
    held = status_mib("VmRSS") - baseline
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    measure(graph, rows, ranges=method, peaks=False)  # type: ignore[arg-type]
    peak = status_mib("VmHWM") - baseline
    return {
        "weights_mib": round(weights, 1),
        "baseline_mib": round(baseline, 1),
        "held_before_mib": round(held, 1),
        "peak_mib": round(peak, 1),
        "peak_with_loading_mib": round(max(peak, loading), 1),
        "bound_mib": round(1.3 * weights + 150e6 / 2**20, 1),
    }


def probe(work: Path, part: str, method: str, count: int, *, trim: bool) -> dict[str, float]:
    """Run one probe in a process of its own."""
    options = ["--work", str(work), "--probe", part, method, str(count), "trimmed" if trim else "padded"]
    done = subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(part, method, count, "trimmed" if trim else "padded", found, flush=True)
    return found


def run_part(part: str, work: Path) -> dict[str, object]:
    if part == "time":
        return {
            form: {method: probe(work, part, method, TIMED_ROWS, trim=form == "trimmed") for method in METHODS}
            for form in ("padded", "trimmed")
        }
    return {
        method: {f"rows_{count}": probe(work, part, method, count, trim=False) for count in counts}
        for method, counts in MEMORY_ROWS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--parts", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    parser.add_argument(
        "--probe", nargs=4, metavar=("PART", "METHOD", "ROWS", "FORM"), help="used by the script itself"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.probe:
        part, method, count, form = given.probe
        run = probe_time if part == "time" else probe_memory
        print(json.dumps(run(given.work, method, int(count), trim=form == "trimmed")))
        return
    new = {part: run_part(part, given.work) for part in given.parts}
    old = Path(__file__).parent / "results" / "calibration.json"  # a part that is not run keeps its former figures
    found = json.loads(old.read_text(encoding="utf-8"))["figures"] if old.is_file() else {}
    found |= new
    write_result("calibration", found, command="PYTHONPATH=benchmarks python benchmarks/bench_calibration.py")


if __name__ == "__main__":
    main()
