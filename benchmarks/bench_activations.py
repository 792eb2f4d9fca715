"""Which type of activations is fastest and closest: ``PYTHONPATH=benchmarks python benchmarks/bench_activations.py``.

All linear layers of all-MiniLM-L6-v2 static, 64 tokens: ONNX with uint8, int8 and int16 activations, TFLite with int8
and int16, from one plan for 8 bits and one for 16. The default of a target (``edgekit targets NAME``) rests on these
figures. ``--only-time`` times the files in ``--work`` again; ``--arm`` (after ``edgekit emulator setup``) counts the
instructions of one inference on emulated ARM cores, and compares answers with those of this machine. Writes
``results/activations.json``.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bench_minilm import Embedder, contract_of, embed, feeds_of, lane, mode_of
from numpy.typing import NDArray
from peers.metrics import closeness
from peers.prepare import prepare
from peers.work import DEFAULT_WORK
from record import write_result

from edgekit.bench import measure
from edgekit.emulator.cores import get_core
from edgekit.emulator.home import Home
from edgekit.emulator.run import Job, run_job
from edgekit.lanes.local import EngineLane, engine_of
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import Graph, layer_weights, trace
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.measure import Row, as_rows
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_models.checkpoints import read_transformers_folder
from edgekit_runtime.bundle import write_bundle
from edgekit_runtime.manifest import ModelEntry
from edgekit_runtime.rows import RawRows

_LENGTH, _CALIBRATION, _SENTENCES, _OPSET = 64, 128, 300, 21
_EMULATED = 3  # inferences; the least counts
_FILES = ("onnx-fp32", "onnx-uint8", "onnx-int8", "onnx-int16", "tflite-fp32", "tflite-int8", "tflite-int16")


def write_float(graph: Graph, folder: Path, stem: str) -> None:
    contract = contract_of(_LENGTH)
    export_module_onnx(graph, contract, folder / f"onnx-{stem}.onnx", opset=_OPSET)
    export_module_tflite(separate_affine(graph), contract, folder / f"tflite-{stem}.tflite")


def build(place: Path, model: Path, folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = read_transformers_folder(model, classes=2, max_length=_LENGTH).eval()
    graph = trace(Embedder(encoder).eval(), contract_of(_LENGTH).example(), longest=_LENGTH)
    rows = as_rows(graph, feeds_of(place / "calibration.npz")[:_CALIBRATION], trim=True)
    write_float(graph, folder, "fp32")
    write_static(graph, rows, folder, bits=8)
    write_static(graph, rows, folder, bits=16)


def write_static(graph: Graph, rows: Sequence[Row], folder: Path, *, bits: Literal[8, 16]) -> None:
    made = Planner(mode=mode_of("static"), whole_network=False, bits=bits).make(graph, rows)
    weights = layer_weights(made.graph)
    write_float(made.graph, folder, "plan")
    kinds: tuple[ActivationType, ...] = ("uint8", "int8") if bits == 8 else ("int8",)
    for kind in kinds:
        name = kind if bits == 8 else "int16"
        target = folder / f"onnx-{name}.onnx"
        quantize_onnx(folder / "onnx-plan.onnx", target, made.plan, weights, activations=kind)
    quantize_tflite(folder / "tflite-plan.tflite", folder / f"tflite-int{bits}.tflite", made.plan, weights, ())


def lanes(folder: Path) -> list[EngineLane]:
    return [lane(name, folder / f"{name}.{name.partition('-')[0]}", contract_of(_LENGTH)) for name in _FILES]


def accuracy(one: EngineLane, place: Path) -> dict[str, object]:
    evaluation = feeds_of(place / "eval.npz")[:_SENTENCES]
    close = closeness(embed(one, evaluation), np.load(place / "reference.npy")[:_SENTENCES])
    return {"file": one.name, "mb": round(len(one.content()) / 1e6, 2), "cosine_mean": round(close.cosine_mean, 5)}


def npy(array: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def emulated(one: EngineLane, place: Path) -> dict[str, object]:
    """Give instructions of one inference by core, in millions, and how its answers compare with this machine's."""
    rows = feeds_of(place / "eval.npz")[:_EMULATED]
    arrays = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    here = embed(one, rows)
    goldens = {**arrays, "reference": here, one.engine: here}
    entry = ModelEntry(member="model", precision="float32", inputs=one.inputs, outputs=one.outputs)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.edge"
        write_bundle(
            bundle,
            name="activations",
            version="1.0.0",
            task="tensors",
            target="x86-64",
            models={engine_of(one.name): entry},
            members={"model": one.content(), **{f"golden/{key}.npy": npy(value) for key, value in goldens.items()}},
        )
        for core in ("cortex-a53", "cortex-a76"):
            job = Job(bundle=bundle, rows=RawRows(arrays=arrays), engine=one.engine, lane=one.name)
            lane = run_job(job, get_core(f"arm:{core}"), Home.default())
            assert lane.cost.instructions_min is not None
            answers, name = lane.outputs, core.replace("-", "_")
            cosine = (answers * here).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(here, axis=1)
            found[f"{name}_million_instructions"] = round(lane.cost.instructions_min / 1e6, 1)
            found[f"{name}_same_bits_as_x86"] = bool(np.array_equal(answers, here))
            found[f"{name}_least_cosine_to_x86"] = round(float(cosine.min()), 6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--only-time", action="store_true")
    parser.add_argument("--arm", action="store_true", help="count instructions on emulated ARM cores, nothing else")
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    place = given.work / f"s{_LENGTH}"
    folder, kept = place / "activations", Path(__file__).parent / "results" / "activations.json"
    held: dict[str, Any] = json.loads(kept.read_text("utf-8"))["figures"] if given.only_time or given.arm else {}
    if given.arm:
        held["files"] = [
            {**row, **emulated(lane, place)} for row, lane in zip(held["files"], lanes(folder), strict=True)
        ]
    else:
        if not held:
            prepare(given.work)
            build(place, given.work / "model", folder)
            held = {"tokens": _LENGTH, "sentences": _SENTENCES, "calibration_rows": _CALIBRATION}
            held["files"] = [accuracy(one, place) for one in lanes(folder)]
        times = measure(lanes(folder), feeds_of(place / "eval.npz")[:_LENGTH], rounds=given.rounds)
        least = {time.lane: round(time.cpu_ms_min, 2) for time in times}
        held["files"] = [{**row, "cpu_ms_min": least[row["file"]]} for row in held["files"]]
    command = "PYTHONPATH=benchmarks python benchmarks/bench_activations.py, then with --only-time, then with --arm"
    write_result("activations", held, command=command)


if __name__ == "__main__":
    main()
