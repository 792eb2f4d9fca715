"""Do ONNX int8 and TFLite int8 of one plan agree: ``PYTHONPATH=benchmarks python benchmarks/bench_agreement.py``.

Three models: all-MiniLM-L6-v2 with every linear layer static (files of ``bench_minilm.py``), the student of
``edgekit build examples/sentiment.yaml``, and a depthwise network of the zoo, which is built here. For each: what both
files hold, read back and compared with one another; each static layer cut out of both files and run on the same real
int8 input in ONNX Runtime and in LiteRT with XNNPACK; and all eval rows end to end. Where the ONNX file leaves the
output of a layer float, it is quantised here with the plan's grid for that output. Figures of single cases are kept in
``runs/agreement`` and gathered in ``results/agreement.json``.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bench_minilm
import bench_zoo
import numpy as np
import onnx
import torch
from agreement.compare import Steps, compare_grids, nearest, same_decisions, shared_codes
from agreement.cut import cut_tflite
from agreement.layers import Static, file_weights, input_codes, reference, static_layers
from numpy.typing import NDArray
from peers.work import DEFAULT_WORK
from record import write_result
from zoo.fetch import ROOT
from zoo.registry import get_model, load_trained
from zoo.train import eval_logits

from edgekit.kept import kept_lane
from edgekit.lanes.local import EngineLane, run_torch_lane
from edgekit.lanes.models import bundle_lane
from edgekit_converters.quantize.plan import PLAN_FILE, QuantPlan
from edgekit_converters.quantize.proof import Stamped, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_graph import TfliteGraph
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.bundle import verify
from edgekit_runtime.model import open_preprocess

Feeds = dict[str, NDArray[np.generic]]
Decide = Callable[[NDArray[np.float32]], NDArray[np.int64]]
_KEPT = ROOT.parent / "agreement"
_BUNDLE = Path("runs/sentiment/x86-64/sentiment-x86-64.edge")
_BLOCK, _CALIBRATION, _LAYER_ROWS = 150, 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two files of one plan.

    Attributes:
        plan: Of both.
        lanes: The ONNX and the TFLite file, ready to run.
        rows: Feeds of all eval rows.
        float32: Outputs of the float32 model for them, (rows, ...).
        decide: Turns outputs into one decision a row.
        decisions: What is decided, in words.
    """

    plan: QuantPlan
    lanes: tuple[EngineLane, EngineLane]
    rows: Sequence[Feeds]
    float32: NDArray[np.float32]
    decide: Decide
    decisions: str


def minilm(given: argparse.Namespace) -> Case:
    place, contract = given.work / "s64", bench_minilm.contract_of(64)
    files = [place / "edgekit" / f"static.{kind}" for kind in ("onnx", "tflite")]
    return Case(
        plan=QuantPlan.from_json((place / "edgekit" / "static.json").read_text(encoding="utf-8")),
        lanes=(bench_minilm.lane("onnx", files[0], contract), bench_minilm.lane("tflite", files[1], contract)),
        rows=bench_minilm.feeds_of(place / "eval.npz"),
        float32=np.load(place / "reference.npy"),
        decide=lambda vectors: nearest(vectors, _BLOCK),
        decisions=f"nearest sentence, in blocks of {_BLOCK}",
    )


def demo(given: argparse.Namespace) -> Case:
    bundle = verify(given.bundle)
    _KEPT.mkdir(parents=True, exist_ok=True)
    lanes = []
    for name in ("onnx", "tflite"):
        held = bundle_lane(bundle, given.bundle, f"{name}-int8")
        assert isinstance(held, EngineLane)
        path = _KEPT / f"demo.{name}"
        path.write_bytes(held.content())
        lanes.append(EngineLane(name=name, engine=held.engine, model=path, inputs=held.inputs, outputs=held.outputs))
    preprocess = open_preprocess(bundle)
    rows = [dict(preprocess(row)) for row in read_dataset(kept_lane(given.bundle, "data")).evaluation.inputs]
    return Case(
        plan=QuantPlan.from_json(bundle.read(PLAN_FILE).decode()),
        lanes=(lanes[0], lanes[1]),
        rows=rows,
        float32=run_torch_lane(kept_lane(given.bundle, "torch"), rows),
        decide=lambda logits: logits.argmax(1),
        decisions="class",
    )


def depthwise(_: argparse.Namespace) -> Case:
    name = "depthwise_fashion"
    module, data = load_trained(name, 0)
    contract = bench_zoo.contract_of(data)
    made, calibration = bench_zoo.plan_of(get_model(name), module, data, rows=_CALIBRATION, techniques=True)
    _KEPT.mkdir(parents=True, exist_ok=True)
    files = [_KEPT / f"{name}.{kind}" for kind in ("onnx", "tflite")]
    write_onnx(made, contract, files[0], activations="uint8", opset=20)
    write_tflite(made, contract, files[1], calibration)
    return Case(
        plan=made.plan,
        lanes=(bench_minilm.lane("onnx", files[0], contract), bench_minilm.lane("tflite", files[1], contract)),
        rows=bench_zoo.feeds_of(contract, data.eval_inputs, range(len(data.eval_targets))),
        float32=eval_logits(module, data),
        decide=lambda logits: logits.argmax(1),
        decisions="class",
    )


CASES = {"minilm_l6_s64_static": minilm, "demo_sentiment": demo, "zoo_depthwise_fashion": depthwise}


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Both files of a case as they were read back.

    Attributes:
        model: The ONNX file.
        tflite: The TFLite file.
        held: What each holds by layer.
    """

    model: onnx.ModelProto
    tflite: Path
    held: tuple[dict[str, Stamped], dict[str, Stamped]]


def read(case: Case) -> Files:
    one, other = (lane.model for lane in case.lanes)
    assert isinstance(one, Path)
    assert isinstance(other, Path)
    model = onnx.load(one)
    weights = file_weights(model, case.plan)
    held = read_onnx(one, case.plan, weights), read_tflite(other, case.plan, weights)
    return Files(model=model, tflite=other, held=held)


def by_layer(case: Case, files: Files) -> dict[str, object]:
    """Run every static layer of both files on the codes that it really gets."""
    layers = static_layers(files.model, case.plan, files.held[0])
    theirs = TfliteGraph(files.tflite).match({name: layer.integers.weight for name, layer in layers.items()})
    given = input_codes(files.model, layers, case.rows[:_LAYER_ROWS])
    totals = dict.fromkeys(("onnx_and_tflite", "onnx_and_reference", "tflite_and_reference"), Steps())
    unequal: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for name, layer in layers.items():
        part = cut_tflite(files.tflite, theirs[name][0])
        kernels.update([f"onnxruntime: {layer.cut.kernels()}", f"litert: {part.kernels()}"])
        found = steps_of(layer, given[name], part.run(given[name], zero_point=layer.integers.input_zero_point))
        totals = {pair: totals[pair] + steps for pair, steps in found.items()}
        unequal[name] = found["onnx_and_tflite"].unequal
    return {
        "layers": len(layers),
        "other_int8_layers": len(files.held[0]) - len(layers),
        "float_outputs_quantised_here": sum(not layer.cut.gives_codes for layer in layers.values()),
        "kernels": dict(kernels),
        "most_unequal": dict(unequal.most_common(3)),
        **{pair: steps.as_json() for pair, steps in totals.items()},
    }


def steps_of(layer: Static, codes: NDArray[np.int8], tflite: NDArray[np.int8]) -> dict[str, Steps]:
    assert layer.plan.output is not None
    ours, exact = layer.cut.run(codes, layer.plan.output), reference(layer.integers, codes)
    return {
        "onnx_and_tflite": Steps.between(ours, tflite),
        "onnx_and_reference": Steps.between(ours, exact),
        "tflite_and_reference": Steps.between(tflite, exact),
    }


def end_to_end(case: Case) -> dict[str, object]:
    """Compare decisions and final outputs of all eval rows."""
    answers = []
    for lane in case.lanes:
        with lane.open() as engine:
            name = lane.outputs[0].name
            answers.append(np.concatenate([engine.run(feeds)[name] for feeds in case.rows]).astype(np.float32))
    one, other = answers
    whole, first, second = (case.decide(values) for values in (case.float32, one, other))
    return {
        "rows": len(case.rows),
        "decisions": case.decisions,
        "same_decisions": round(same_decisions(first, second), 5),
        "differing_rows": int((first != second).sum()),
        "onnx_as_float32": round(same_decisions(first, whole), 5),
        "tflite_as_float32": round(same_decisions(second, whole), 5),
        "codes_of_outputs": shared_codes(one, other, case.float32).as_json(),
        **(margins(case.float32, first != second) if case.decisions == "class" else {}),
    }


def margins(logits: NDArray[np.float32], differ: NDArray[np.bool_]) -> dict[str, object]:
    """Say how sure the float32 model is where two files decide differently: best logit minus the next."""
    ordered = np.sort(logits, 1)
    gap = ordered[:, -1] - ordered[:, -2]
    return {
        "float32_margin_median": round(float(np.median(gap)), 4),
        "float32_margin_of_differing_rows": [round(float(value), 4) for value in np.sort(gap[differ])],
    }


def judge(case: Case) -> dict[str, object]:
    """Give all figures of one case."""
    files = read(case)
    return {"grids": compare_grids(*files.held), "layers": by_layer(case, files), "end_to_end": end_to_end(case)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="all if none is given; the others stay as kept")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--bundle", type=Path, default=_BUNDLE, help="of examples/sentiment.yaml")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _KEPT.mkdir(parents=True, exist_ok=True)
    for name in given.cases:
        kept = json.dumps(judge(CASES[name](given)), indent=1)
        (_KEPT / f"{name}.json").write_text(kept + "\n", encoding="utf-8")
    paths = {name: _KEPT / f"{name}.json" for name in CASES}
    found: dict[str, object] = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    write_result("agreement", found, command="PYTHONPATH=benchmarks python benchmarks/bench_agreement.py")


if __name__ == "__main__":
    main()
