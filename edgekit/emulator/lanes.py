"""Emulated ARM cores as lanes of a comparison: ``arm:cortex-a72``, ``armv7:cortex-a7/tflite-int8``."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.emulator.cores import Core, get_core
from edgekit.emulator.home import Home, require
from edgekit.emulator.run import Job, run_job
from edgekit.lanes.base import Question
from edgekit.lanes.local import engine_of
from edgekit.lanes.models import model_bundle
from edgekit.remote.endings import endings_raise
from edgekit_runtime.errors import UsageError
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["EmulatedLane", "open_lanes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedLane:
    """One model on one emulated core, run by the code that a device runs.

    Attributes:
        core: Where.
        model: Key of ``edgekit.lanes.models.MODELS``; a float one that the bundle does not hold is what the build kept.
        home: Where the emulator is.
    """

    core: Core
    model: str
    home: Home

    @property
    def name(self) -> str:
        """E.g. ``arm:cortex-a72/tflite-int8``."""
        return f"{self.core.place}/{self.model}"

    def check(self, question: Question) -> None:  # noqa: ARG002 - whatever is asked
        """See ``Checks``."""
        require(self.home, self.core.arch)

    def answer(self, question: Question) -> LaneEvidence:
        """Answer the rows of a question; for the errors see ``run_job`` and ``model_bundle``."""
        with endings_raise(), tempfile.TemporaryDirectory(prefix="edgekit-bundle-") as folder:
            path, other = question.path, model_bundle(question.bundle, question.path, self.model)
            if other is not None:
                path = Path(folder) / "float32.edge"
                path.write_bytes(other)
            engine = self.core.engines[engine_of(self.model)]
            return run_job(Job(bundle=path, rows=question.rows, engine=engine, lane=self.name), self.core, self.home)


def open_lanes(place: str, models: Sequence[str]) -> list[EmulatedLane]:
    """Give one lane for each model that an emulated core has an engine for.

    Args:
        place: Key of ``CORES``.
        models: Keys of ``edgekit.lanes.models.MODELS``.

    Raises:
        UsageError: No such core (E0160), or no engine for any of the models (E0161).
    """
    core = get_core(place)
    runnable = [model for model in models if engine_of(model) in core.engines]
    if not runnable:
        raise UsageError(
            "E0161",
            f"{place} has no engine for {' or '.join(models) or 'a bundle without models'}",
            why=f"it runs {', '.join(core.engines.values())}",
            fix="take a core that has one, or a bundle with a model for this one",
        )
    return [EmulatedLane(core=core, model=model, home=Home.default()) for model in runnable]
