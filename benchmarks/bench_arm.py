"""What emulated ARM cores answer and what it takes: ``PYTHONPATH=benchmarks python benchmarks/bench_arm.py``.

The bundle of ``edgekit build examples/sentiment.yaml``; both of its int8 models and the float ones that the build kept.
Each lane is compared with the same model on this machine: changed classes with a 95 % interval, the largest difference
of a logit as a share of the range of all logits in 255 steps, and the instructions of the cheapest inference. The lanes
need ``edgekit emulator setup``. Writes ``results/arm.json``.
"""

import argparse
import json
import time
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
# A row takes 0.2 to 0.5 s of int8 and 3 s of float32, of which only the cost is asked.
_LANES = (
    ("arm:cortex-a53", _INT8, 200),
    ("arm:cortex-a53", _FLOAT, 20),
    ("arm:cortex-a72", _INT8, 200),
    ("arm:cortex-a76", _INT8, 200),
    ("arm:cortex-a76", _FLOAT, 20),
    ("armv7:cortex-a7", _INT8, 200),
)


def compared(found: LaneEvidence, here: NDArray[np.float32], seconds: float) -> dict[str, object]:
    """Describe a lane beside the answers of the same model on this machine."""
    rows = len(found.outputs)
    changed = changed_decisions(here, found.outputs)
    step = float(np.ptp(here)) / 255
    return {
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


def measure(lane: EmulatedLane, asked: Question) -> dict[str, object]:
    here = EngineHere(name=lane.model, model=lane.model, engine=engine_of(lane.model)).answer(asked).outputs
    start = time.monotonic()
    found = lane.answer(asked)
    return compared(found, here, time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=_BUNDLE)
    parser.add_argument("--only", help="lanes whose names begin so; the figures of the others are kept")
    given = parser.parse_args()
    texts = tuple(map(str, read_dataset(kept_lane(given.bundle, "data")).evaluation.inputs))
    bundle, kept = verify(given.bundle), Path(__file__).parent / "results" / "arm.json"
    held = json.loads(kept.read_text("utf-8"))["figures"]["lanes"] if given.only and kept.exists() else {}
    for place, models, rows in _LANES:
        for lane in open_lanes(place, models):
            if lane.name.startswith(given.only or ""):
                asked = Question(path=given.bundle, bundle=bundle, rows=RawRows(texts=texts[:rows]))
                held[lane.name] = measure(lane, asked)
    figures = {"reference": "the same model on this machine", "lanes": held}
    write_result("arm", figures, command="PYTHONPATH=benchmarks python benchmarks/bench_arm.py")


if __name__ == "__main__":
    main()
