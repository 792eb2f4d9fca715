"""The stage that turns plans into the int8 file of one format: the fastest that stays as close as it must."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.bench import measure
from edgekit.choice import MARGIN
from edgekit.lanes.local import EngineLane, engine_of, run_engine_lane
from edgekit.machine import machine
from edgekit.parity.closeness import Limits, closeness
from edgekit.pipeline import Artifacts, Kind
from edgekit.quantise_only.rows import Feeds, RowSet
from edgekit.quantise_only.stages import (
    PLANS,
    read_candidate,
    read_contract,
    read_feeds,
    read_task,
    run_graph_lane,
)
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.stage import ONNX_FILE, TFLITE_FILE
from edgekit_converters.export.tflite import tflite_contract
from edgekit_converters.quantize.cost import layer_costs
from edgekit_converters.quantize.decisions import Decisions, Format
from edgekit_converters.quantize.fastest import Bound, fastest
from edgekit_converters.quantize.grid import ActivationType
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import PLAN_FILE
from edgekit_converters.quantize.planner import Planned
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_runtime.errors import QualityError

__all__ = ["CHOSEN_FILE", "MODEL", "QuantiseReady", "form_lane"]

MODEL: Mapping[Format, str] = {"onnx": ONNX_FILE, "tflite": TFLITE_FILE}
CHOSEN_FILE = "chosen.json"
_KINDS: Mapping[Format, tuple[Kind, Kind]] = {
    "onnx": (Kind.ONNX_FLOAT32, Kind.ONNX_INT8),
    "tflite": (Kind.TFLITE_FLOAT32, Kind.TFLITE_INT8),
}
_JUDGED = 32  # held-in rows that candidates are compared on
_ROOM = 0.9  # share of the allowed loss that held-in rows may show: others may lose a little more
_OPSET = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """One candidate in its real engine.

    Attributes:
        name: Of the candidate.
        cosine: Mean, on held-in rows.
        cpu_ms: Least CPU time of an inference.
        met: Whether it stays within the limits.
    """

    name: str
    cosine: float
    cpu_ms: float
    met: bool


def form_lane(name: str, form: Format, path: Path, contract: ModelContract) -> EngineLane:
    """Give the lane of a file."""
    held = contract if form == "onnx" else tflite_contract(contract, path)
    return EngineLane(name=name, engine=engine_of(form), model=path, inputs=held.inputs, outputs=held.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseReady:
    """Write the candidates, compare them in the real engine on held-in rows, keep the fastest that is close enough."""

    form: Format
    activations: ActivationType
    limits: Limits
    given: Decisions | None

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA, Kind.READY, Kind.QUANT_PLAN)

    @property
    def gives(self) -> Kind:
        return _KINDS[self.form][1]

    def config(self) -> Mapping[str, object]:
        # What is measured holds for this machine; what is given holds everywhere, and whatever the limits are.
        basis: object = self.given.digest if self.given else [machine(), asdict(self.limits)]
        return {"form": self.form, "activations": self.activations, "basis": basis}

    def versions(self) -> tuple[str, ...]:
        own = ("onnx", "onnxscript", "onnxruntime")
        other = ("litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")
        return ("torch", "numpy", *(own if self.form == "onnx" else other))

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write the model, its ``plan.json``, and ``chosen.json`` with what was tried."""
        contract = read_contract(artifacts[Kind.READY].path)
        rows = read_feeds(artifacts, "calibration")
        made = self._plans(artifacts, contract, rows)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / name / MODEL[self.form] for name in made}
            for file in files.values():
                file.parent.mkdir()
            notes = {name: self._write(plan, contract, files[name], rows.feeds) for name, plan in made.items()}
            tried = [] if self.given else self._try(artifacts, contract, files, rows)
            name = _best(tried) if tried else next(iter(made))
            shutil.copytree(files[name].parent, into, dirs_exist_ok=True)
        (into / PLAN_FILE).write_text(made[name].plan.to_json(), encoding="utf-8")
        chosen = {"name": name, "candidate": name.partition("+")[0], "tried": [asdict(one) for one in tried]}
        (into / CHOSEN_FILE).write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        times = ", ".join(f"{one.name} {one.cpu_ms:.3f} ms, cosine {one.cosine:.4f}" for one in tried)
        return f"{name}: {notes[name]} ({'as given' if self.given else f'tried: {times}'})"

    def _plans(self, artifacts: Artifacts, contract: ModelContract, rows: RowSet) -> dict[str, Planned]:
        if self.given:
            name = self.given.plans[self.form].candidate
            return {name: read_candidate(artifacts, name, self.given, self.form)}
        names = [name for name in PLANS if (artifacts[Kind.QUANT_PLAN].path / name).is_dir()]
        made = {name: read_candidate(artifacts, name, None, self.form) for name in names}
        searched = self._search(made["static"], contract, rows) if len(names) > 1 else None
        # The search often ends where a candidate stands already.
        if searched and all(_modes(searched) != _modes(plan) for plan in made.values()):
            made["static+search"] = searched
        return made

    def _search(self, static: Planned, contract: ModelContract, rows: RowSet) -> Planned | None:
        """Give the fastest modes by the measured cost of each layer, on the graph of the static plan."""
        costs = layer_costs(
            static.graph, static.plan, contract.example(), formats=[self.form], activations=self.activations
        )
        bound = Bound(measure=_mean_cosine, least=1.0 - _ROOM * (1.0 - self.limits.min_cosine), unit="mean cosine")
        judged = as_rows(static.graph, _judged(rows).feeds, trim=False)
        try:
            return replace(static, plan=fastest(static.graph, static.plan, judged, costs, bound).plan)
        except QualityError:
            return None  # the candidates are judged in the real engine, which may think better of them

    def _write(self, made: Planned, contract: ModelContract, path: Path, rows: Sequence[Feeds]) -> str:
        if self.form == "onnx":
            return write_onnx(made, contract, path, activations=self.activations, opset=_OPSET)
        return write_tflite(made, contract, path, rows)

    def _try(
        self, artifacts: Artifacts, contract: ModelContract, files: Mapping[str, Path], rows: RowSet
    ) -> list[_Tried]:
        judged, task = _judged(rows).feeds, read_task(artifacts[Kind.READY].path)
        reference = run_graph_lane(artifacts[Kind.READY].path, judged)
        lanes = [form_lane(name, self.form, path, contract) for name, path in files.items()]
        took = {time.lane: time.cpu_ms_min for time in measure(lanes, judged)}
        found = []
        for lane in lanes:
            close = closeness(run_engine_lane(lane, judged), reference, task=task)
            found.append(
                _Tried(
                    name=lane.name,
                    cosine=round(close.cosine_mean, 6),
                    cpu_ms=round(took[lane.name], 4),
                    met=self.limits.met_by(close, room=_ROOM),
                )
            )
        return found


def _modes(made: Planned) -> list[tuple[str, Mode]]:
    return [(layer.name, layer.mode) for layer in made.plan.layers]


def _judged(rows: RowSet) -> RowSet:
    places = np.linspace(0, len(rows) - 1, min(_JUDGED, len(rows))).astype(int)
    return rows.take(sorted({int(place) for place in places}))


def _mean_cosine(reference: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    flat = [values.reshape(len(values), -1) for values in (answers, reference)]
    return closeness(flat[0], flat[1], task="tensors").cosine_mean


def _best(tried: Sequence[_Tried]) -> str:
    """Give the fastest that is close enough; of those within the noise of its time, the closest.

    The closest of all if none is close enough: the comparison on other rows will judge it.
    """
    met = [one for one in tried if one.met]
    if not met:
        return max(tried, key=lambda one: one.cosine).name
    least = min(one.cpu_ms for one in met)
    return max((one for one in met if one.cpu_ms <= least * (1 + MARGIN)), key=lambda one: one.cosine).name
