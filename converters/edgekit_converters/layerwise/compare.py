"""Compares an int8 network with float layer by layer, over rows, in as little RAM as it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.capture import Store, capture
from edgekit_converters.layerwise.expected import Expected, expected_layer, expected_table, expected_tensor, step_of
from edgekit_converters.layerwise.judge import Evidence, judge
from edgekit_converters.layerwise.network import Array, Part, TensorGrid, cut
from edgekit_converters.layerwise.result import LayerRow
from edgekit_converters.layerwise.sums import ErrorSums, InputSums
from edgekit_converters.layerwise.units import Twin, Unit
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid
from edgekit_runtime.errors import UsageError

__all__ = ["Room", "compare_layers", "feed", "real_positions"]

_LEVELS = {8: 255, 16: 65534}


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a comparison may take.

    Attributes:
        ram_bytes: For one piece of a network and what is captured in it.
        disk_bytes: For captured tensors; more rows than fit are done in turns.
        folder: Where they lie; the caller removes it.
    """

    ram_bytes: int
    disk_bytes: int
    folder: Path


def compare_layers(
    twin: Twin, rows: Sequence[Mapping[str, Array]], room: Room, *, mask: str | None = None
) -> tuple[LayerRow, ...]:
    """Give one row for each unit, in order of execution.

    Args:
        twin: Both networks.
        rows: Inputs by name of the float file's tensors.
        room: RAM and disk.
        mask: Input, int (1, L), that is 0 at the padding of a text. What stands there is masked out of every answer,
            and calibration does not see it, so that no figure counts it.

    Raises:
        UsageError: There is no row (E0175).
    """
    if not rows:
        raise UsageError("E0175", "there are no rows to compare layers on", fix="give at least one row")
    measured = [_Measured(twin, unit) for unit in twin.units]
    block = _block(twin, room)
    for start in range(0, len(rows), block):
        _take(twin, measured, rows[start : start + block], room, mask)
    return tuple(one.row() for one in measured)


def _wanted(twin: Twin) -> tuple[list[str], list[str]]:
    """Give the tensors to capture in the float and in the int8 network."""
    ours = [pair.reference for unit in twin.units for pair in (*unit.sources, unit.target)]
    theirs = [twin.shown(unit) for unit in twin.units]
    return list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))


def _block(twin: Twin, room: Room) -> int:
    ours, theirs = _wanted(twin)
    size = sum(map(twin.reference.size, ours)) + sum(map(twin.lane.size, theirs))
    return max(1, room.disk_bytes // max(1, size))


def _take(
    twin: Twin, measured: "list[_Measured]", rows: Sequence[Mapping[str, Array]], room: Room, mask: str | None
) -> None:
    """Run some rows through both networks, then every unit on its own."""
    ours, theirs = _wanted(twin)
    stores = Store(room.folder / "float"), Store(room.folder / "int8")
    capture(twin.reference, rows, ours, stores[0], budget_bytes=room.ram_bytes)
    names = dict(zip(twin.reference.inputs, twin.lane.inputs, strict=True))
    renamed = [{names[name]: value for name, value in row.items()} for row in rows]
    capture(twin.lane, renamed, theirs, stores[1], budget_bytes=room.ram_bytes)
    for one in measured:
        part = twin.lane.part([pair.lane for pair in one.unit.sources], [one.shown])
        for number, row in enumerate(rows):
            one.add(part, stores, number, None if mask is None else row[mask].ravel() != 0)
        part.close()
    for store in stores:
        store.clear()


def real_positions(values: Array, real: NDArray[np.bool_] | None) -> Array:
    """Leave padding out of a tensor (1, L, ...) or (L, ...); all others stay as they are."""
    if real is None or real.all():
        return values
    if values.ndim >= 3 and values.shape[:2] == (1, len(real)):
        return values[:, real]
    return values[real] if values.ndim == 2 and len(values) == len(real) else values


def feed(twin: Twin, unit: Unit, values: Sequence[Array]) -> list[Array]:
    """Turn float values of a unit's sources into what the int8 file takes there: codes on the file's own grid."""
    grids = [twin.lane.grid(pair.lane) for pair in unit.sources]
    return [value if grid is None else grid.quantise(value) for value, grid in zip(values, grids, strict=True)]


class _Measured:
    """The sums of one unit."""

    def __init__(self, twin: Twin, unit: Unit) -> None:
        self.unit, self._twin = unit, twin
        self.shown = twin.shown(unit)
        self._grid = twin.lane.grid(self.shown)
        self._given_grid = twin.lane.read_grid(unit.sources[0].lane) if unit.layer is not None else None
        self._local: ErrorSums | None = None
        self._inherited: ErrorSums | None = None
        self._given: InputSums | None = None

    def _axis(self, value: Array) -> int:
        """Give the dimension that counts channels."""
        return 1 if value.ndim == 4 and not self._twin.lane.channels_last else -1

    def add(self, part: Part, stores: tuple[Store, Store], row: int, real: NDArray[np.bool_] | None) -> None:
        """Run the unit on a row of the float network, and compare that and the int8 network's own output."""
        values = [stores[0].get(pair.reference, row) for pair in self.unit.sources]
        wanted = stores[0].get(self.unit.target.reference, row)
        if self._local is None or self._inherited is None:
            self._local, self._inherited = ErrorSums(self._axis(wanted)), ErrorSums(self._axis(wanted))
            if self.unit.layer is not None and self.unit.kind != "embedding":
                self._given = InputSums(self._axis(values[0]))
        if self._given is not None:
            # A grid that is measured at each run has to hold the padding, too.
            measured = self.unit.layer is not None and self.unit.layer.mode is Mode.DYNAMIC
            self._given.add(values[0] if measured else real_positions(values[0], real), self._given_grid)
        alone = part.run(feed(self._twin, self.unit, values))[0]
        kept = self._floored(real_positions(wanted, real))
        for sums, found in ((self._local, alone), (self._inherited, stores[1].get(self.shown, row))):
            codes = real_positions(found.reshape(wanted.shape), real)
            floats = codes if self._grid is None else self._grid.dequantise(codes)
            sums.add(kept, self._floored(floats), codes=None if self._grid is None else codes, grid=self._grid)

    def _floored(self, values: Array) -> Array:
        floor = self.unit.floor
        return values if floor is None else np.maximum(values, np.float32(floor))

    def row(self) -> LayerRow:
        """Give the figures and the verdict."""
        local, inherited = self._local, self._inherited
        assert local is not None
        assert inherited is not None
        expected = self._expected(local)
        evidence = Evidence(
            local=local,
            given=self._given,
            expected=expected,
            grids=tuple(self._grids()),
            weights=self._weights(),
            between=self.unit.layer is None,
        )
        verdict = judge(evidence)
        shares = [one.saturation for one in (inherited, self._given) if one is not None and one.saturation is not None]
        signal = float(local.signal.sum())
        return LayerRow(
            module=self.unit.module,
            kind=self.unit.kind,
            mode=self.unit.mode,
            local=local.figures(self._grid),
            inherited=inherited.figures(self._grid),
            expected_db=None if expected is None else expected.sqnr_db(signal, local.count),
            saturation=max(shares) if shares else None,
            reason=None if verdict is None else verdict.reason,
            note="" if verdict is None else verdict.note,
            reference=self.unit.target.reference,
            tensor=self.unit.target.lane,
        )

    def _expected(self, local: ErrorSums) -> Expected | None:
        """Predict the noise of a sound layer; None where float meets float."""
        layer = self.unit.layer
        if layer is None:
            return expected_tensor(local, levels=_LEVELS[8]) if self._is_gridded() else None
        if layer.mode is Mode.FLOAT:
            return None
        if layer.kind == "embedding":
            return expected_table(local)
        weight = self._float_weight()
        if weight is None or self._given is None or layer.is_coded:
            return expected_tensor(local, levels=15)  # weights of few bits: what four bits would keep
        levels = _LEVELS[8 if layer.input is None else layer.input.bits]
        steps = [step_of(self._given, levels), step_of(local, levels) if self._grid is not None else None]
        if self._is_repeated and layer.input is not None and layer.output is not None:
            # The steps of a recurrent network share one grid, of which a single one uses a part.
            steps = [max(steps[0] or 0.0, layer.input.scale), layer.output.scale if steps[1] else None]
        return expected_layer(weight, self._given, input_step=steps[0] or 0.0, output_step=steps[1])

    @property
    def _is_repeated(self) -> bool:
        """Tell whether the layer runs several times for one answer."""
        return sum(unit.layer is self.unit.layer for unit in self._twin.units) > 1

    def _is_gridded(self) -> bool:
        """Tell whether integers stand between a unit's sources and its target."""
        lane, unit = self._twin.lane, self.unit
        between = cut(lane, [self.shown], [pair.lane for pair in unit.sources])
        made = [tensor for number in between.steps for tensor in lane.steps[number].makes]
        return any(lane.grid(tensor) is not None for tensor in (*made, *(pair.lane for pair in unit.sources)))

    def _float_weight(self) -> NDArray[np.float32] | None:
        pair, target = self.unit.sources[0], self.unit.target
        return self._twin.reference.weights([pair.reference], target.reference)

    def _weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        layer = self.unit.layer
        if layer is None or not layer.is_int8 or layer.kind == "embedding":
            return None
        ours = self._float_weight()
        theirs = self._twin.lane.weights([self.unit.sources[0].lane], self.unit.target.lane)
        return None if ours is None or theirs is None else (ours, theirs)

    def _grids(self) -> list[tuple[str, Grid, TensorGrid]]:
        layer = self.unit.layer
        if layer is None:
            return []
        sides = (("input", layer.input, self._given_grid), ("output", layer.output, self._grid))
        return [(side, planned, held) for side, planned, held in sides if planned is not None and held is not None]
