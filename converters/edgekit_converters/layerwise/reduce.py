"""Makes the smallest model and input that still show a fault: one layer or operator, one row, plain files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.capture import Store, capture
from edgekit_converters.layerwise.compare import Room, compare_layers, feed, real_positions
from edgekit_converters.layerwise.network import Array, cut
from edgekit_converters.layerwise.places import Form
from edgekit_converters.layerwise.result import LayerRow
from edgekit_converters.layerwise.show import SHOW
from edgekit_converters.layerwise.tflite_network import TfliteNetwork, paired_steps
from edgekit_converters.layerwise.units import Pair, Twin, Unit

__all__ = ["Reduced", "WorstRow", "narrow", "worst_row", "write_reduced"]

Rows = Sequence[Mapping[str, Array]]
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """What was written.

    Attributes:
        module: Layer, or ``before MODULE``.
        operators: Those of the int8 file, in order of execution.
        row: Number of the row with the most noise.
        of_rows: Rows that were looked at.
        files: In order of interest.
    """

    module: str
    operators: tuple[str, ...]
    row: int
    of_rows: int
    files: tuple[Path, ...]


def narrow(twin: Twin, faulty: Unit, rows: Rows, room: Room, *, mask: str | None) -> Unit:
    """Give the first operator of a unit between layers that is out of line by itself; a layer is one already."""
    if faulty.layer is not None:
        return faulty
    singles = tuple(_operators(twin, faulty))
    if len(singles) < 2:
        return faulty
    found = compare_layers(replace(twin, units=singles), rows, room, mask=mask)
    places = [number for number, row in enumerate(found) if row.reason is not None]
    return singles[places[0]] if places else faulty


def _operators(twin: Twin, faulty: Unit) -> Iterator[Unit]:
    """Give each operator between a unit's sources and its target as a unit, fed with the float network's tensors."""
    lane = twin.lane
    named = {pair.lane: pair.reference for pair in faulty.sources}
    counterparts = _counterparts(twin)
    between = cut(lane, [faulty.target.lane], [pair.lane for pair in faulty.sources])
    for number in between.steps:
        step = lane.steps[number]
        if step.kind in _CONVERSIONS:
            if step.reads and step.reads[0] in named:
                named[step.makes[0]] = named[step.reads[0]]
            continue
        same = counterparts.get(step.makes[0])
        if same is not None and step.reads and all(tensor in named for tensor in step.reads):
            sources = tuple(Pair(named[tensor], tensor) for tensor in step.reads)
            yield Unit(module=faulty.module, kind="between", sources=sources, target=Pair(same, step.makes[0]))
        if same is not None:
            named[step.makes[0]] = same


def _counterparts(twin: Twin) -> dict[str, str]:
    """Give the float file's name of each tensor of the int8 file that it holds, too."""
    if isinstance(twin.lane, TfliteNetwork) and isinstance(twin.reference, TfliteNetwork):
        pairs = paired_steps(twin.reference, twin.lane)
        return {
            theirs: ours
            for number, other in pairs.items()
            for ours, theirs in zip(twin.reference.steps[number].makes, twin.lane.steps[other].makes, strict=True)
        }
    held = {tensor for step in twin.lane.steps for tensor in step.makes}
    return {name: name for step in twin.reference.steps for name in step.makes if name in held}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """The row that shows a fault best.

    Attributes:
        row: Its number, from 0.
        of_rows: Rows that were looked at.
        given: What the float network computes up to the fault.
        taken: The same as the int8 file takes it.
        expected: What the float network makes of it.
        measured: What the int8 file makes of it, as floats.
        counts: Entries that are no padding.
    """

    row: int
    of_rows: int
    given: list[Array]
    taken: list[Array]
    expected: Array
    measured: Array
    counts: NDArray[np.bool_]


def worst_row(twin: Twin, faulty: Unit, rows: Rows, room: Room, *, mask: str | None) -> WorstRow:
    """Run every row through what ``narrow`` gave and keep the one with the most noise; NaN is more than any."""
    store = Store(room.folder / "reduce")
    names, target = [pair.reference for pair in faulty.sources], faulty.target.reference
    capture(twin.reference, rows, [*names, target], store, budget_bytes=room.ram_bytes)
    shown = twin.shown(faulty)
    part, grid = twin.lane.part([pair.lane for pair in faulty.sources], [shown]), twin.lane.grid(shown)
    found: WorstRow | None = None
    most = -1.0
    for number, row in enumerate(rows):
        given, expected = [store.get(name, number) for name in names], store.get(target, number)
        taken = feed(twin, faulty, given)
        codes = part.run(taken)[0].reshape(expected.shape)
        measured = codes if grid is None else grid.dequantise(codes)
        counts = _counting(expected, None if mask is None else row[mask].ravel() != 0)
        noise = _noise(faulty, expected, measured, counts)
        if noise > most:
            most = noise
            found = WorstRow(
                row=number,
                of_rows=len(rows),
                given=given,
                taken=taken,
                expected=expected,
                measured=measured,
                counts=counts,
            )
    part.close()
    assert found is not None
    return found


def write_reduced(twin: Twin, faulty: Unit, told: LayerRow, worst: WorstRow, into: Path, *, form: Form) -> Reduced:
    """Write model, float model, input, both outputs and a script that shows the fault with an engine and numpy alone.

    Args:
        twin: Both networks.
        faulty: What ``narrow`` gave.
        told: What the comparison says of it.
        worst: From ``worst_row``.
        into: An empty folder.
        form: Of the files.
    """
    sources, shown = [pair.lane for pair in faulty.sources], twin.shown(faulty)
    settings: dict[str, Array] = {}
    grid = twin.lane.grid(shown)
    if grid is not None:
        settings |= {"scale": np.array(grid.scale, np.float32), "zero_point": np.array(grid.zero_point, np.int32)}
    if faulty.floor is not None:
        settings["floor"] = np.array(faulty.floor, np.float32)
    inputs = {f"model_{i}": value for i, value in enumerate(worst.taken)}
    references = [pair.reference for pair in faulty.sources]
    files: dict[str, bytes] = {
        f"model.{form}": twin.lane.part_bytes(sources, [shown]),
        f"reference.{form}": twin.reference.part_bytes(references, [faulty.target.reference]),
        "show.py": SHOW[form].encode(),
    }
    arrays: dict[str, dict[str, Array]] = {
        "inputs.npz": inputs | {f"reference_{i}": value for i, value in enumerate(worst.given)},
        "expected.npz": {"expected": worst.expected, "counts": worst.counts},
        "measured.npz": {"measured": worst.measured, **settings},
    }
    for name, content in files.items():
        (into / name).write_bytes(content)
    for name, held in arrays.items():
        np.savez(into / name, **held)  # type: ignore[arg-type]
    steps = cut(twin.lane, [shown], sources).steps
    reduced = Reduced(
        module=faulty.module,
        operators=tuple(twin.lane.steps[number].kind for number in steps),
        row=worst.row,
        of_rows=worst.of_rows,
        files=tuple(into / name for name in ("README.txt", *files, *arrays)),
    )
    (into / "README.txt").write_text(_readme(reduced, told, form), encoding="utf-8")
    return reduced


def _counting(values: Array, real: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Tell which entries are not padding."""
    counts = np.zeros(values.size, np.bool_)
    counts[real_positions(np.arange(values.size).reshape(values.shape), real).ravel()] = True
    return counts.reshape(values.shape)


def _noise(unit: Unit, expected: Array, measured: Array, counts: NDArray[np.bool_]) -> float:
    """Give the noise of a row; infinity where something is not finite."""
    ours, theirs = (values[counts].astype(np.float64) for values in (expected, measured))
    if unit.floor is not None:
        ours, theirs = np.maximum(ours, unit.floor), np.maximum(theirs, unit.floor)
    noise = float(np.square(ours - theirs).sum())
    return noise if np.isfinite(noise) else np.inf


def _readme(reduced: Reduced, told: LayerRow, form: Form) -> str:
    return f"""{told.module}: {told.reason}
{told.note}

model.{form}      what the int8 file holds for it: {", ".join(reduced.operators)}
reference.{form}  the same in float
inputs.npz     inputs of both: model_0 ... and reference_0 ..., what the float network computes up to here
expected.npz   what reference.{form} gives, and which entries count (padding does not)
measured.npz   what model.{form} gave, turned into floats; scale and zero point, if it gives codes

Of {reduced.of_rows} rows the one with the most noise is kept: number {reduced.row}, counted from 0.
`python show.py` in this folder runs both models and prints how far they are apart. It needs numpy and
{"onnxruntime" if form == "onnx" else "ai-edge-litert"}:

{SHOW[form]}"""
