"""Which precision a bundle holds for each engine: int8, unless float32 was measured to be faster here."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.bench import measure
from edgekit.lanes.local import EngineLane
from edgekit.machine import machine
from edgekit.pipeline import Artifacts, Kind
from edgekit_converters.quantize.decisions import Decisions, Format
from edgekit_runtime.manifest import Precision

__all__ = ["CHOICE_FILE", "MARGIN", "ChooseModels", "chosen_lanes", "faster", "read_choice"]

CHOICE_FILE = "choice.json"
MARGIN = 0.05  # a smaller difference is noise, and int8 stays: it is smaller
_KINDS: Mapping[Format, tuple[Kind, Kind]] = {
    "onnx": (Kind.ONNX_FLOAT32, Kind.ONNX_INT8),
    "tflite": (Kind.TFLITE_FLOAT32, Kind.TFLITE_INT8),
}
_WHY: Mapping[Precision, str] = {
    "int8": "int8 is not slower than float32, or the user keeps it",
    "float32": "int8 was measured to be slower than float32 on the machine that decided",
}
Lanes = Callable[[Artifacts], Sequence[EngineLane]]
Feeds = Mapping[str, NDArray[np.generic]]


def faster(int8_ms: float, float32_ms: float) -> Precision:
    """Give the precision that a bundle should hold: float32 only if int8 takes over 5 % longer."""
    return "float32" if int8_ms > float32_ms * (1 + MARGIN) else "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseModels:
    """Measure int8 against float32 in each engine, and refuse to make int8 the default where it is slower.

    The result says what and why, without figures and without who decided: a replay gives the same bundle to the byte.
    The figures are in the note.

    Attributes:
        formats: That the build writes.
        keep_int8: The user wants int8 whatever it costs.
        given: Decisions of an earlier build; nothing is measured.
        lanes: Gives the engine lanes of a build's artifacts.
        rows: Gives tensors to measure with.
        basis: Kinds that ``lanes`` and ``rows`` read beside the models.
    """

    formats: tuple[Format, ...]
    keep_int8: bool
    given: Decisions | None
    lanes: Lanes
    rows: Callable[[Artifacts], Sequence[Feeds]]
    basis: tuple[Kind, ...]

    gives: ClassVar[Kind] = Kind.CHOICE

    @property
    def takes(self) -> tuple[Kind, ...]:
        return (*self.basis, *(kind for form in self.formats for kind in _KINDS[form]))

    def config(self) -> Mapping[str, object]:
        given = {form: self.given.precision[form] for form in self.formats} if self.given else {}
        basis = machine() if not self.keep_int8 and not given else ""
        return {"formats": list(self.formats), "keep_int8": self.keep_int8, "given": given, "basis": basis}

    def versions(self) -> tuple[str, ...]:
        return ("onnxruntime", "ai-edge-litert", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``choice.json``."""
        found: Mapping[Format, Precision]
        if self.keep_int8:
            found, note = dict.fromkeys(self.formats, "int8"), "int8, as the user says"
        elif self.given:
            found, note = {form: self.given.precision[form] for form in self.formats}, "as given"
        else:
            found, note = self._measured(artifacts)
        content = {form: {"precision": precision, "why": _WHY[precision]} for form, precision in found.items()}
        (into / CHOICE_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return note

    def _measured(self, artifacts: Artifacts) -> tuple[dict[Format, Precision], str]:
        lanes = self.lanes({kind: artifacts[kind] for kind in self.takes})
        took = {time.lane: time.cpu_ms_min for time in measure(lanes, self.rows(artifacts))}
        pairs = {form: (took[f"{form}-int8"], took[f"{form}-fp32"]) for form in self.formats}
        found = {form: faster(int8, whole) for form, (int8, whole) in pairs.items()}
        notes = [
            f"{form} {found[form]} (int8 {int8:.3f} ms, float32 {whole:.3f} ms)"
            for form, (int8, whole) in pairs.items()
        ]
        return found, ", ".join(notes)


def read_choice(artifacts: Artifacts) -> dict[Format, Precision]:
    """Give the precision by format."""
    held = json.loads((artifacts[Kind.CHOICE].path / CHOICE_FILE).read_text(encoding="utf-8"))
    return {form: held[form]["precision"] for form in held}


def chosen_lanes(lanes: Sequence[EngineLane], artifacts: Artifacts) -> list[EngineLane]:
    """Give the lanes that the bundle holds, one for each format."""
    suffix = {"int8": "int8", "float32": "fp32"}
    wanted = {f"{form}-{suffix[precision]}" for form, precision in read_choice(artifacts).items()}
    return [lane for lane in lanes if lane.name in wanted]
