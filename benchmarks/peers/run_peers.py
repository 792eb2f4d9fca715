"""The one command for the peers: ``PYTHONPATH=benchmarks python -m peers.run_peers [--time]``.

Prepares, makes environments, quantises, embeds the eval rows and writes ``benchmarks/results/peers.json``. All of it
is resumable: what the work folder holds is kept. ``--time`` measures every lane anew: five rounds over all lanes of a
length, a block of inferences each, one thread, CPU time. ``--extra`` adds lanes of one's own to the same rounds: a JSON
list of objects with ``name``, ``engine`` (onnxruntime or litert), ``model`` (path) and ``sequence``.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from record import write_result

from peers import peer_aeq, peer_executorch, peer_olive, peer_optimum, peer_ort, peer_smoothquant
from peers.environments import ENVIRONMENTS, make_environments, python_of
from peers.lanes import Lane, extra_lanes, peer_lanes
from peers.metrics import closeness
from peers.prepare import prepare
from peers.timing import CpuTime, Stopwatch, time_lanes
from peers.work import DEFAULT_WORK, SEQUENCES, Quantise, Variant

__all__ = ["main"]

ROUNDS = 5
_VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"

# Module, environment (none: edgekit's own), distribution whose version is the peer's, variants.
_Table = tuple[tuple[str, str, str, Mapping[Variant, Quantise]], ...]
PEERS: _Table = (
    ("peer_ort", "", "onnxruntime", peer_ort.ROWS),
    ("peer_aeq", "", "ai-edge-quantizer", peer_aeq.ROWS),
    ("peer_optimum", "optimum", "optimum-onnx", peer_optimum.ROWS),
    ("peer_olive", "olive", "olive-ai", peer_olive.ROWS),
    ("peer_executorch", "executorch", "executorch", peer_executorch.ROWS),
    ("peer_smoothquant", "smoothquant", "neural-compressor", peer_smoothquant.ROWS),
)


def surroundings() -> dict[str, str]:
    """Give the environment of every process: one thread, our modules, no model hub, no chatter."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    path = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return {**os.environ, **quiet, **path, "OMP_NUM_THREADS": "1"}


def quantise(work: Path, sequences: Sequence[int]) -> None:
    for sequence in sequences:
        for module, environment, _, _ in PEERS:
            command = [str(python_of(work, environment)), "-m", f"peers.{module}", "quantise", "--work", str(work)]
            done = subprocess.run([*command, "--sequences", str(sequence)], env=surroundings(), check=False)
            if done.returncode:
                print(f"{module} ended with {done.returncode}; its missing variants are reported as such", flush=True)


def module_of(work: Path, name: str, engine: str) -> list[str]:
    """Give the start of a command that runs a module of ours in the environment that holds the engine."""
    python = str(python_of(work, "executorch" if engine == "executorch" else ""))
    return [python, "-m", f"peers.{name}", "--engine", engine]


def rows_of(work: Path, lane: Lane) -> Path:
    return work / f"s{lane.sequence}" / "eval.npz"


def embed(work: Path, lanes: Sequence[Lane]) -> dict[Lane, str]:
    """Embed the eval rows with each lane whose embeddings are missing or older than its model; give the errors."""
    errors = {}
    for lane in lanes:
        out = lane.embeddings(work)
        if out.is_file() and out.stat().st_mtime >= lane.model.stat().st_mtime:
            continue
        out.unlink(missing_ok=True)
        files = ["--model", str(lane.model), "--rows", str(rows_of(work, lane)), "--out", str(out)]
        command = [*module_of(work, "lane", lane.engine), *files]
        done = subprocess.run(command, env=surroundings(), check=False, capture_output=True, text=True)
        if done.returncode:
            errors[lane] = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:600]
        print(f"embedded s{lane.sequence} {lane.title} {errors.get(lane, '')}", flush=True)
    return errors


def times_of(work: Path, lanes: Sequence[Lane], rounds: int) -> dict[Lane, CpuTime]:
    """Measure the lanes of one length after those of another."""

    def start(engine: str, mine: Sequence[Lane]) -> Stopwatch:
        files = [(lane.model, rows_of(work, lane)) for lane in mine]
        return Stopwatch(module_of(work, "stopwatch", engine), files, environment=surroundings())

    took: dict[Lane, CpuTime] = {}
    for sequence in dict.fromkeys(lane.sequence for lane in lanes):
        took |= time_lanes([lane for lane in lanes if lane.sequence == sequence], rounds, start=start)
        print(f"timed s{sequence}", flush=True)
    return took


def row(work: Path, lane: Lane, *, error: str) -> dict[str, object]:
    """Give what is known of a lane, without times."""
    found: dict[str, object] = {"sequence": lane.sequence, "engine": lane.engine, **dict(lane.facts)}
    if error:
        return {**found, "error": error}
    found["size_mb"] = round(lane.model.stat().st_size / 1e6, 2)
    reference = np.load(work / f"s{lane.sequence}" / "reference.npy")
    judged = asdict(closeness(np.load(lane.embeddings(work)), reference))
    return {**found, **{name: round(value, 5) for name, value in judged.items()}}


def versions(work: Path) -> dict[str, str]:
    found = {}
    for _, environment, distribution, _ in PEERS:
        command = [str(python_of(work, environment)), "-c", _VERSION, distribution]
        found[distribution] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return found


def figures(work: Path, lanes: Sequence[Lane], errors: Mapping[Lane, str], rounds: int) -> dict[str, object]:
    alive = [lane for lane in lanes if not (lane.error or errors.get(lane))]
    times = times_of(work, alive, rounds) if rounds else {}
    floats = {(lane.engine, lane.sequence): times[lane].cpu_ms_min for lane in times if lane.is_yardstick}
    rows: dict[str, object] = {}
    for lane in lanes:
        found = row(work, lane, error=lane.error or errors.get(lane, ""))
        if lane in times:
            found |= asdict(times[lane])
            base = floats.get((lane.engine, lane.sequence))
            found["times_faster_than_float"] = round(base / times[lane].cpu_ms_min, 2) if base else None
        rows[f"s{lane.sequence} {lane.title}"] = found
    return {"rounds": rounds, "peer_versions": versions(work), "lanes": rows}


def show(lanes: Mapping[str, Mapping[str, object]]) -> None:
    """Print the table."""
    columns = ("mode", "size_mb", "cosine_mean", "cosine_min", "nearest_blocks", "nearest_all")
    for title, found in lanes.items():
        cells = [found["error"]] if "error" in found else [found.get(name, "") for name in columns]
        cells += [found.get("cpu_ms_min", ""), found.get("times_faster_than_float", "")]
        sys.stdout.write(f"{title:45s} " + " ".join(f"{cell!s:>8s}" for cell in cells) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES)
    parser.add_argument("--only-judge", action="store_true", help="take the models that are there; make none")
    parser.add_argument("--time", action="store_true", help="measure CPU time; wants a quiet machine")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--extra", type=Path, help="JSON file with lanes of one's own")
    arguments = parser.parse_args()
    work, sequences = arguments.work, tuple(arguments.sequences)
    if not arguments.only_judge:
        prepare(work)
        make_environments(ENVIRONMENTS, work)
        quantise(work, sequences)
    variants = [variant for _, _, _, rows in PEERS for variant in rows]
    lanes = [lane for sequence in sequences for lane in peer_lanes(work, sequence, variants)]
    if arguments.extra:
        lanes += extra_lanes(arguments.extra)
    errors = embed(work, [lane for lane in lanes if not lane.error])
    found = figures(work, lanes, errors, arguments.rounds if arguments.time else 0)
    command = " ".join(["PYTHONPATH=benchmarks python -m peers.run_peers", *sys.argv[1:]])
    write_result("peers", found, command=command)
    show(found["lanes"])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
