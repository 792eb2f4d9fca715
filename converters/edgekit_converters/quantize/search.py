"""Mixed precision: which layers cost the most, and the fewest that must leave static int8 for a bound to hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.graph import Graph
from edgekit_converters.quantize.measure import Row, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_runtime.errors import QualityError
from edgekit_runtime.statistics import sqnr_db

__all__ = ["Searched", "Sensitivity", "fewest", "relax", "sensitivity"]

_LOOSER: dict[Mode, Mode] = {Mode.STATIC: Mode.DYNAMIC, Mode.DYNAMIC: Mode.FLOAT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one layer alone costs when all others are float.

    Attributes:
        layer: PyTorch module path.
        sqnr_db: Of the model's output against float; low = sensitive.
        changed: Share of rows whose largest output is another one, a fraction.
    """

    layer: str
    sqnr_db: float
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A plan that meets its bound.

    Attributes:
        plan: The layers that were relaxed say so in ``why``.
        relaxed: Their names, most sensitive first.
        sqnr_db: Simulated.
    """

    plan: QuantPlan
    relaxed: tuple[str, ...]
    sqnr_db: float


def sensitivity(graph: Graph, plan: QuantPlan, rows: Sequence[Row]) -> tuple[Sensitivity, ...]:
    """Sweep over the layers: one simulated run of the rows for each; the most sensitive comes first.

    Args:
        graph: The plan's float graph.
        plan: Layers that are float already are left out.
        rows: Held-in rows.
    """
    reference = outputs(graph, rows)
    found = []
    for layer in plan.layers:
        if layer.mode is not Mode.FLOAT:
            alone = tuple(one if one is layer else replace(one, mode=Mode.FLOAT) for one in plan.layers)
            answers = simulate(graph, replace(plan, layers=alone), rows)
            found.append(
                Sensitivity(
                    layer=layer.name,
                    sqnr_db=round(sqnr_db(reference, answers), 2),
                    changed=_changed(reference, answers),
                )
            )
    return tuple(sorted(found, key=lambda one: (one.sqnr_db, one.layer)))


def _changed(reference: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    flat = [values.reshape(len(values), -1).argmax(1) for values in (reference, answers)]
    return float((flat[0] != flat[1]).mean())


def relax(
    graph: Graph, plan: QuantPlan, rows: Sequence[Row], *, min_sqnr_db: float, all_int8: bool = False
) -> Searched:
    """Find the fewest layers that must be relaxed for the simulated model to reach ``min_sqnr_db``.

    Layers leave static int8 in the order of their sensitivity, first for a grid that is measured at each run, then, if
    that is not enough for all of them, for float. Weights in fewer bits become int8 first. The number is found by
    bisection.

    Args:
        graph: The plan's float graph.
        plan: To start from.
        rows: Held-in rows.
        min_sqnr_db: The bound.
        all_int8: Nothing may be relaxed, as NPUs need it.

    Raises:
        QualityError: No plan reaches the bound (E0303).
    """
    reference = outputs(graph, rows)

    def score(candidate: QuantPlan) -> float:
        return sqnr_db(reference, simulate(graph, candidate, rows))

    reached = score(plan)
    if reached >= min_sqnr_db:
        return Searched(plan=plan, relaxed=(), sqnr_db=reached)
    given = plan
    order = [one.layer for one in sensitivity(graph, plan, rows)]
    for _ in () if all_int8 else range(len(_LOOSER)):
        movable = [name for name in order if _can_move(plan.layer(name))]
        whole = score(_moved(plan, movable))
        if whole >= min_sqnr_db:
            least = fewest(len(movable), lambda n, p=plan, m=movable: score(_moved(p, m[:n])) >= min_sqnr_db)  # type: ignore[misc]
            final = _moved(plan, movable[:least])
            changed = tuple(name for name in order if final.layer(name) != given.layer(name))
            return Searched(plan=final, relaxed=changed, sqnr_db=score(final))
        plan, reached = _moved(plan, movable), max(reached, whole)
    raise QualityError(
        "E0303",
        f"no plan reaches {min_sqnr_db:g} dB; the best has {reached:.1f} dB",
        why="all layers must stay int8" if all_int8 else "int8 weights alone cost more than the bound allows",
        fix="lower quantize.min_sqnr_db" + (", or allow layers to leave static int8" if all_int8 else ""),
    )


def _can_move(layer: LayerPlan) -> bool:
    return layer.is_coded or (layer.kind != "embedding" and layer.mode in _LOOSER)


def _moved(plan: QuantPlan, names: Sequence[str]) -> QuantPlan:
    chosen = set(names)
    return replace(plan, layers=tuple(_looser(one) if one.name in chosen else one for one in plan.layers))


def _looser(layer: LayerPlan) -> LayerPlan:
    if layer.is_coded:
        mode = layer.mode if layer.kind == "embedding" else Mode.DYNAMIC
        return replace(layer, mode=mode, why="fewer bits here cost too much accuracy", scheme=None, coded=None)
    # The kernels for grids measured at each run are those of linear layers; a convolution goes straight to float.
    mode = _LOOSER[layer.mode] if layer.kind == "linear" else Mode.FLOAT
    if mode is Mode.FLOAT:
        return replace(
            layer, mode=mode, why="int8 here costs too much accuracy", weight_scales=(), input=None, output=None
        )
    why = "a calibrated grid here costs too much accuracy; it is measured at each run"
    return replace(layer, mode=mode, why=why, input=None, output=None)


def fewest(most: int, enough: Callable[[int], bool]) -> int:
    """Give the smallest count from 1 to ``most`` that is enough, taking it that more never hurts."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
