"""How much accuracy int8 costs, over many models and seeds: ``PYTHONPATH=benchmarks python benchmarks/bench_zoo.py``.

Each model of the zoo goes the way of a build: traced, planned on training rows, written into both formats, every grid
proved on the files, and run in ONNX Runtime and LiteRT on all eval rows. The drop is accuracy of PyTorch float32 minus
accuracy of the int8 file, in points; flips are rows whose answer changed, in either direction. ``--stress`` makes the
activations hard first (``zoo.stress``). Results of single models are kept in ``runs/zoo_int8`` and made anew by name;
``--write`` gathers all of them into ``results/zoo_int8.json``.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from record import write_result
from torch import Tensor, nn
from zoo.fetch import ROOT
from zoo.registry import SEEDS, ZOO, ZooModel, get_model, load_trained
from zoo.rows import ZooData
from zoo.stress import stress_conv_ranges, stress_layernorm
from zoo.train import eval_logits

from edgekit.lanes.local import EngineLane
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.tflite import tflite_contract
from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import layer_mode
from edgekit_converters.quantize.planner import Planned, Planner
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_converters.ready.normalise import normalise
from edgekit_runtime.manifest import TensorSpec

Feeds = dict[str, NDArray[np.generic]]
_KEPT = ROOT.parent / "zoo_int8"
_STRESS = {
    "layernorm_x30": (stress_layernorm, ("minilm_demo", "minilm_l6", "vit_fashion")),
    "conv_ranges_x100": (
        stress_conv_ranges,
        ("plain_fashion", "residual_fashion", "inception_fashion", "ds_cnn_keywords"),
    ),
}


class OneInput(nn.Module):
    """Takes images as both formats do, (N, H, W, C); and frames as they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.permute(0, 3, 1, 2) if image.dim() == 4 else image)  # type: ignore[no-any-return]


def contract_of(data: ZooData) -> ModelContract:
    """Give names and shapes with batch 1: texts, channels-last images, or frames."""
    names = ("input_ids", "attention_mask") if len(data.eval_inputs) == 2 else ("image",)
    inputs = []
    for name, values in zip(names, data.eval_inputs, strict=True):
        shape = (1, *_as_fed(values[:1]).shape[1:])
        inputs.append(TensorSpec(name=name, tensor=name, dtype=str(values.dtype), shape=shape))  # type: ignore[arg-type]
    logits = TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, len(data.labels)))
    return ModelContract(inputs=tuple(inputs), outputs=(logits,))


def _as_fed(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if values.ndim == 4 else values


def feeds_of(contract: ModelContract, inputs: Sequence[NDArray[np.generic]], rows: Sequence[int]) -> list[Feeds]:
    names = [spec.name for spec in contract.inputs]
    held = [_as_fed(values) for values in inputs]
    return [{name: values[i : i + 1] for name, values in zip(names, held, strict=True)} for i in rows]


def plan_of(
    model: ZooModel, module: nn.Module, data: ZooData, *, rows: int, techniques: bool
) -> tuple[Planned, list[Feeds]]:
    """Plan with the defaults of a build; give the calibration feeds, too."""
    contract = contract_of(data)
    text = len(contract.inputs) == 2
    longest = contract.inputs[0].shape[1] if text else 0
    ready = module.eval() if text else OneInput(module).eval()
    graph = normalise(trace(ready, contract.example(), longest=longest), [contract.example()]).graph
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_targets))[:rows])
    calibration = feeds_of(contract, data.train_inputs, [int(i) for i in chosen])
    whole = model.kind == "cnn"
    task = Task.IMAGE_CLASSIFICATION if whole else Task.TEXT_CLASSIFICATION
    planner = Planner(
        mode=layer_mode(task, QuantizeSpec()), whole_network=whole, techniques=techniques, per_tensor=model.per_tensor
    )
    return planner.make(graph, as_rows(graph, calibration, trim=text)), calibration


def run(path: Path, contract: ModelContract, feeds: list[Feeds]) -> NDArray[np.float32]:
    """Give the logits of all rows from the engine of the file's format."""
    engine = "onnxruntime" if path.suffix == ".onnx" else "litert"
    shape = contract if engine == "onnxruntime" else tflite_contract(contract, path)
    lane = EngineLane(name=path.name, engine=engine, model=path, inputs=shape.inputs, outputs=shape.outputs)
    with lane.open() as opened:
        return np.concatenate([opened.run(row)["logits"] for row in feeds]).astype(np.float32)


def judge(name: str, seed: int, *, stress: str, rows: int, techniques: bool) -> dict[str, object]:
    """Quantise one trained model and give its figures."""
    start = time.process_time()
    module, data = load_trained(name, seed)
    if stress:
        module = _STRESS[stress][0](module)
    contract = contract_of(data)
    reference = eval_logits(module, data)
    made, calibration = plan_of(get_model(name), module, data, rows=rows, techniques=techniques)
    every = feeds_of(contract, data.eval_inputs, range(len(data.eval_targets)))
    found: dict[str, object] = {"float_accuracy": round(data.accuracy(reference), 5)}
    with tempfile.TemporaryDirectory() as folder:
        onnx, tflite = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
        said = {
            "onnx": write_onnx(made, contract, onnx, activations="uint8", opset=20),
            "tflite": write_tflite(made, contract, tflite, calibration),
        }
        for path in (onnx, tflite):
            logits = run(path, contract, every)
            drop = 100 * (data.accuracy(reference) - data.accuracy(logits))
            found[path.suffix[1:]] = {
                "drop_points": round(drop, 4),
                "flips": int((logits.argmax(1) != reference.argmax(1)).sum()),
                "kb": round(path.stat().st_size / 1e3, 1),
                "said": said[path.suffix[1:]],
            }
    found["techniques"] = [asdict(technique) for technique in made.plan.techniques]
    found["cpu_s"] = round(time.process_time() - start, 1)
    return found


def gathered(folder: Path) -> dict[str, object]:
    """Give all kept results by lane, with medians and worst drops by kind."""
    models: dict[str, dict[str, object]] = {}
    drops: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        models.setdefault(kept["stress"] or "plain", {})[f"{kept['model']} s{kept['seed']}"] = kept["figures"]
        for kind in ("onnx", "tflite"):
            lane = kept["stress"] or ("transformer" if ZOO[kept["model"]].kind == "transformer" else "cnn_rnn")
            drops.setdefault(f"{lane} {kind}", []).append(kept["figures"][kind]["drop_points"])
    summary = {
        lane: {"median_drop_points": statistics.median(found), "worst_drop_points": max(found), "results": len(found)}
        for lane, found in sorted(drops.items())
    }
    return {"summary": summary, "models": models}


def line(name: str, seed: int, figures: Mapping[str, object]) -> str:
    parts = [f"{name} s{seed}: float {100 * float(figures['float_accuracy']):.2f}"]  # type: ignore[arg-type]
    for kind in ("onnx", "tflite"):
        one = figures[kind]
        assert isinstance(one, dict)
        parts.append(f"{kind} drop {one['drop_points']:+.2f}, {one['flips']} flips, {one['kb']} kB")
    return "; ".join([*parts, f"{figures['cpu_s']} s of CPU"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; all if none is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--stress", choices=sorted(_STRESS), default="")
    parser.add_argument("--rows", type=int, default=QuantizeSpec().calibration_rows, help="calibration rows")
    parser.add_argument("--naive", action="store_true", help="no techniques; nothing is kept")
    parser.add_argument("--write", action="store_true", help="gather what is kept into benchmarks/results")
    parser.add_argument("--gather", action="store_true", help="the same, and run nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _KEPT.mkdir(parents=True, exist_ok=True)
    names = () if given.gather else given.models or (_STRESS[given.stress][1] if given.stress else tuple(ZOO))
    for name in names:
        for seed in given.seeds:
            figures = judge(name, seed, stress=given.stress, rows=given.rows, techniques=not given.naive)
            sys.stdout.write(line(name, seed, figures) + "\n")
            sys.stdout.flush()
            if not given.naive:
                kept = {"model": name, "seed": seed, "stress": given.stress, "figures": figures}
                path = _KEPT / f"{'-'.join(filter(None, (name, given.stress, f's{seed}')))}.json"
                path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if given.write or given.gather:
        write_result(
            "zoo_int8",
            gathered(_KEPT),
            command="PYTHONPATH=benchmarks python benchmarks/bench_zoo.py --write, also with --stress",
        )


if __name__ == "__main__":
    main()
