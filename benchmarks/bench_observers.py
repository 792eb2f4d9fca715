"""What does it cost to watch a tensor, and does it stay in the same memory however many rows come?

CPU time of one update of each observer on a float32 tensor of shape (64, 1536), taking turns with ``torch.aminmax``,
which reads every value once; CPU time of the search for the range; peak memory of a fresh process after 16 and 4,096
updates.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from record import write_result

from edgekit_converters.quantize.calibration.observers import make_observer
from edgekit_converters.quantize.calibration.spec import METHODS, ObserverSpec

SHAPE = (64, 1536)  # the input of FFN-out of a small transformer, 64 tokens
FEW, MANY = 16, 4096


def rows() -> list[torch.Tensor]:
    """Eight heavy-tailed tensors whose ranges differ."""
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.laplace(size=SHAPE).astype(np.float32) * 1.3**i) for i in range(8)]


def cpu_us(call: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - start) / 1e3


def best_and_median(took: list[float]) -> dict[str, float]:
    return {"best": round(min(took), 1), "median": round(float(np.median(took)), 1)}


def costs(runs: int) -> dict[str, object]:
    tensors = rows()
    observers = {method: make_observer(ObserverSpec(method=method), "x") for method in METHODS}
    alone: list[float] = []
    updates: dict[str, list[float]] = {method: [] for method in METHODS}
    for run in range(runs + 10):
        values = tensors[run % len(tensors)]
        took = {method: cpu_us(partial(observer.update, values)) for method, observer in observers.items()}
        base = cpu_us(partial(torch.aminmax, values))
        if run >= 10:  # ten to warm up, in which the histograms reach their final range
            alone.append(base)
            for method in METHODS:
                updates[method].append(took[method])
    return {
        "aminmax_cpu_us": best_and_median(alone),
        "update_cpu_us": {method: best_and_median(took) for method, took in updates.items()},
        "update_per_aminmax": {
            method: round(float(np.median(took) / np.median(alone)), 2) for method, took in updates.items()
        },
        "range_cpu_us": {
            method: best_and_median([cpu_us(observer.range) for _ in range(10)])
            for method, observer in observers.items()
        },
    }


def peak_mib() -> float:
    """Peak resident memory of this process; ``ru_maxrss`` would take over that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) / 1024


def probe(method: str, updates: int) -> None:
    tensors = rows()
    observer = make_observer(ObserverSpec(method=method), "x")  # type: ignore[arg-type]
    for number in range(updates):
        observer.update(tensors[number % len(tensors)])
    observer.range()
    print(peak_mib())


def memory(method: str) -> dict[str, float]:
    peak = {}
    for updates in (FEW, MANY):
        command = [sys.executable, __file__, "--probe", method, str(updates)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak[f"after_{updates}"] = round(float(done.stdout), 1)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="updates per figure")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/observers.json")
    parser.add_argument("--probe", nargs=2, metavar=("METHOD", "UPDATES"), help="print the peak memory of this process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.probe:
        probe(arguments.probe[0], int(arguments.probe[1]))
        return
    figures = {
        "shape": list(SHAPE),
        **costs(arguments.runs),
        "peak_mib": {method: memory(method) for method in METHODS},
    }
    if arguments.record:
        write_result("observers", figures, command="python benchmarks/bench_observers.py --record")
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
