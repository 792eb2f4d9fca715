"""The end of quantising a model as it is: all lanes compared without labels, and the bundle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.choice import CHOICE_FILE, chosen_lanes
from edgekit.lanes.local import LANES, MODEL_FILES, EngineLane, engine_of, run_engine_lane
from edgekit.parity.closeness import Closeness, closeness
from edgekit.pipeline import Artifacts, Kind
from edgekit.quantise_only.quantise import MODEL, form_lane
from edgekit.quantise_only.stages import read_contract, read_feeds, read_task, run_graph_lane
from edgekit.stages import BUNDLE_FILE, calibration_of, model_entries, npy_bytes, tool_versions
from edgekit_converters.quantize.decisions import Format
from edgekit_converters.quantize.plan import PLAN_FILE
from edgekit_converters.quantize.saturation_report import SATURATION_FILE
from edgekit_runtime.bundle import pack
from edgekit_runtime.manifest import TaskName

__all__ = ["CompareReady", "PackReady", "ready_lanes", "read_answers", "read_closeness"]

_GOLDEN_ROWS = 16
_MODELS: Mapping[str, tuple[Format, Kind]] = {
    "onnx-fp32": ("onnx", Kind.ONNX_FLOAT32),
    "onnx-int8": ("onnx", Kind.ONNX_INT8),
    "tflite-fp32": ("tflite", Kind.TFLITE_FLOAT32),
    "tflite-int8": ("tflite", Kind.TFLITE_INT8),
}


def ready_lanes(artifacts: Artifacts) -> tuple[EngineLane, ...]:
    """Give the engine lanes of a model that is quantised as it is."""
    contract = read_contract(artifacts[Kind.READY].path)
    return tuple(
        form_lane(name, form, artifacts[kind].path / MODEL[form], contract)
        for name, (form, kind) in _MODELS.items()
        if kind in artifacts
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareReady:
    """Run every lane on rows that nothing was calibrated on, and compare it with the float model in PyTorch."""

    formats: tuple[Format, ...]

    gives: ClassVar[Kind] = Kind.PARITY

    @property
    def takes(self) -> tuple[Kind, ...]:
        return (Kind.DATA, Kind.READY, *(kind for form, kind in _MODELS.values() if form in self.formats))

    def config(self) -> Mapping[str, object]:
        return {"formats": list(self.formats)}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnxruntime", "ai-edge-litert", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``parity.json`` and the answers of each lane."""
        rows, folder = read_feeds(artifacts, "eval").feeds, artifacts[Kind.READY].path
        answers = {"torch": run_graph_lane(folder, rows)}
        for lane in ready_lanes({kind: artifacts[kind] for kind in self.takes}):
            answers[lane.name] = run_engine_lane(lane, rows)
        for name, values in answers.items():
            np.save(into / f"{name}.npy", values, allow_pickle=False)
        found = _compared(answers, read_task(folder))
        content = {
            "schema": 1,
            "rows": len(rows),
            "reference": "torch",
            "agreements": {name: close.as_json() for name, close in found.items()},
        }
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (into / "parity.json").write_text(text + "\n", encoding="utf-8")
        return f"{len(answers)} lanes on {len(rows):,} rows"


def read_answers(artifacts: Artifacts) -> dict[str, NDArray[np.float32]]:
    """Give the answers of each lane that ``CompareReady`` kept, the reference first."""
    folder = artifacts[Kind.PARITY].path
    return {name: np.load(folder / f"{name}.npy") for name in LANES if (folder / f"{name}.npy").is_file()}


def read_closeness(artifacts: Artifacts) -> dict[str, Closeness]:
    """Compare again from the answers that ``CompareReady`` kept."""
    return _compared(read_answers(artifacts), read_task(artifacts[Kind.READY].path))


def _compared(answers: Mapping[str, NDArray[np.float32]], task: str) -> dict[str, Closeness]:
    reference = answers["torch"]
    return {name: closeness(values, reference, task=task) for name, values in answers.items() if name != "torch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReady:
    """Put models, preprocessing, goldens, evidence and provenance into one file."""

    name: str
    target: str
    formats: tuple[Format, ...]
    description: str
    model_digest: str

    gives: ClassVar[Kind] = Kind.BUNDLE

    @property
    def takes(self) -> tuple[Kind, ...]:
        models = tuple(kind for form, kind in _MODELS.values() if form in self.formats)
        return (Kind.DATA, Kind.READY, *models, Kind.CHOICE, Kind.PARITY)

    def config(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "target": self.target,
            "model": [self.description, self.model_digest],
            "tools": tool_versions(),
        }

    def versions(self) -> tuple[str, ...]:
        return ()

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``bundle.edge``."""
        ready = artifacts[Kind.READY].path
        lanes = chosen_lanes(ready_lanes({kind: artifacts[kind] for kind in self.takes}), artifacts)
        members = {path.name: path.read_bytes() for path in sorted((ready / "members").glob("*"))}
        members["parity.json"] = (artifacts[Kind.PARITY].path / "parity.json").read_bytes()
        members["provenance.json"] = self._provenance(artifacts)
        if "onnx" in self.formats:
            members[SATURATION_FILE] = (artifacts[Kind.ONNX_INT8].path / SATURATION_FILE).read_bytes()
        members |= self._plans(artifacts) | self._goldens(artifacts, lanes)
        members |= {MODEL_FILES[engine_of(lane.name)]: lane.content() for lane in lanes}
        raw = pack(
            name=self.name,
            version="0.1.0",
            task=cast("TaskName", read_task(ready)),
            target=self.target,
            models=model_entries(lanes),
            members=members,
            calibration_sha256=calibration_of(members),
        )
        (into / BUNDLE_FILE).write_bytes(raw)
        return f"{len(raw) / 1e6:.2f} MB, {len(members) + 1} members"

    def _plans(self, artifacts: Artifacts) -> dict[str, bytes]:
        """Give ``plan.json`` for both formats, or one for each where they chose differently."""
        held = {form: (artifacts[_MODELS[f"{form}-int8"][1]].path / PLAN_FILE).read_bytes() for form in self.formats}
        if len(set(held.values())) == 1:
            return {PLAN_FILE: next(iter(held.values()))}
        return {f"plan-{form}.json": content for form, content in held.items()}

    def _provenance(self, artifacts: Artifacts) -> bytes:
        facts = {
            "schema": 1,
            "model": self.description,
            "model_sha256": self.model_digest,
            "data_sha256": artifacts[Kind.DATA].digest,
            "models": json.loads((artifacts[Kind.CHOICE].path / CHOICE_FILE).read_text(encoding="utf-8")),
            "tools": tool_versions(),
        }
        return json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False).encode()

    def _goldens(self, artifacts: Artifacts, lanes: list[EngineLane]) -> dict[str, bytes]:
        rows, answers = read_feeds(artifacts, "eval"), read_answers(artifacts)
        places = np.linspace(0, len(rows) - 1, min(_GOLDEN_ROWS, len(rows))).astype(np.int64)
        taken = rows.take([int(place) for place in places])
        members = {
            f"golden/{name}.npy": npy_bytes(np.concatenate([row[name] for row in taken.feeds]))
            for name in taken.feeds[0]
        }
        members["golden.json"] = json.dumps({"texts": list(taken.texts)}, ensure_ascii=False).encode()
        members["golden/reference.npy"] = npy_bytes(answers["torch"][places])
        for lane in lanes:
            members[f"golden/{engine_of(lane.name)}.npy"] = npy_bytes(answers[lane.name][places])
        return members
