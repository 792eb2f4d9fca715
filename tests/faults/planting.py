"""Ways to plant a fault: into the bytes of a finished bundle, or into the quantisation that made it."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgekit.lanes.local import run_engine_lane
from edgekit.lanes.models import bundle_lane
from edgekit.quantise_only.quantise import form_lane
from edgekit.quantise_only.stages import read_contract
from edgekit.stages import model_entries, npy_bytes
from edgekit_converters.quantize.graph import Graph, load_graph
from edgekit_converters.quantize.measure import Measured
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.planner import Planned, Planner
from edgekit_runtime.bundle import Bundle, verify, write_bundle
from edgekit_runtime.manifest import ModelEntry, Runtime

FORMS = {"onnx": ("onnxruntime", "model.onnx"), "tflite": ("litert", "model.tflite")}
Ranges = Callable[[Graph, Iterable[tuple[torch.Tensor, ...]]], dict[str, Measured]]


def members_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.read(name) for name in bundle.names}


def repacked(
    path: Path, folder: Path, changed: Mapping[str, bytes], *, models: Mapping[Runtime, ModelEntry] | None = None
) -> Path:
    """Write the bundle anew with other members, so that it verifies; the lanes that the build kept stay beside it."""
    bundle = verify(path)
    manifest = bundle.manifest
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    kept = target.with_suffix(".lanes")
    if not kept.exists():
        shutil.copytree(path.with_suffix(".lanes"), kept)
    write_bundle(
        target,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        target=manifest.target,
        models=models or manifest.models,
        members={**members_of(bundle), **changed},
    )
    return target


def naive_planner(**settings: object) -> Planner:
    """Give a planner without the techniques that would mend what is planted."""
    return Planner(
        mode=lambda path: Mode.FLOAT if path == "classifier" else Mode.STATIC,
        whole_network=True,
        techniques=False,
        **settings,
    )


def requantised(
    path: Path,
    folder: Path,
    planner: Planner,
    *,
    ranges: Ranges | None = None,
    change: Callable[[Graph], None] | None = None,
    edit: Callable[[QuantPlan], QuantPlan] | None = None,
) -> Path:
    """Build both int8 files of a ready model again, with a mistake, and pack them as a build does.

    Args:
        path: The healthy bundle.
        folder: Of the new one.
        planner: With settings of which one may be wrong.
        ranges: Calibrate by this in place of minimum and maximum.
        change: Spoil the float graph before it is quantised.
        edit: Spoil the plan before it is written.
    """
    from edgekit_converters.quantize import planner as planner_module
    from edgekit_converters.quantize.measure import as_rows
    from edgekit_converters.quantize.write import write_onnx, write_tflite

    folder.mkdir(parents=True)
    kept = (folder / path.name).with_suffix(".lanes")
    shutil.copytree(path.with_suffix(".lanes"), kept)
    graph, contract = load_graph(kept / "ready"), read_contract(kept / "ready")
    arrays = {file.stem: np.load(file) for file in (kept / "data/calibration").glob("*.npy")}
    feeds = single_rows(arrays)
    rows = as_rows(graph, feeds, trim=False)
    if change is not None:
        change(graph)
    with pytest.MonkeyPatch.context() as patch:
        if ranges is not None:
            patch.setattr(planner_module, "measure", lambda graph, rows, **_: ranges(graph, rows))
        made: Planned = planner.make(graph, rows)
    if edit is not None:
        made = replace(made, plan=edit(made.plan))
    for form in FORMS:
        shutil.rmtree(kept / f"{form}-int8")
        (kept / f"{form}-int8").mkdir()
    write_onnx(made, contract, kept / "onnx-int8/model.onnx", activations="uint8", opset=20)
    write_tflite(made, contract, kept / "tflite-int8/model.tflite", feeds)
    text = made.plan.to_json().encode()
    for form in FORMS:
        (kept / f"{form}-int8/plan.json").write_bytes(text)
    return as_built(path, folder, {"plan.json": text})


def single_rows(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def as_built(path: Path, folder: Path, changed: Mapping[str, bytes]) -> Path:
    """Pack the int8 files of the kept lanes, with the answers to the goldens that they themselves give."""
    kept = (folder / path.name).with_suffix(".lanes")
    files = {file: (kept / f"{form}-int8" / file).read_bytes() for form, (_, file) in FORMS.items()}
    contract = read_contract(kept / "ready")
    lanes = [
        form_lane(f"{form}-int8", form, kept / f"{form}-int8" / file, contract) for form, (_, file) in FORMS.items()
    ]
    fresh = repacked(path, folder, {**files, **changed}, models=model_entries(lanes))
    bundle = verify(fresh)
    entry = bundle.manifest.models["litert"]
    inputs = {spec.name: bundle.npy(f"golden/{spec.name}.npy") for spec in entry.inputs}
    rows = single_rows(inputs)
    goldens = {
        f"golden/{runtime}.npy": npy_bytes(run_engine_lane(bundle_lane(bundle, fresh, f"{form}-int8"), rows))
        for form, (runtime, _) in FORMS.items()
    }
    return repacked(fresh, folder, goldens)


def per_tensor(name: str) -> Callable[[QuantPlan], QuantPlan]:
    """Give one layer a single scale for all its channels, that of the loudest."""

    def edit(plan: QuantPlan) -> QuantPlan:
        layers = [
            replace(layer, weight_scales=(max(layer.weight_scales),)) if layer.name == name else layer
            for layer in plan.layers
        ]
        return replace(plan, layers=tuple(layers))

    return edit


def observed_ranges(look: Callable[[list[np.ndarray]], tuple[float, float]]) -> Ranges:
    """Give ranges that ``look`` chooses from the values of a tensor in each row."""
    from edgekit_converters.quantize.calibration.run import _tensors
    from edgekit_converters.quantize.calibration.watch import watch
    from edgekit_converters.quantize.grid import Range

    def measure(graph, rows):
        seen: dict[str, list[np.ndarray]] = {}
        axes = _tensors(graph, None)
        for _ in watch(graph, rows, axes, lambda name, values: seen.setdefault(name, []).append(values.numpy().copy())):
            pass
        return {name: Measured(Range(*look(values)), torch.zeros(0)) for name, values in seen.items()}

    return measure


def moving_average(values: list[np.ndarray]) -> tuple[float, float]:
    """Average the ends over rows as ai-edge-quantizer's default does: the newest counts 5 %."""
    low, high = float(values[0].min()), float(values[0].max())
    for row in values[1:]:
        low, high = 0.95 * low + 0.05 * float(row.min()), 0.95 * high + 0.05 * float(row.max())
    return low, high


def percentile(share: float) -> Callable[[list[np.ndarray]], tuple[float, float]]:
    """Keep ``share`` percent of the values, cut half of the rest at either end."""

    def ends(values: list[np.ndarray]) -> tuple[float, float]:
        flat = np.concatenate([row.ravel() for row in values])
        low, high = np.percentile(flat, [(100 - share) / 2, (100 + share) / 2])
        return float(low), float(high)

    return ends


def unclipped_mask(graph: Graph) -> None:
    """Put the mask of padding back to the least float32, as transformers has it."""
    found = [node for node in graph.graph.nodes if -50.0 in node.args]
    assert len(found) == 1
    found[0].args = tuple(float(np.finfo(np.float32).min) if value == -50.0 else value for value in found[0].args)
    graph.recompile()


def onnx_constants(content: bytes) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    model = onnx.load_from_string(content)
    return model, {one.name: one for one in model.graph.initializer}


def set_constant(held: onnx.TensorProto, values: np.ndarray) -> None:
    held.CopyFrom(numpy_helper.from_array(values, held.name))


def flipped_onnx(content: bytes, constant: str, place: int) -> bytes:
    """Flip the highest bit of one int8 code."""
    model, constants = onnx_constants(content)
    codes = numpy_helper.to_array(constants[constant]).copy()
    codes.view(np.uint8).reshape(-1)[place] ^= 0x80
    set_constant(constants[constant], codes)
    return model.SerializeToString()


def scaled_onnx(content: bytes, constants: Iterable[str], channel: int, factor: float) -> bytes:
    """Multiply the scale of one channel in several constants."""
    model, held = onnx_constants(content)
    for name in constants:
        scales = numpy_helper.to_array(held[name]).copy()
        scales[channel] *= factor
        set_constant(held[name], scales)
    return model.SerializeToString()


def doubled_tflite(content: bytes, layer: int) -> bytes:
    """Double the scale of the weights and of the bias of a layer, counted in order of execution, in place."""
    from ai_edge_litert import schema_py_generated as schema

    held = bytearray(content)
    graph = schema.Model.GetRootAs(held, 0).Subgraphs(0)
    places = []
    for number in range(graph.OperatorsLength()):
        inputs = graph.Operators(number).InputsAsNumpy()
        if len(inputs) == 3 and inputs[2] >= 0 and graph.Tensors(inputs[2]).Type() == schema.TensorType.INT32:
            places.append(inputs[1:])
    for tensor in places[layer]:
        scales = graph.Tensors(tensor).Quantization().ScaleAsNumpy()  # a view into the bytes
        scales *= 2
    return bytes(held)
