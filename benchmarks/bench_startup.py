"""How long does it take to start, and what does the runtime add to an engine call?

``edgekit --help`` and ``import edgekit_runtime`` in fresh interpreters (minimum and median of wall times), and the CPU
time of ``model(x)`` on an image beside that of the bare engine call, taking turns in one process.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from record import write_result

import edgekit_runtime
from edgekit_runtime.engines import get_engine, open_engine


def wall_ms(command: list[str], runs: int) -> dict[str, float]:
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took.append((time.perf_counter() - start) * 1e3)
    return {"min": round(min(took), 1), "median": round(statistics.median(took), 1)}


def import_ms(module: str, runs: int) -> dict[str, float]:
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    took = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(runs)
    ]
    return {"min": round(min(took), 1), "median": round(statistics.median(took), 1)}


def overhead_us(bundle: Path, engine: str, runs: int) -> dict[str, float]:
    """CPU time of ``model(image)`` minus that of the engine alone on the preprocessed tensor."""
    model = edgekit_runtime.load(bundle, engine=engine)
    image = model.bundle.npy("golden/input.npy")[0]
    feeds = model.preprocess(image)
    entry = model.bundle.manifest.models[get_engine(engine).runtime]
    bare = open_engine(engine, model.bundle.read(entry.member), entry.inputs, entry.outputs)
    whole, alone = np.empty(runs), np.empty(runs)
    for i in range(runs):
        start = time.thread_time_ns()
        model(image)
        middle = time.thread_time_ns()
        bare.run(feeds)
        alone[i] = time.thread_time_ns() - middle
        whole[i] = middle - start
    return {
        "model_us_median": round(float(np.median(whole)) / 1e3, 1),
        "engine_us_median": round(float(np.median(alone)) / 1e3, 1),
        "overhead_us_median": round(float(np.median(whole) - np.median(alone)) / 1e3, 1),
        "overhead_us_min": round(float(whole.min() - alone.min()) / 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a digits bundle")
    parser.add_argument("--runs", type=int, default=15, help="fresh interpreters per figure")
    arguments = parser.parse_args()
    edgekit = str(Path(sys.executable).with_name("edgekit"))
    figures = {
        "edgekit_help_wall_ms": wall_ms([edgekit, "--help"], arguments.runs),
        "python_alone_wall_ms": wall_ms([sys.executable, "-c", "pass"], arguments.runs),
        "import_edgekit_runtime_ms": import_ms("edgekit_runtime", arguments.runs),
        "import_edgekit_runtime_model_ms": import_ms("edgekit_runtime.model", arguments.runs),
        "overhead_onnxruntime": overhead_us(arguments.bundle, "onnxruntime", 5000),
        "overhead_litert": overhead_us(arguments.bundle, "litert", 5000),
    }
    write_result("startup", figures, command="python benchmarks/bench_startup.py runs/digits/x86-64/digits-x86-64.edge")


if __name__ == "__main__":
    main()
