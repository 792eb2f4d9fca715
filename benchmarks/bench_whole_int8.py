"""What does a sentence encoder lose when every operator is int8, as NPUs need it?

``PYTHONPATH=benchmarks python benchmarks/bench_whole_int8.py``. all-MiniLM-L6-v2 at 64 tokens; model, calibration rows,
evaluation rows and float32 reference are those of the peers' bench (``peers/prepare.py``). Each plan is simulated in
PyTorch and written as a file that onnxruntime runs. On average both are equally close to float; row by row they differ,
because a code that falls on the other side of a half is amplified by the layers behind it. Writes
``results/whole_int8.json``.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from bench_minilm import Embedder, Feeds, contract_of, feeds_of
from numpy.typing import NDArray
from peers.metrics import closeness
from peers.prepare import prepare
from peers.work import DEFAULT_WORK
from record import write_result

from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.whole import WholePlanner
from edgekit_converters.quantize.whole_onnx import float_operators, write_whole_onnx
from edgekit_converters.quantize.whole_simulate import simulate_whole
from edgekit_models.checkpoints import read_transformers_folder

_LENGTH = 64
_SOME = 150  # rows for the comparison with the optimiser off
_PLANS = {
    "int8-naive": WholePlanner(techniques=False),
    "int8": WholePlanner(),
    "int16-residual-naive": WholePlanner(residual="int16", techniques=False),
    "int16-residual": WholePlanner(residual="int16"),
}


def close(values: NDArray[np.floating], reference: NDArray[np.float32]) -> dict[str, float]:
    found = closeness(values.astype(np.float32), reference)
    return {key: round(value, 5) for key, value in asdict(found).items()}


def run_file(path: Path, feeds: list[Feeds], *, optimised: bool) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options)
    return np.concatenate([session.run(None, dict(row))[0] for row in feeds])


def lanes(work: Path, calibration_rows: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Make every plan; give its name and what was measured."""
    place = work / f"s{_LENGTH}"
    folder = place / "edgekit"
    folder.mkdir(parents=True, exist_ok=True)
    contract = contract_of(_LENGTH)
    encoder = read_transformers_folder(work / "model", classes=2, max_length=_LENGTH).eval()
    graph = trace(Embedder(encoder).eval(), contract.example(), longest=_LENGTH)
    feeds = feeds_of(place / "calibration.npz")[:calibration_rows]
    calibration = as_rows(graph, feeds, trim=True)
    padded = min(feeds, key=lambda row: int(row["attention_mask"].sum()))
    reference, evaluation = np.load(place / "reference.npy"), feeds_of(place / "eval.npz")
    for name, planner in _PLANS.items():
        made = planner.make(graph, calibration, as_rows(graph, [padded], trim=False)[0])
        path = folder / f"whole-{name}.onnx"
        write_whole_onnx(made.graph, made.plan, contract, path)
        simulated = simulate_whole(made.graph, made.plan, as_rows(graph, evaluation, trim=False))
        yield (
            name,
            {
                "techniques": [asdict(technique) for technique in made.plan.techniques],
                "grids": len(made.plan.tensors),
                "simulated": close(simulated, reference),
                "onnx": {
                    "mb": round(path.stat().st_size / 1e6, 2),
                    "float_operators": float_operators(path),
                    "onnxruntime": close(run_file(path, evaluation, optimised=True), reference),
                    "simulated_to_unoptimised": close(
                        run_file(path, evaluation[:_SOME], optimised=False), simulated[:_SOME].astype(np.float32)
                    ),
                },
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--calibration-rows", type=int, default=128)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare(given.work)
    found: dict[str, object] = {}
    for name, row in lanes(given.work, given.calibration_rows):
        found[name] = row
        print(name, row, flush=True)
    command = " ".join(["PYTHONPATH=benchmarks python benchmarks/bench_whole_int8.py", *sys.argv[1:]])
    write_result("whole_int8", {"rows": 600, "length": _LENGTH, "plans": found}, command=command)


if __name__ == "__main__":
    main()
