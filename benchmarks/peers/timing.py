"""Measures lanes of several engines and environments side by side: one process an engine, the lanes taking turns."""

import contextlib
import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peers.lanes import Lane

__all__ = ["CpuTime", "Stopwatch", "time_lanes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Of one inference of a lane, one thread.

    Attributes:
        cpu_ms_min: Smallest of all inferences, in ms: the cost of the work itself.
        cpu_ms_median: Median of all inferences, in ms.
        runs: Inferences measured, over all rounds.
    """

    cpu_ms_min: float
    cpu_ms_median: float
    runs: int


class Stopwatch:
    """A process that holds the models of one engine open and measures them when asked.

    Args:
        command: Starts ``peers.stopwatch`` for the engine, in the environment that holds it.
        items: Model and rows of each lane.
        environment: Variables of the process.

    Attributes:
        failed: By number, why a model could not be opened.
    """

    def __init__(
        self, command: Sequence[str], items: Sequence[tuple[Path, Path]], *, environment: Mapping[str, str]
    ) -> None:
        self._command = list(command)
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nothing, text=True, env=dict(environment)
        )
        found = self._ask([{"model": str(model), "rows": str(rows)} for model, rows in items])
        self.failed = {int(place): str(reason) for place, reason in found.items()}

    def block(self, place: int) -> list[float]:
        """Give the CPU time of each inference of one block, in ms.

        Raises:
            RuntimeError: The process is gone.
        """
        return [float(took) for took in self._ask(place)]

    def _ask(self, order: object) -> Any:  # noqa: ANN401 - JSON
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            self._process.communicate()
            raise RuntimeError(f"{self._command} ended with {self._process.returncode}; asked for {order}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its input, which ends it


def time_lanes(
    lanes: Sequence[Lane], rounds: int, *, start: Callable[[str, Sequence[Lane]], Stopwatch]
) -> dict[Lane, CpuTime]:
    """Measure one block of every lane in turn, ``rounds`` times.

    Args:
        lanes: Of one sequence length, so that not all files of all lengths are open at once.
        rounds: Blocks per lane.
        start: Starts the stopwatch of an engine with its lanes.
    """
    took: dict[Lane, list[float]] = {lane: [] for lane in lanes}
    with ExitStack() as stack:
        places: list[tuple[Lane, Stopwatch, int]] = []
        for engine in dict.fromkeys(lane.engine for lane in lanes):
            mine = [lane for lane in lanes if lane.engine == engine]
            watch = stack.enter_context(start(engine, mine))
            places += [(lane, watch, place) for place, lane in enumerate(mine) if place not in watch.failed]
        for _ in range(rounds):
            for lane, watch, place in places:
                took[lane] += watch.block(place)
    return {
        lane: CpuTime(
            cpu_ms_min=round(min(times), 3), cpu_ms_median=round(statistics.median(times), 3), runs=len(times)
        )
        for lane, times in took.items()
        if times
    }
