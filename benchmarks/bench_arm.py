"""What emulated ARM cores answer and what it takes: ``PYTHONPATH=benchmarks python benchmarks/bench_arm.py``.

The bundle of ``edgekit build examples/sentiment.yaml``; both of its int8 models and the float ones that the build kept.
Each lane is compared with the same model on this machine: changed classes with a 95 % interval, the largest difference
of a logit as a share of the range of all logits in 255 steps, and the instructions of the cheapest inference. The lanes
need ``edgekit emulator setup``. Writes ``results/arm.json``.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import write_result

from edgekit.emulator.lanes import EmulatedLane, open_lanes
from edgekit.kept import kept_lane
from edgekit.lanes.base import Question
from edgekit.lanes.here import EngineHere
from edgekit.lanes.local import engine_of
from edgekit_models.data.dataset import read_dataset
from edgekit_runtime.bundle import verify
from edgekit_runtime.evidence import LaneEvidence
from edgekit_runtime.rows import RawRows
from edgekit_runtime.statistics import changed_decisions, max_abs_difference, wilson_interval

_BUNDLE = Path("runs/sentiment/x86-64/sentiment-x86-64.edge")
_INT8, _FLOAT = ("onnx-int8", "tflite-int8"), ("onnx-fp32", "tflite-fp32")
_LANES = (
    ("arm:cortex-a53", (*_INT8, *_FLOAT)),
    ("arm:cortex-a72", _INT8),
    ("arm:cortex-a76", (*_INT8, *_FLOAT)),
    ("armv7:cortex-a7", _INT8),
)


def compared(found: LaneEvidence, here: NDArray[np.float32], seconds: float) -> dict[str, object]:
    """Describe a lane beside the answers of the same model on this machine."""
    rows = len(found.outputs)
    changed = changed_decisions(here, found.outputs)
    step = float(np.ptp(here)) / 255
    return {
        "lane": found.lane,
        "engine": f"{found.engine} {found.engine_version}",
        "precision": found.precision,
        "rows": rows,
        "flips": changed,
        "flips_interval_95": [round(end, 5) for end in wilson_interval(changed, rows)],
        "same_bits": bool(np.array_equal(here, found.outputs)),
        "max_difference": round(max_abs_difference(here, found.outputs), 6),
        "max_difference_steps_of_255": round(max_abs_difference(here, found.outputs) / step, 2),
        "goldens": list(found.selftest or ()),
        "instructions_min": found.cost.instructions_min,
        "instruction_classes": dict(found.cost.instruction_classes),
        "emulation_seconds": round(seconds, 1),
    }


def run(lanes: Sequence[EmulatedLane], asked: Question) -> list[dict[str, object]]:
    here: dict[str, NDArray[np.float32]] = {}
    figures = []
    for lane in lanes:
        if lane.model not in here:
            engine = engine_of(lane.model)
            here[lane.model] = EngineHere(name=lane.model, model=lane.model, engine=engine).answer(asked).outputs
        start = time.monotonic()
        found = lane.answer(asked)
        figures.append(compared(found, here[lane.model], time.monotonic() - start))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=_BUNDLE)
    parser.add_argument("--rows", type=int, default=200)
    given = parser.parse_args()
    texts = read_dataset(kept_lane(given.bundle, "data")).evaluation.inputs[: given.rows]
    asked = Question(path=given.bundle, bundle=verify(given.bundle), rows=RawRows(texts=tuple(map(str, texts))))
    lanes = [lane for place, models in _LANES for lane in open_lanes(place, models)]
    command = "PYTHONPATH=benchmarks python benchmarks/bench_arm.py"
    write_result("arm", {"reference": "the same model on this machine", "lanes": run(lanes, asked)}, command=command)


if __name__ == "__main__":
    main()
