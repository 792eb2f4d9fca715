"""Plans a transformer for NPUs: every operator reads and gives integers, layer norm, softmax and GELU too.

The residual stream decides: its outliers cost int8 per tensor most. Either its ranges are cut where the next layer norm
does not see it, or it is given 16 bits.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, parameter
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import Row, measure, outputs
from edgekit_converters.quantize.plan import Technique
from edgekit_converters.quantize.ranges_ln import float_sums, norm_aware_grids
from edgekit_converters.quantize.techniques.smooth import smooth_norms
from edgekit_converters.quantize.techniques.split import split_outliers
from edgekit_converters.quantize.whole_graph import VIEWS, branch_norms, fold_score_scale, residual_tensors
from edgekit_converters.quantize.whole_plan import Residual, TensorGrid, WholePlan, grid_between, grid_of_constant
from edgekit_converters.quantize.whole_rotate import rotate_residual
from edgekit_converters.quantize.whole_simulate import simulate_whole
from edgekit_runtime.errors import ConversionError, UsageError
from edgekit_runtime.statistics import sqnr_db

__all__ = ["WholePlanned", "WholePlanner"]

_ATEN = torch.ops.aten
_GAIN_DB = 0.1  # less is noise of the rows
_GELU_FLOOR = -4.0  # GELU(-4) is -1.3e-4
_MASK_ROOM = 6.0  # below the smallest real score: exp(-6) of the largest is half a step of softmax at most
_SOFTMAX = TensorGrid(scale=1 / 256, zero_point=-128)  # what integer softmax operators give


@dataclass(frozen=True, slots=True)
class WholePlanned:
    """A plan and the rewritten float graph that it belongs to."""

    graph: Graph
    plan: WholePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class WholePlanner:
    """Settings of a plan.

    Attributes:
        residual: Bits of the residual stream: ``int8`` or ``int16``.
        techniques: Try them; off for measurements of a naive plan.
        judged_rows: Calibration rows that techniques are judged on.
    """

    residual: Residual = "int8"
    techniques: bool = True
    judged_rows: int = 32

    def make(self, graph: Graph, rows: Sequence[Row], padded: Row) -> WholePlanned:
        """Make the plan.

        Args:
            graph: From ``trace``; left as it is.
            rows: Calibration rows without padding.
            padded: One row of full length with padding: what is computed from the mask alone is measured on it.

        Raises:
            UsageError: There is no row (E0133).
            ConversionError: A value is not finite (E0776).
        """
        if not rows:
            raise UsageError("E0133", "there are no calibration rows", fix="give at least 1; 256 is a good number")
        judged = rows[:: max(1, len(rows) // self.judged_rows)][: self.judged_rows]
        reference = outputs(graph, judged)
        plain = copy.deepcopy(graph)
        fold_score_scale(plain)

        def score(made: WholePlanned) -> float:
            return sqnr_db(reference, simulate_whole(made.graph, made.plan, judged))

        best = self._plan(plain, rows, padded)
        reached = score(best)
        tried: list[Technique] = []
        for name, source, change in _TECHNIQUES if self.techniques else ():
            made = change(self, best, _Rows(rows, judged, padded))
            if made is None:
                continue
            after = score(made)
            kept = after > reached + _GAIN_DB
            before, told = round(reached, 2), round(after, 2)
            tried.append(Technique(name=name, source=source, sqnr_before_db=before, sqnr_after_db=told, kept=kept))
            if kept:
                best, reached = made, after
        return WholePlanned(best.graph, replace(best.plan, techniques=tuple(tried)))

    def rewritten(
        self, graph: Graph, rows: "_Rows", rewrite: Callable[[Graph, Sequence[Row]], int]
    ) -> "WholePlanned | None":
        """Plan a rewritten copy of a graph, ranges included; None if there was nothing to rewrite."""
        candidate = copy.deepcopy(graph)
        if rewrite(candidate, rows.all) == 0:
            return None
        made = self._plan(candidate, rows.all, rows.padded)
        return _aware(self, made, rows) or made

    def _plan(self, graph: Graph, rows: Sequence[Row], padded: Row) -> WholePlanned:
        seen = _seen(graph, rows)
        masks = _seen(graph, [padded])
        wide = set(residual_tensors(graph)) if self.residual == "int16" else set()
        of_words = _from_words(graph)
        tensors: dict[str, TensorGrid] = {}
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                grid = _constant_grid(graph, node, wide=bool(wide))
            elif node.name not in seen or node.target in VIEWS:
                continue
            elif not of_words[node]:
                grid = _exact(masks[node.name])
            else:
                grid = self._computed(node, seen[node.name], of_words, 16 if node.name in wide else 8)
            if grid is not None:
                tensors[node.name] = grid
        for node in graph.graph.nodes:
            if node.target is _ATEN.embedding.default:  # rows of a table stand on its grid
                tensors[node.name] = tensors[str(node.args[0])]
        return WholePlanned(graph, WholePlan(residual=self.residual, tensors=tensors, techniques=()))

    def _computed(
        self, node: fx.Node, seen: Range, of_words: Mapping[fx.Node, bool], bits: Literal[8, 16]
    ) -> TensorGrid:
        if node.target is _ATEN.softmax.int:
            return _SOFTMAX
        low, high = seen.low, seen.high
        sides = [side for side in node.args[:2] if isinstance(side, fx.Node) and side.op == "call_function"]
        if any(user.target is _ATEN.softmax.int for user in node.users) and not all(of_words[side] for side in sides):
            low -= _MASK_ROOM  # padding may saturate there
        if len(node.users) == 1 and next(iter(node.users)).target is _ATEN.gelu.default:
            low = min(max(low, _GELU_FLOOR), high)
        return grid_between(low, high, bits=bits)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Calibration rows, those that techniques are judged on, and one with padding."""

    all: Sequence[Row]
    judged: Sequence[Row]
    padded: Row


def _rotate(planner: WholePlanner, best: WholePlanned, rows: _Rows) -> WholePlanned | None:
    if planner.residual == "int16":  # 16 bits hold what a rotation would spread, and need no layer for it
        return None

    def rewrite(graph: Graph, given: Sequence[Row]) -> int:
        sums = float_sums(graph, {total.name for total in residual_tensors(graph).values()}, given)
        widths = {value.shape[-1] for value in sums.values()}
        if len(widths) != 1:
            return 0
        return rotate_residual(graph, torch.stack([value.abs().amax(0) for value in sums.values()]).amax(0))

    return planner.rewritten(best.graph, rows, rewrite)


def _branch(planner: WholePlanner, best: WholePlanned, rows: _Rows) -> WholePlanned | None:
    def rewrite(graph: Graph, given: Sequence[Row]) -> int:
        branch_norms(graph)
        return smooth_norms(graph, measure(graph, given))

    return planner.rewritten(best.graph, rows, rewrite)


def _split(planner: WholePlanner, best: WholePlanned, rows: _Rows) -> WholePlanned | None:
    return planner.rewritten(best.graph, rows, lambda graph, given: split_outliers(graph, measure(graph, given)))


def _aware(planner: WholePlanner, best: WholePlanned, rows: _Rows) -> WholePlanned | None:
    if planner.residual == "int16":
        return None
    seen = _seen(best.graph, rows.all)
    grids = norm_aware_grids(best.graph, best.plan, seen, rows.judged)
    return WholePlanned(best.graph, replace(best.plan, tensors={**best.plan.tensors, **grids}))


_TECHNIQUES: tuple[tuple[str, str, Callable[[WholePlanner, WholePlanned, _Rows], WholePlanned | None]], ...] = (
    ("ranges judged behind the layer norm", "own; as Wei et al. 2022 judge clips", _aware),
    ("rotate the residual stream", "Ashkboos et al. 2024 (QuaRot), for LayerNorm", _rotate),
    ("branch and smooth layer norms", "Xiao et al. 2023 (SmoothQuant), eq. 4, alpha 0.7", _branch),
    ("split loud GELU channels", "own; relative of Zhao et al. 2019", _split),
)


def _seen(graph: Graph, rows: Sequence[Row]) -> dict[str, Range]:
    """Measure every computed float tensor."""
    found: dict[str, Range] = {}

    class Look(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's own signature
            value = super().run_node(n)
            if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
                low, high = (float(side) for side in torch.aminmax(value))
                if not (low > -float("inf") and high < float("inf")):
                    raise ConversionError(
                        "E0776",
                        f"tensor {n.name} is not finite during calibration ({low} to {high})",
                        fix="check the calibration rows and the trained weights",
                    )
                found[n.name] = found.get(n.name, Range(low, high)).merge(Range(low, high))
            return value

    run = Look(graph)
    with torch.no_grad():
        for row in rows:
            run.run(*row)
    return found


def _from_words(graph: Graph) -> dict[fx.Node, bool]:
    """Tell of each node whether it is computed from the word ids, not from the mask and constants alone."""
    found: dict[fx.Node, bool] = {}
    for node in graph.graph.nodes:
        found[node] = any(found[source] for source in node.all_input_nodes) or node.target is _ATEN.embedding.default
    return found


def _exact(seen: Range) -> TensorGrid:
    """Give the grid of what is computed from the mask alone: whole numbers, which a step of 1 holds exactly."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if high - low > 255:
        return grid_between(low, high)
    return TensorGrid(scale=1.0, zero_point=min(127, max(-128, round(-128 - low))))


def _constant_grid(graph: Graph, node: fx.Node, *, wide: bool) -> TensorGrid | None:
    """Give the grid of a constant, or None for weights and biases, which layers hold in forms of their own."""
    value = parameter(graph, node)
    if value is None or not value.is_floating_point():
        return None
    for user in node.users:
        if user.target is _ATEN.linear.default or (user.target is _ATEN.layer_norm.default and user.args[3] is node):
            return None
    positions = all(user.target in VIEWS for user in node.users)
    return grid_of_constant(value, bits=16 if wide and positions else 8)
