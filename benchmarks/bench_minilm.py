"""Is int8 of all-MiniLM-L6-v2 still right, and how fast: ``PYTHONPATH=benchmarks python benchmarks/bench_minilm.py``.

The model is quantised as a build does it, without any training: one plan, both formats, every grid proved on the files.
Rows and float32 reference are those that the peers get (``peers/prepare.py``). Two plans: all linear layers static, and
all linear layers on grids measured at each run. CPU time is measured with the lanes taking turns on one thread. Writes
``results/minilm.json``, and the models with ``edgekit.json`` for ``run_peers.py --extra`` into the work folder.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peers.metrics import closeness
from peers.prepare import prepare
from peers.work import DEFAULT_WORK, SEQUENCES, Rows
from record import write_result

from edgekit.bench import LaneTime, measure
from edgekit.lanes.local import EngineLane
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite, tflite_contract
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_biases, layer_weights, trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_models.checkpoints import read_transformers_folder
from edgekit_models.text_classifier import TextClassifier
from edgekit_runtime.manifest import TensorSpec

Feeds = dict[str, NDArray[np.generic]]
_WIDTH = 384


class Embedder(torch.nn.Module):
    """Token ids to the mean of the last hidden state over real tokens, (1, 384); length is left to the reader."""

    def __init__(self, encoder: TextClassifier) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        last = self.encoder.hidden_states(input_ids, attention_mask)[-1]
        weights = attention_mask[:, :, None].to(last.dtype)
        return (last * weights).sum(1) / weights.sum(1)


def mode_of(plan: str) -> Callable[[str], Mode]:
    """Give the mode of a layer in a plan: ``static``, ``dynamic``, or ``mixed`` (feed-forward outputs dynamic)."""

    def mode(path: str) -> Mode:
        if path.endswith("words") or plan == "static":
            return Mode.STATIC
        return Mode.DYNAMIC if plan == "dynamic" or path.endswith("ffn_out") else Mode.STATIC

    return mode


def feeds_of(path: Path) -> list[Feeds]:
    rows = Rows.load(path)
    return [
        {"input_ids": ids[None].astype(np.int32), "attention_mask": mask[None].astype(np.int32)}
        for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)
    ]


def contract_of(length: int) -> ModelContract:
    tokens = tuple(
        TensorSpec(name=name, tensor=name, dtype="int32", shape=(1, length)) for name in ("input_ids", "attention_mask")
    )
    vector = TensorSpec(name="vector", tensor="vector", dtype="float32", shape=(1, _WIDTH))
    return ModelContract(inputs=tokens, outputs=(vector,))


def lane(name: str, path: Path, contract: ModelContract) -> EngineLane:
    engine = "onnxruntime" if path.suffix == ".onnx" else "litert"
    shape = contract if engine == "onnxruntime" else tflite_contract(contract, path)
    return EngineLane(name=name, engine=engine, model=path, inputs=shape.inputs, outputs=shape.outputs)


def build(
    place: Path, length: int, model: Path, plans: list[str], rows: int
) -> tuple[list[EngineLane], dict[str, object]]:
    """Write float and int8 files of every plan; give their lanes and what the plans say."""
    contract, folder = contract_of(length), place / "edgekit"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = read_transformers_folder(model, classes=2, max_length=length).eval()
    graph = trace(Embedder(encoder).eval(), contract.example(), longest=length)
    calibration = as_rows(graph, feeds_of(place / "calibration.npz")[:rows], trim=True)
    export_module_onnx(graph, contract, folder / "fp32.onnx", opset=20)
    export_module_tflite(graph, contract, folder / "fp32.tflite")
    lanes = [lane(f"{kind}-fp32", folder / f"fp32.{kind}", contract) for kind in ("onnx", "tflite")]
    said: dict[str, object] = {}
    for name in plans:
        made = Planner(mode=mode_of(name), whole_network=False).make(graph, calibration)
        weights, biases, plan = layer_weights(made.graph), layer_biases(made.graph), made.plan
        (folder / f"{name}.json").write_text(plan.to_json(), encoding="utf-8")
        onnx, tflite = folder / f"{name}.onnx", folder / f"{name}.tflite"
        export_module_onnx(made.graph, contract, folder / "float.onnx", opset=20)
        quantize_onnx(folder / "float.onnx", onnx, plan, weights, activations="uint8")
        export_module_tflite(separate_affine(made.graph), contract, folder / "float.tflite")
        quantize_tflite(folder / "float.tflite", tflite, plan, weights, ())
        lanes += [lane(f"{path.suffix[1:]}-{name}", path, contract) for path in (onnx, tflite)]
        said[name] = {
            "techniques": [asdict(technique) for technique in plan.techniques],
            "equal_to_plan_onnx": prove(plan, weights, biases, read_onnx(onnx, plan, weights)),
            "equal_to_plan_tflite": prove(plan, weights, biases, read_tflite(tflite, plan, weights)),
        }
    return lanes, said


def built(place: Path, length: int, plans: list[str]) -> tuple[list[EngineLane], dict[str, object]]:
    """Give the lanes of files that an earlier run wrote, and what their plans say."""
    contract, folder = contract_of(length), place / "edgekit"
    lanes = [
        lane(f"{kind}-{name}", folder / f"{name}.{kind}", contract)
        for name in ("fp32", *plans)
        for kind in ("onnx", "tflite")
    ]
    read = {name: QuantPlan.from_json((folder / f"{name}.json").read_text(encoding="utf-8")) for name in plans}
    return lanes, {name: {"techniques": [asdict(one) for one in plan.techniques]} for name, plan in read.items()}


def embed(one: EngineLane, rows: list[Feeds]) -> NDArray[np.float32]:
    with one.open() as engine:
        return np.concatenate([engine.run(feeds)["vector"] for feeds in rows]).astype(np.float32)


def figures(lanes: list[EngineLane], times: tuple[LaneTime, ...], place: Path) -> list[dict[str, object]]:
    """Give one row a lane: size, closeness to the float32 reference, CPU time and its ratio to the engine's float32."""
    reference, evaluation = np.load(place / "reference.npy"), feeds_of(place / "eval.npz")
    took = {time.lane: time for time in times}
    rows: list[dict[str, object]] = []
    for one in lanes:
        close = closeness(embed(one, evaluation), reference)
        time, base = took[one.name], took[f"{one.name.partition('-')[0]}-fp32"]
        rows.append(
            {
                "lane": one.name,
                "mb": round(len(one.content()) / 1e6, 2),
                **{key: round(value, 5) for key, value in asdict(close).items()},
                "cpu_ms_min": round(time.cpu_ms_min, 3),
                "cpu_ms_median": round(time.cpu_ms_median, 3),
                "times_faster_than_fp32": round(base.cpu_ms_min / time.cpu_ms_min, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--plans", nargs="+", default=["static", "mixed", "dynamic"])
    parser.add_argument("--sequences", nargs="+", type=int, default=list(SEQUENCES))
    parser.add_argument("--calibration-rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only-judge", action="store_true", help="take the files that an earlier run wrote")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare(given.work)
    found: dict[str, object] = {}
    extra: list[dict[str, object]] = []
    for length in given.sequences:
        place = given.work / f"s{length}"
        if given.only_judge:
            lanes, said = built(place, length, given.plans)
        else:
            lanes, said = build(place, length, given.work / "model", given.plans, given.calibration_rows)
        times = measure(lanes, feeds_of(place / "eval.npz")[:64], rounds=given.rounds)
        found[f"s{length}"] = {"plans": said, "lanes": figures(lanes, times, place)}
        extra += [
            {"name": f"edgekit-{one.name}", "engine": one.engine, "model": str(one.model), "sequence": length}
            for one in lanes
            if not one.name.endswith("-fp32")
        ]
    (given.work / "edgekit.json").write_text(json.dumps(extra, indent=1) + "\n", encoding="utf-8")
    write_result(
        "minilm", found, command=" ".join(["PYTHONPATH=benchmarks python benchmarks/bench_minilm.py", *sys.argv[1:]])
    )


if __name__ == "__main__":
    main()
