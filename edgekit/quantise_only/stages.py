"""The stages that quantise a model as it is, from its float graph to both int8 files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.pipeline import Artifacts, Kind
from edgekit.quantise_only.rows import Feeds, RowSet
from edgekit.quantise_only.source import Source
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.stage import ONNX_FILE, TFLITE_FILE
from edgekit_converters.quantize.decisions import Decisions, adopt
from edgekit_converters.quantize.graph import Graph, layers, load_graph, save_graph, trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import PLAN_FILE
from edgekit_converters.quantize.planner import Planned, Planner
from edgekit_converters.quantize.trained import load_trained, save_trained
from edgekit_runtime.errors import UsageError
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.selftest import flat_outputs

__all__ = [
    "ExportFloat",
    "PLANS",
    "KeepRows",
    "PlanReady",
    "TraceModel",
    "read_candidate",
    "read_contract",
    "read_feeds",
    "read_task",
    "run_graph_lane",
]

CONTRACT_FILE, FEEDS = "contract.json", ("calibration", "eval")
PLANS = ("static", "mixed", "dynamic")
_FORMAT_KIND = {"onnx": Kind.ONNX_FLOAT32, "tflite": Kind.TFLITE_FLOAT32}
_HEADS = ("classifier", "head_dense")
_GELU = "aten.gelu.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRows:
    """Keep the rows; they were read before, so the key is their content and not their path."""

    calibration: RowSet
    evaluation: RowSet

    takes: ClassVar[tuple[Kind, ...]] = ()
    gives: ClassVar[Kind] = Kind.DATA

    def config(self) -> Mapping[str, object]:
        return {"calibration": self.calibration.digest, "eval": self.evaluation.digest}

    def versions(self) -> tuple[str, ...]:
        return ("numpy",)

    def run(self, artifacts: Artifacts, into: Path, /) -> str:  # noqa: ARG002 - the first stage takes nothing
        """Write one array for each input, and the texts."""
        for name, rows in zip(FEEDS, (self.calibration, self.evaluation), strict=True):
            (into / name).mkdir()
            for key in rows.feeds[0]:
                stacked = np.concatenate([row[key] for row in rows.feeds])
                np.save(into / name / f"{key}.npy", stacked, allow_pickle=False)
            (into / f"{name}.json").write_text(json.dumps({"texts": rows.texts}) + "\n", encoding="utf-8")
        return f"{len(self.calibration):,} rows to calibrate on, {len(self.evaluation):,} to judge by"


def read_feeds(artifacts: Artifacts, name: str) -> RowSet:
    """Read rows that ``KeepRows`` wrote: ``calibration`` or ``eval``."""
    folder = artifacts[Kind.DATA].path
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in sorted((folder / name).glob("*.npy"))}
    count = len(next(iter(arrays.values())))
    texts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["texts"]
    feeds = tuple({key: array[i : i + 1] for key, array in arrays.items()} for i in range(count))
    return RowSet(feeds=feeds, texts=tuple(texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceModel:
    """Turn the model into a plain graph of fixed shapes, the reference of all comparisons."""

    source: Source

    takes: ClassVar[tuple[Kind, ...]] = ()
    gives: ClassVar[Kind] = Kind.READY

    def config(self) -> Mapping[str, object]:
        return _identity(self.source)

    def versions(self) -> tuple[str, ...]:
        return ("torch",)

    def run(self, artifacts: Artifacts, into: Path, /) -> str:  # noqa: ARG002 - takes the model that was opened
        """Write ``graph.pt2``, ``contract.json`` and the members of the bundle that come with the model."""
        example = self.source.contract.example()
        save_graph(_traced(self.source, free=False), example, into)
        held = {"task": self.source.task, **asdict(self.source.contract)}
        (into / CONTRACT_FILE).write_text(json.dumps(held, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (into / "members").mkdir()
        for name, content in self.source.members.items():
            (into / "members" / name).write_bytes(content)
        return self.source.description


def _identity(source: Source) -> dict[str, object]:
    shapes = [[spec.name, *spec.shape] for spec in (*source.contract.inputs, *source.contract.outputs)]
    return {"model": source.digest, "task": source.task, "shapes": shapes, "longest": source.longest}


def read_contract(folder: Path) -> ModelContract:
    """Read the contract that ``TraceModel`` wrote."""
    held = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
    sides = {
        side: tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in held[side])
        for side in ("inputs", "outputs")
    }
    return ModelContract(inputs=sides["inputs"], outputs=sides["outputs"])


def read_task(folder: Path) -> str:
    """Read the task that ``TraceModel`` wrote."""
    return str(json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))["task"])


def _traced(source: Source, *, free: bool) -> Graph:
    """Trace with the input names of the contract; with ``free`` the length may be shorter than the contract's."""
    graph = trace(source.module, source.contract.example(), longest=source.longest if free else 0)
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(inputs, source.contract.inputs, strict=True):
        if node.name != spec.name:
            node.target = spec.name
            node._rename(spec.name)  # noqa: SLF001 - fx has no public way
    graph.recompile()
    return graph


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFloat:
    """Write the float graph in one format: what int8 is measured against."""

    form: str
    opset: int

    takes: ClassVar[tuple[Kind, ...]] = (Kind.READY,)

    @property
    def gives(self) -> Kind:
        return _FORMAT_KIND[self.form]

    def config(self) -> Mapping[str, object]:
        return {"form": self.form, "opset": self.opset}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "onnx", "onnxscript") if self.form == "onnx" else ("torch", "litert-torch", "litert-converter")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write ``model.onnx`` or ``model.tflite``."""
        from edgekit_converters.export.onnx import export_module_onnx
        from edgekit_converters.export.tflite import export_module_tflite

        folder = artifacts[Kind.READY].path
        graph, contract = load_graph(folder), read_contract(folder)
        path = into / (ONNX_FILE if self.form == "onnx" else TFLITE_FILE)
        if self.form == "onnx":
            export_module_onnx(graph, contract, path, opset=self.opset)
        else:
            export_module_tflite(graph, contract, path)
        return f"{path.stat().st_size / 1e6:.2f} MB"


def run_graph_lane(folder: Path, rows: Sequence[Feeds]) -> NDArray[np.float32]:
    """Run the float graph in PyTorch, row by row; give float32 (N, entries)."""
    import torch

    graph, contract = load_graph(folder), read_contract(folder)
    names = [spec.name for spec in contract.outputs]
    found = []
    with torch.no_grad():
        for row in rows:
            value = graph(*(torch.from_numpy(row[spec.name]) for spec in contract.inputs))
            values = value if isinstance(value, tuple | list) else (value,)
            given = {name: one.numpy() for name, one in zip(names, values, strict=True)}
            found.append(flat_outputs(given, names))
    return np.concatenate(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReady:
    """Make the plans that the formats choose from: all static, feed-forward outputs dynamic, all dynamic."""

    source: Source
    all_int8: bool
    given: Decisions | None

    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA,)
    gives: ClassVar[Kind] = Kind.QUANT_PLAN

    def config(self) -> Mapping[str, object]:
        given = self.given.digest if self.given else ""
        return {**_identity(self.source), "all_int8": self.all_int8, "given": given}

    def versions(self) -> tuple[str, ...]:
        return ("torch", "numpy")

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        """Write a folder for each candidate, with ``plan.json`` and the graph that it belongs to."""
        graph = _traced(self.source, free=True)
        rows = as_rows(graph, read_feeds(artifacts, "calibration").feeds, trim=self.source.longest > 2)
        kinds = {kind for _, kind, _ in layers(graph)}
        if not kinds - {"embedding"}:
            raise UsageError(
                "E0146", "the model has no linear or convolution layer", why="there is nothing to quantise"
            )
        modes = candidate_modes(graph, all_int8=self.all_int8)
        if self.given:
            wanted = {one.candidate for one in self.given.plans.values()}
            modes = {name: mode for name, mode in modes.items() if name in wanted}
        example = self.source.contract.example()
        notes = []
        for name, mode in modes.items():
            made = Planner(mode=mode, whole_network="conv" in kinds and not _has_norms(graph)).make(graph, rows)
            (into / name).mkdir()
            (into / name / PLAN_FILE).write_text(made.plan.to_json(), encoding="utf-8")
            save_graph(made.graph, example, into / name)
            save_trained(made.trained, into / name)
            kept = [technique.name for technique in made.plan.techniques if technique.kept]
            notes.append(f"{name} ({', '.join(kept) or 'no technique'})")
        return f"{len(made.plan.layers)} layers; plans: {'; '.join(notes)}"


def _has_norms(graph: Graph) -> bool:
    """Tell a transformer: between its layers stand operators whose int8 forms lose much and gain nothing on CPUs."""
    return any("layer_norm" in str(node.target) for node in graph.graph.nodes)


def candidate_modes(graph: Graph, *, all_int8: bool) -> dict[str, Callable[[str], Mode]]:
    """Give the mode of a layer by its path, for each candidate that makes sense for the graph.

    Grids that are measured at each run exist for linear layers on sequences, so a network without them has one
    candidate. A classifier's own head stays float.
    """
    loud, sequences = set(), set()
    for name, kind, node in layers(graph):
        before = node.all_input_nodes[0]
        if kind == "linear" and getattr(before.meta.get("val"), "ndim", 0) == 3:
            sequences.add(name)
            if str(before.target) == _GELU:
                loud.add(name)

    def with_dynamic(chosen: set[str]) -> Callable[[str], Mode]:
        def mode(path: str) -> Mode:
            if path in _HEADS:
                return Mode.FLOAT
            return Mode.DYNAMIC if path in chosen else Mode.STATIC

        return mode

    found = {"static": with_dynamic(set())}
    if not all_int8:
        if loud:
            found["mixed"] = with_dynamic(loud)
        if sequences:
            found["dynamic"] = with_dynamic(sequences)
    return found


def read_candidate(artifacts: Artifacts, name: str, given: Decisions | None, form: str) -> Planned:
    """Read a candidate; with decisions, the plan that they hold for the format, on the graph made just now."""
    from edgekit_converters.quantize.plan import QuantPlan

    folder = artifacts[Kind.QUANT_PLAN].path / name
    plan = QuantPlan.from_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
    if given is not None:
        plan = adopt(plan, given.plans[form].plan)  # type: ignore[index]
    return Planned(load_graph(folder), plan, load_trained(folder))
