"""Mixed precision: the fastest modes of all layers with which the simulated model stays inside its bound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.graph import Graph
from edgekit_converters.quantize.measure import Row, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_converters.quantize.search import fewest
from edgekit_runtime import statistics
from edgekit_runtime.errors import QualityError

__all__ = ["Bound", "Costs", "Found", "fastest", "kept_accuracy"]

Costs = Mapping[str, Mapping[Mode, float]]
"""CPU time in ms by layer and mode; a mode that is absent cannot be had."""
Modes = Mapping[str, Mode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a plan must keep.

    Attributes:
        measure: Closeness of int8 answers (second) to float ones (first), both (rows, ...); higher is better.
        least: Its smallest allowed value.
        unit: For messages.
    """

    measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
    least: float
    unit: str


def kept_accuracy(targets: NDArray[np.int64]) -> Callable[[NDArray[np.float64], NDArray[np.float64]], float]:
    """Give a measure for ``Bound``: accuracy of int8 answers minus that of float ones, in points; 0 or more = no loss.

    Args:
        targets: Right classes, int64 (rows,).
    """

    def measure(reference: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
        before, after = (statistics.accuracy(each.reshape(len(targets), -1), targets) for each in (reference, answers))
        return 100.0 * (after - before)

    return measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan that meets its bound.

    Attributes:
        plan: A layer whose mode is not the fastest says so in ``why``.
        moved: Layers that left their fastest mode, cheapest accuracy first.
        reached: Simulated closeness.
        cost_ms: Sum of the layers' costs.
    """

    plan: QuantPlan
    moved: tuple[str, ...]
    reached: float
    cost_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A step of one layer to a slower mode with less noise.

    Attributes:
        layer: Its name.
        mode: The slower mode.
        price: ms for each unit of noise power that goes.
    """

    layer: str
    mode: Mode
    price: float


def fastest(graph: Graph, plan: QuantPlan, rows: Sequence[Row], costs: Costs, bound: Bound) -> Found:
    """Find the modes with the least measured time that meet the bound.

    Each layer starts in its fastest mode. If that misses the bound, every layer and mode is simulated alone once, which
    gives its noise; the steps on the lower hull of (noise, time) are taken in the order of ms per noise, as the relaxed
    knapsack problem has it, and bisection finds how many are needed. Float counts as no faster than int8: it also costs
    size.

    Args:
        graph: The plan's float graph.
        plan: Of layers that are static wherever they can be; only layers in ``costs`` move.
        rows: Held-in rows.
        costs: Measured.
        bound: To keep.

    Raises:
        QualityError: No assignment meets the bound (E0303).

    Source:
        Dantzig 1957, "Discrete-Variable Extremum Problems" (the relaxed knapsack); Dong et al. 2020, HAWQ-V2, section
        3.2, for noise that adds up over layers.
    """
    reference = outputs(graph, rows)
    table = {name: _with_float(modes) for name, modes in costs.items()}

    def answers(modes: Modes) -> NDArray[np.float64]:
        return simulate(graph, _assigned(plan, modes), rows)

    def score(modes: Modes) -> float:
        return bound.measure(reference, answers(modes))

    first = {name: min(modes, key=lambda mode: modes[mode]) for name, modes in table.items()}
    reached = score(first)
    if reached >= bound.least:
        return Found(plan=_assigned(plan, first), moved=(), reached=reached, cost_ms=_total(first, table))
    silent = {layer.name: Mode.FLOAT for layer in plan.layers}
    moves = _moves(table, lambda name, mode: _noise(reference, answers({**silent, name: mode})))
    whole = score(_taken(first, moves))
    if not whole >= bound.least:
        raise _out_of_reach(bound, max(whole, reached), table)
    count = fewest(len(moves), lambda n: score(_taken(first, moves[:n])) >= bound.least)
    final = _taken(first, moves[:count])
    moved = tuple(dict.fromkeys(move.layer for move in moves[:count]))
    return Found(plan=_assigned(plan, final, moved), moved=moved, reached=score(final), cost_ms=_total(final, table))


def _out_of_reach(bound: Bound, best: float, table: Costs) -> QualityError:
    stuck = all(set(modes) == {Mode.STATIC} for modes in table.values())
    return QualityError(
        "E0303",
        f"no plan reaches {bound.least:g} {bound.unit}; the best has {best:.4g}",
        why="all layers must stay static int8" if stuck else "int8 costs more than the bound allows",
        fix="lower the bound" + (", or allow layers to leave static int8" if stuck else ""),
    )


def _with_float(modes: Mapping[Mode, float]) -> dict[Mode, float]:
    found = dict(modes)
    if Mode.FLOAT in found and len(found) > 1:
        found[Mode.FLOAT] = max(found.values()) * (1 + 1e-9)
    return found


def _total(modes: Modes, table: Costs) -> float:
    return sum(table[name][mode] for name, mode in modes.items())


def _moves(table: Costs, noise_of: Callable[[str, Mode], float]) -> list[_Move]:
    """Give the steps of all layers, cheapest accuracy first."""
    found = []
    for name, modes in table.items():
        if len(modes) > 1:
            noise = {mode: 0.0 if mode is Mode.FLOAT else noise_of(name, mode) for mode in modes}
            found += _hull(name, [(modes[mode], noise[mode], mode) for mode in modes])
    # A step of one layer never comes before its own earlier one: prices on a lower hull only rise.
    return sorted(found, key=lambda move: move.price)


def _noise(reference: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    return float(np.square(reference - answers).sum())


def _hull(layer: str, points: Sequence[tuple[float, float, Mode]]) -> list[_Move]:
    """Walk the lower hull of (noise, cost) from the cheapest point to the one with the least noise."""
    cost, power, _ = min(points, key=lambda point: (point[0], point[1]))
    moves: list[_Move] = []
    while True:
        better = [point for point in points if point[1] < power]
        if not better:
            return moves
        step = min(better, key=lambda point: ((point[0] - cost) / (power - point[1]), point[1]))
        moves.append(_Move(layer=layer, mode=step[2], price=max(0.0, (step[0] - cost) / (power - step[1]))))
        cost, power = step[0], step[1]


def _taken(first: Modes, moves: Sequence[_Move]) -> Modes:
    return {**first, **{move.layer: move.mode for move in moves}}


def _assigned(plan: QuantPlan, modes: Modes, moved: Sequence[str] = ()) -> QuantPlan:
    layers = tuple(
        _in_mode(layer, modes[layer.name], moved=layer.name in moved) if layer.name in modes else layer
        for layer in plan.layers
    )
    return replace(plan, layers=layers)


def _in_mode(layer: LayerPlan, mode: Mode, *, moved: bool) -> LayerPlan:
    if mode is layer.mode:
        return layer
    why = "its fastest mode costs too much accuracy" if moved else f"{mode.value} was measured to be the fastest here"
    scales = () if mode is Mode.FLOAT else layer.weight_scales
    return replace(layer, mode=mode, why=why, weight_scales=scales, input=None, output=None)
