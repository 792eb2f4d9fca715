"""The vocabulary of a build: kinds of artifact, stages, and the order they may stand in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from edgekit_runtime.errors import UsageError

__all__ = ["Artifact", "Artifacts", "Kind", "Stage", "check_order"]


class Kind(StrEnum):
    """What an artifact folder holds."""

    DATA = "data"  # train and eval rows in one canonical form
    TEACHER = "teacher"  # teacher fine-tuned on the train rows: config.json, model.safetensors, tokenizer.json
    TEACHER_OUTPUTS = "teacher-outputs"  # logits and hidden states of the teacher on the train rows
    TEACHER_ONNX = "teacher-onnx"  # the teacher as float32 ONNX, the yardstick for speed; a note for foreign modules
    STUDENT = "student"  # distilled student, before pruning
    STUDENT_PRUNED = "student-pruned"  # smaller student after recovery
    QUANT_PLAN = "quant-plan"  # plan.json and the rewritten float graph that it belongs to
    ONNX_FLOAT32 = "onnx-fp32"
    ONNX_INT8 = "onnx-int8"
    TFLITE_FLOAT32 = "tflite-fp32"
    TFLITE_INT8 = "tflite-int8"
    READY = "ready"  # a model that is quantised as it is: float graph, contract, preprocessing
    CHOICE = "choice"  # which precision the bundle holds for each engine, and why
    PARITY = "parity"  # outputs of each lane on the eval rows and the comparison of them
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished folder; nobody writes into it again.

    Attributes:
        kind: What it holds.
        path: The folder.
        digest: sha256 (hex) over the names, sizes and digests of its files.
    """

    kind: Kind
    path: Path
    digest: str


Artifacts = Mapping[Kind, Artifact]


class Stage(Protocol):
    """One step of a build.

    Attributes:
        takes: Kinds that must exist before.
        gives: The kind it makes.
    """

    @property
    def takes(self) -> tuple[Kind, ...]: ...

    @property
    def gives(self) -> Kind: ...

    def config(self) -> Mapping[str, object]:
        """JSON-ready settings that the result depends on; part of the cache key."""
        ...

    def versions(self) -> tuple[str, ...]:
        """Distributions whose versions the result depends on, e.g. ``("torch", "onnx")``."""
        ...

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write the result into the empty folder ``into``; leave ``artifacts`` alone.

        Returns:
            One line on what was done, or why nothing had to be done; shown to the user and kept with the result.
        """
        ...


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse a wrong order before anything runs.

    Raises:
        UsageError: A stage takes a kind that no earlier stage gives, or gives one that exists already.
    """
    have: set[Kind] = set()
    for stage in stages:
        name = type(stage).__name__
        lacking = [kind.value for kind in stage.takes if kind not in have]
        if lacking:
            raise UsageError("E0110", f"stage {name} needs {', '.join(lacking)}, which no earlier stage gives")
        if stage.gives in have:
            raise UsageError("E0110", f"stage {name} gives {stage.gives.value}, which an earlier stage gives already")
        have.add(stage.gives)
