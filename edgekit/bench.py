"""CPU time per inference of several lanes, measured side by side in one run.

One thread, CPU time and not wall time, the lanes taking turns: a machine that is busy with other work slows all of them
alike. The minimum is the cost of the work itself; the median is given beside it.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.lanes.local import EngineLane, Lane, torch_dynamic_lane
from edgekit.pipeline import Artifacts, Kind

__all__ = ["LaneTime", "measure", "time_lanes", "timed_rows", "yardsticks"]

Feeds = Mapping[str, NDArray[np.generic]]

_ROWS = 32
_WARM_UP = 3
_ROUNDS = 60
_BUDGET_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTime:
    """CPU time of one lane.

    Attributes:
        lane: Its name.
        cpu_ms_min: Smallest CPU time of one inference, in ms.
        cpu_ms_median: Median, in ms.
        runs: Inferences measured.
    """

    lane: str
    cpu_ms_min: float
    cpu_ms_median: float
    runs: int


def measure(lanes: Sequence[Lane], rows: Sequence[Feeds], *, rounds: int = _ROUNDS) -> tuple[LaneTime, ...]:
    """Run one inference of each lane in turn, ``rounds`` times.

    Args:
        lanes: All take the same tensors.
        rows: Inputs; each round takes the next.
        rounds: Upper bound; a run that takes longer than 20 s ends early, after 10 rounds at least.
    """
    took: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    with ExitStack() as stack:
        engines = {lane.name: stack.enter_context(lane.open()) for lane in lanes}
        for engine in engines.values():
            for feeds in rows[:_WARM_UP]:
                engine.run(feeds)
        start = time.monotonic()
        for turn in range(rounds):
            if turn >= 10 and time.monotonic() - start > _BUDGET_S:
                break
            feeds = rows[turn % len(rows)]
            for name, engine in engines.items():
                before = time.thread_time()
                engine.run(feeds)
                took[name].append((time.thread_time() - before) * 1e3)
    return tuple(
        LaneTime(lane=name, cpu_ms_min=min(times), cpu_ms_median=statistics.median(times), runs=len(times))
        for name, times in took.items()
    )


def yardsticks(artifacts: Artifacts) -> tuple[Lane, ...]:
    """Give the teacher in ONNX Runtime float32 if it was exported, and every lane of the student."""
    from edgekit.stages import engine_lanes
    from edgekit_converters.export.stage import ONNX_FILE

    lanes = engine_lanes(artifacts)
    dynamic = torch_dynamic_lane(artifacts[Kind.STUDENT_PRUNED].path)
    every: tuple[Lane, ...] = lanes if dynamic is None else (*lanes, dynamic)
    teacher = artifacts[Kind.TEACHER_ONNX].path / ONNX_FILE
    if not teacher.is_file() or not lanes:
        return every
    # Teacher and student fulfil one contract; the logical names are those of an ONNX file.
    inputs, outputs = (
        tuple(replace(spec, tensor=spec.name) for spec in side) for side in (lanes[0].inputs, lanes[0].outputs)
    )
    return (EngineLane(name="teacher", engine="onnxruntime", model=teacher, inputs=inputs, outputs=outputs), *every)


def time_lanes(lanes: Sequence[Lane], artifacts: Artifacts) -> tuple[LaneTime, ...]:
    """Measure lanes on evaluation rows of a build."""
    return measure(lanes, timed_rows(artifacts))


def timed_rows(artifacts: Artifacts) -> Sequence[Feeds]:
    """Give the evaluation rows of a build that lanes are measured on."""
    from edgekit_converters.rows import feeds
    from edgekit_models.data.dataset import read_dataset

    data = read_dataset(artifacts[Kind.DATA].path)
    chosen = np.linspace(0, len(data.evaluation) - 1, min(_ROWS, len(data.evaluation))).astype(np.int64)
    return list(feeds(data.evaluation.take(chosen).inputs, artifacts[Kind.TEACHER].path))
