"""The stages that frame a build: rows at its start, the comparison of all lanes and the bundle at its end."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.choice import CHOICE_FILE, chosen_lanes
from edgekit.lanes.local import (
    LANES,
    MODEL_FILES,
    EngineLane,
    Lane,
    engine_of,
    run_engine_lane,
    run_torch_lane,
    torch_dynamic_lane,
)
from edgekit.parity.agreement import ParityResult, compare_lanes
from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import Recipe, Task
from edgekit_models.data.dataset import Dataset, read_dataset, save_dataset
from edgekit_models.preprocess import PREPROCESS, TOKENIZER
from edgekit_runtime.bundle import pack
from edgekit_runtime.manifest import ModelEntry, Runtime

__all__ = [
    "BUNDLE_FILE",
    "CompareLanes",
    "PackBundle",
    "PrepareData",
    "calibration_of",
    "engine_lanes",
    "model_entries",
    "npy_bytes",
    "read_logits",
    "read_parity",
    "tool_versions",
]

BUNDLE_FILE = "bundle.edge"
_GOLDEN_ROWS = 16
_KINDS: Mapping[str, Kind] = {
    "onnx-fp32": Kind.ONNX_FLOAT32,
    "onnx-int8": Kind.ONNX_INT8,
    "tflite-fp32": Kind.TFLITE_FLOAT32,
    "tflite-int8": Kind.TFLITE_INT8,
}
_TOOLS = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "torch-pruning",
    "numpy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareData:
    """Keep the checked rows; they were read before, so the key is their content and not their path."""

    dataset: Dataset

    takes: ClassVar[tuple[Kind, ...]] = ()
    gives: ClassVar[Kind] = Kind.DATA

    def config(self) -> Mapping[str, object]:
        return {"rows": dataset_digest(self.dataset)}

    def versions(self) -> tuple[str, ...]:
        return ()

    def run(self, artifacts: Artifacts, into: Path, /) -> str:  # noqa: ARG002 - the first stage takes nothing
        """Write the rows."""
        save_dataset(self.dataset, into)
        labels = len(self.dataset.labels)
        return f"{len(self.dataset.train):,} train and {len(self.dataset.evaluation):,} eval rows, {labels} labels"


def dataset_digest(dataset: Dataset) -> str:
    """Give the sha256 (hex) of all rows, targets, labels and warnings."""
    digest = hashlib.sha256(json.dumps([dataset.task.value, dataset.labels, dataset.warnings]).encode())
    for rows in (dataset.train, dataset.evaluation):
        digest.update(rows.targets.tobytes())
        if isinstance(rows.inputs, tuple):
            digest.update(json.dumps(rows.inputs).encode())
        else:
            digest.update(str((rows.inputs.shape, rows.inputs.dtype.str)).encode() + rows.inputs.tobytes())
    return digest.hexdigest()


def engine_lanes(artifacts: Artifacts) -> tuple[EngineLane, ...]:
    """Give the lane of every exported model."""
    from edgekit_converters.export.contract import contract_of
    from edgekit_converters.export.tflite import tflite_contract
    from edgekit_models.saved import read_config

    contract = contract_of(read_config(artifacts[Kind.STUDENT_PRUNED].path / "config.json"))
    lanes = []
    for name, kind in _KINDS.items():
        if kind in artifacts:
            engine = engine_of(name)
            path = artifacts[kind].path / MODEL_FILES[engine]
            shape = contract if engine == "onnxruntime" else tflite_contract(contract, path)
            lanes.append(
                EngineLane(
                    name=name,
                    engine=engine,
                    model=path,
                    inputs=shape.inputs,
                    outputs=shape.outputs,
                )
            )
    return tuple(lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareLanes:
    """Run every lane on the evaluation rows and compare them with the float32 student in PyTorch."""

    formats: tuple[Literal["onnx", "tflite"], ...]

    gives: ClassVar[Kind] = Kind.PARITY

    @property
    def takes(self) -> tuple[Kind, ...]:
        exported = tuple(kind for name, kind in _KINDS.items() if name.split("-")[0] in self.formats)
        return (Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED, *exported)

    def config(self) -> Mapping[str, object]:
        return {"formats": list(self.formats)}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnxruntime", "ai-edge-litert", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``parity.json`` and the logits of each lane."""
        from edgekit_converters.rows import feeds

        data = read_dataset(artifacts[Kind.DATA].path)
        rows = list(feeds(data.evaluation.inputs, artifacts[Kind.TEACHER].path))
        logits = {"torch": run_torch_lane(artifacts[Kind.STUDENT_PRUNED].path, rows)}
        wanted = {kind: artifacts[kind] for kind in self.takes}
        dynamic = torch_dynamic_lane(artifacts[Kind.STUDENT_PRUNED].path)
        lanes: list[Lane] = [*([dynamic] if dynamic else []), *engine_lanes(wanted)]
        for lane in lanes:
            logits[lane.name] = run_engine_lane(lane, rows)
        ordered = {name: logits[name] for name in LANES if name in logits}
        for name, values in ordered.items():
            np.save(into / f"{name}.npy", values, allow_pickle=False)
        result = compare_lanes(ordered, data.evaluation.targets, reference="torch")
        (into / "parity.json").write_text(
            json.dumps(result.as_json(), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )
        return f"{len(ordered)} lanes on {result.rows:,} rows"


def read_parity(artifacts: Artifacts) -> ParityResult:
    """Compare again from the logits that ``CompareLanes`` kept."""
    data = read_dataset(artifacts[Kind.DATA].path)
    return compare_lanes(read_logits(artifacts), data.evaluation.targets, reference="torch")


def read_logits(artifacts: Artifacts) -> dict[str, NDArray[np.float32]]:
    """Give the logits of each lane that ``CompareLanes`` kept, (N, classes), the reference first."""
    folder = artifacts[Kind.PARITY].path
    files = {name: folder / f"{name}.npy" for name in LANES}
    return {name: np.load(path, allow_pickle=False) for name, path in files.items() if path.is_file()}


def calibration_of(members: Mapping[str, bytes]) -> str:
    """Give the fingerprint of the calibration rows, which every plan of a bundle carries."""
    plans = [content for name, content in members.items() if name.startswith("plan")]
    return str(json.loads(plans[0])["calibration_digest"]) if plans else ""


def model_entries(lanes: Sequence[EngineLane]) -> dict[Runtime, ModelEntry]:
    """Describe for the manifest the model of each engine that a bundle holds."""
    return {
        engine_of(lane.name): ModelEntry(
            member=MODEL_FILES[engine_of(lane.name)],
            precision="int8" if lane.name.endswith("-int8") else "float32",
            inputs=lane.inputs,
            outputs=lane.outputs,
        )
        for lane in lanes
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBundle:
    """Put models, preprocessing, goldens, evidence and provenance into one file."""

    recipe: Recipe
    target: str
    recipe_digest: str
    teacher: str
    teacher_digest: str
    licence: str

    gives: ClassVar[Kind] = Kind.BUNDLE

    @property
    def takes(self) -> tuple[Kind, ...]:
        models = tuple(kind for name, kind in _KINDS.items() if name.split("-")[0] in self.recipe.export.formats)
        return (Kind.DATA, Kind.TEACHER, Kind.STUDENT_PRUNED, Kind.QUANT_PLAN, *models, Kind.CHOICE, Kind.PARITY)

    def config(self) -> Mapping[str, object]:
        return {
            "name": self.recipe.name,
            "version": self.recipe.version,
            "target": self.target,
            "recipe": self.recipe_digest,
            "teacher": self.teacher,
            "teacher_digest": self.teacher_digest,
            "licence": self.licence,
            "tools": tool_versions(),
        }

    def versions(self) -> tuple[str, ...]:
        return ()

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``bundle.edge``."""
        from edgekit_converters.quantize.calibration.held_out import COVERAGE_FILE
        from edgekit_converters.quantize.plan import PLAN_FILE
        from edgekit_converters.quantize.saturation_report import SATURATION_FILE

        data = read_dataset(artifacts[Kind.DATA].path)
        teacher = artifacts[Kind.TEACHER].path
        members = {
            PREPROCESS: (teacher / PREPROCESS).read_bytes(),
            "labels.json": json.dumps(list(data.labels), ensure_ascii=False).encode(),
            "parity.json": (artifacts[Kind.PARITY].path / "parity.json").read_bytes(),
            "provenance.json": self._provenance(artifacts),
            "licence.txt": self._licence().encode(),
            PLAN_FILE: (artifacts[Kind.QUANT_PLAN].path / PLAN_FILE).read_bytes(),
            COVERAGE_FILE: (artifacts[Kind.QUANT_PLAN].path / COVERAGE_FILE).read_bytes(),
        }
        if Kind.ONNX_INT8 in self.takes:
            members[SATURATION_FILE] = (artifacts[Kind.ONNX_INT8].path / SATURATION_FILE).read_bytes()
        if (teacher / TOKENIZER).is_file():
            members[TOKENIZER] = (teacher / TOKENIZER).read_bytes()
        held = chosen_lanes(engine_lanes({kind: artifacts[kind] for kind in self.takes}), artifacts)
        members |= {MODEL_FILES[engine_of(lane.name)]: lane.content() for lane in held}
        members |= _goldens(data, artifacts, [lane.name for lane in held])
        raw = pack(
            name=self.recipe.name,
            version=self.recipe.version,
            task=self.recipe.model.task.value,
            target=self.target,
            models=model_entries(held),
            members=members,
            calibration_sha256=calibration_of(members),
        )
        (into / BUNDLE_FILE).write_bytes(raw)
        return f"{len(raw) / 1e6:.2f} MB, {len(members) + 1} members"

    def _provenance(self, artifacts: Artifacts) -> bytes:
        facts = {
            "schema": 1,
            "recipe_sha256": self.recipe_digest,
            "data_sha256": artifacts[Kind.DATA].digest,
            "data_licence": self.recipe.data.licence,
            "teacher": self.teacher,
            "teacher_sha256": self.teacher_digest,
            "seed": self.recipe.seed,
            "gates": self.recipe.carried_gates,
            "models": json.loads((artifacts[Kind.CHOICE].path / CHOICE_FILE).read_text(encoding="utf-8")),
            "tools": tool_versions(),
        }
        return json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False).encode()

    def _licence(self) -> str:
        return (
            f"Teacher: {self.teacher}\nLicence of the teacher's weights: {self.licence or 'unknown'}\n"
            f"Licence of the data: {self.recipe.data.licence or 'unknown'}\n"
            "The model in this bundle is derived from both.\n"
        )


def tool_versions() -> dict[str, str]:
    """Give the installed versions of what a build is made with, by distribution."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = metadata.version(name).split("+")[0]  # a local tag names a build, not a version
        except metadata.PackageNotFoundError:
            continue
    return found


def npy_bytes(array: NDArray[np.generic]) -> bytes:
    """Give the bytes of an ``.npy`` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _goldens(data: Dataset, artifacts: Artifacts, held: Sequence[str]) -> dict[str, bytes]:
    """Give inputs and the outputs of the lanes in the bundle for them, so that a device can check itself."""
    from edgekit_converters.rows import feeds

    count = min(_GOLDEN_ROWS, len(data.evaluation))
    chosen = np.linspace(0, len(data.evaluation) - 1, count).astype(np.int64)
    rows = data.evaluation.take(chosen)
    tensors = list(feeds(rows.inputs, artifacts[Kind.TEACHER].path))
    members = {f"golden/{name}.npy": npy_bytes(np.concatenate([row[name] for row in tensors])) for name in tensors[0]}
    if data.task is Task.TEXT_CLASSIFICATION:
        members["golden.json"] = json.dumps({"texts": list(rows.texts)}, ensure_ascii=False).encode()
    else:
        members["golden.json"] = b"{}"
        members["golden/input.npy"] = npy_bytes(rows.images)
    for name, lane in (("reference", "torch"), *((engine_of(lane), lane) for lane in held)):
        logits = np.load(artifacts[Kind.PARITY].path / f"{lane}.npy", allow_pickle=False)
        members[f"golden/{name}.npy"] = npy_bytes(logits[chosen])
    return members
