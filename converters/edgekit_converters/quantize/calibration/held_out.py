"""Runs rows that were not calibrated on through a planned graph: which share of each grid's values is clipped?"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.coverage import CoverageObserver, CoverageReport, TensorCoverage
from edgekit_converters.quantize.calibration.rows import Row
from edgekit_converters.quantize.calibration.watch import watch
from edgekit_converters.quantize.graph import after_activation, layers
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.plan import Grid, QuantPlan
from edgekit_converters.quantize.planner import GELU, GELU_FLOOR

__all__ = ["COVERAGE_FILE", "HeldOut", "hold_out"]

COVERAGE_FILE = "coverage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What the held-out rows said.

    Attributes:
        rows: How many there were; 0 if every training row was calibrated on.
        report: Of all grids that were calibrated, named ``LAYER input`` and ``LAYER output``.
    """

    rows: int
    report: CoverageReport

    def line(self) -> str:
        """Give it in a few words."""
        if not self.rows:
            return "coverage unknown: every training row was calibrated on"
        worst = self.report.worst(1)
        clipped = f"at most {worst[0].fraction_clipped:.2%} clipped ({worst[0].name})" if worst else "nothing clipped"
        return f"{clipped} on {self.rows} held-out rows"

    def write(self, folder: Path) -> None:
        """Write ``coverage.json``."""
        content = {"schema": 1, "rows": self.rows, **self.report.as_json()}
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (folder / COVERAGE_FILE).write_text(text + "\n", encoding="utf-8")


def hold_out(graph: fx.GraphModule, plan: QuantPlan, rows: Iterable[Row]) -> HeldOut:
    """Count the values of held-out rows that the plan's grids clip.

    What a GELU alone reads is taken as -4 where it is lower: the plan clips it there on purpose, and the GELU turns
    all of it into 0.

    Args:
        graph: The plan's float graph.
        plan: Its static layers are looked at.
        rows: Neither calibrated on nor evaluation rows; one is in memory at a time.

    Raises:
        ConversionError: A value is not finite (E0740), or the model cannot run a row (E0736).
    """
    grids, floors = _grids(graph, plan)
    observers = {}
    for tensor, grid, _ in grids:
        observers[tensor] = CoverageObserver(Range(grid.low, grid.high), tensor)

    def look(name: str, values: Tensor) -> None:
        floor = floors.get(name)
        observers[name].update(values if floor is None else torch.clamp(values, min=floor))

    count = sum(1 for _ in watch(graph, rows, observers, look))
    found = {name: observer.coverage() for name, observer in observers.items()} if count else {}
    return HeldOut(rows=count, report=CoverageReport(tensors=_named(grids, found)))


def _grids(graph: fx.GraphModule, plan: QuantPlan) -> tuple[list[tuple[str, Grid, str]], dict[str, float]]:
    """Give tensor, grid and name of each calibrated grid, and the tensors that are clipped below on purpose."""
    by_name = {layer.name: layer for layer in plan.layers}
    grids: list[tuple[str, Grid, str]] = []
    floors: dict[str, float] = {}
    for name, _, node in layers(graph):
        layer, end = by_name[name], after_activation(node)
        if layer.input is not None:
            grids.append((str(node.args[0]), layer.input, f"{name} input"))
        if layer.output is not None:
            grids.append((end.name, layer.output, f"{name} output"))
            if len(end.users) == 1 and next(iter(end.users)).target is GELU:
                floors[end.name] = GELU_FLOOR
    return grids, floors


def _named(grids: Iterable[tuple[str, Grid, str]], found: Mapping[str, TensorCoverage]) -> tuple[TensorCoverage, ...]:
    """Name each tensor after the first layer that has it as input or output: several may read one."""
    names: dict[str, str] = {}
    for tensor, _, name in grids:
        names.setdefault(tensor, name)
    return tuple(replace(found[tensor], name=name) for tensor, name in names.items() if tensor in found)
