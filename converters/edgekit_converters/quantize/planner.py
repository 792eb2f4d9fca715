"""Makes the quantisation plan: measures, tries each technique, and keeps what improves the simulated int8 model."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.rows import rows_digest, without
from edgekit_converters.quantize.calibration.spec import RANGE_SOURCES, RangeMethod
from edgekit_converters.quantize.graph import Graph, kernel_kind, layers, parameter, set_tensor
from edgekit_converters.quantize.grid import Range, bias_room
from edgekit_converters.quantize.measure import Checkpoint, Measured, Row, after_activation, measure, outputs, simulate
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import Grid, LayerPlan, QuantPlan, Technique, grid_from
from edgekit_converters.quantize.saturation import SevenBit, guarded_scales
from edgekit_converters.quantize.techniques.bias_correct import correct_biases
from edgekit_converters.quantize.techniques.equalise import equalise, equalise_relu6
from edgekit_converters.quantize.techniques.round_outputs import round_for_outputs
from edgekit_converters.quantize.techniques.scale_out import scale_outputs
from edgekit_converters.quantize.techniques.smooth import smooth_norms
from edgekit_converters.quantize.techniques.split import split_outliers
from edgekit_converters.quantize.ties import tie_ranges
from edgekit_converters.quantize.trained import Trained, replaced
from edgekit_runtime.errors import UsageError
from edgekit_runtime.statistics import sqnr_db

__all__ = ["GELU", "GELU_FLOOR", "Planned", "Planner"]

GELU = torch.ops.aten.gelu.default
GELU_FLOOR = -4.0  # GELU(-4) is -1.3e-4: below it nothing is lost, and the steps go to where values are
_GAIN_DB = 0.1  # less is noise of the rows


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and the rewritten float graph that it belongs to.

    Attributes:
        graph: With what refinements of the int8 weights and biases put into it.
        plan: Of this graph.
        trained: What stood in their places before.
    """

    graph: Graph
    plan: QuantPlan
    trained: Trained = field(default_factory=dict)


Rewrite = Callable[[Graph, dict[str, Measured]], int]
# Float answers stay; the plan is made anew.
_REWRITES: tuple[tuple[str, str, Rewrite], ...] = (
    ("smooth layer norms", "Xiao et al. 2023 (SmoothQuant), eq. 4, alpha 0.7", smooth_norms),
    ("split loud GELU channels", "own; relative of Zhao et al. 2019", split_outliers),
    ("scale uneven outputs", "Bondarenko et al. 2021, section 4", scale_outputs),
    ("equalise channels", "Nagel et al. 2019, section 4.1", equalise),
    ("equalise channels through ReLU6", "Nagel et al. 2019, section 5.1.1", equalise_relu6),
)
# The plan stays; weights or biases of the int8 files change within it, and float files do not have the change.
_REFINEMENTS: tuple[tuple[str, str, Callable[[Graph, QuantPlan, Sequence[Row]], int]], ...] = (
    ("round weights for outputs (GPTQ)", "Frantar et al. 2022, algorithm 1", round_for_outputs),
    ("correct biases", "Nagel et al. 2019, section 4.2", correct_biases),
)


class _Trial:
    """The best plan so far, and what was tried."""

    def __init__(self, reference: NDArray[np.float64], judged: Sequence[Row], first: Planned) -> None:
        self._reference, self._judged = reference, judged
        self.best, self.tried = first, list[Technique]()
        self._score = self._closeness(first)

    def offer(self, name: str, source: str, attempt: Planned) -> None:
        """Take the attempt if it beats the present plan by more than noise."""
        before, after = self._score, self._closeness(attempt)
        kept = after > before + _GAIN_DB
        if kept:
            self.best, self._score = attempt, after
        self.tried.append(
            Technique(
                name=name, source=source, sqnr_before_db=round(before, 2), sqnr_after_db=round(after, 2), kept=kept
            )
        )

    def _closeness(self, one: Planned) -> float:
        return sqnr_db(self._reference, simulate(one.graph, one.plan, self._judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Settings of a plan.

    Attributes:
        bits: Of the activations of static layers.
        finish: Codes the weights in fewer than 8 bits, so that techniques are judged on what the files will hold.
        mode: Mode of a layer by its module path; parts that a technique made are asked by the path of the whole.
        whole_network: See ``QuantPlan``.
        techniques: Try them; off for measurements of a naive plan.
        seven_bit: Narrow the weights against 16-bit sums that saturate; see ``guarded_scales``.
        per_tensor: One scale for all weights of a layer, for targets whose kernels take no scale per channel.
        ranges: How a range is chosen from the values. Methods other than ``minmax`` are tried last and judged as
            techniques are; without techniques they are taken as asked for.
        resume: Where a calibration that was killed goes on from; None = it starts at the first row.
        judged_rows: Most rows of the calibration set, and at most half of it, that techniques are judged on; they are
            held in, not evaluation rows. Two logits of 32 rows were seen to be 3 dB off, and to leave out what brings
            8 dB.
    """

    mode: Callable[[str], Mode]
    whole_network: bool
    techniques: bool = True
    seven_bit: SevenBit = False
    per_tensor: bool = False
    ranges: RangeMethod = "minmax"
    resume: Checkpoint | None = None
    judged_rows: int = 128
    bits: Literal[8, 16] = 8
    finish: Callable[[Graph, QuantPlan], QuantPlan] | None = None

    def make(self, graph: Graph, rows: Sequence[Row]) -> Planned:
        """Make the plan.

        Args:
            graph: From ``trace``; left as it is.
            rows: Calibration rows.

        Raises:
            UsageError: There is no row (E0133).
            ConversionError: A value is not finite (E0740), or a weight is not (E0732).
        """
        if not rows:
            raise UsageError("E0133", "there are no calibration rows", fix="give at least 1; 256 is a good number")
        judged = self.judged(rows)
        reference = outputs(graph, judged)
        first = self._plan(copy.deepcopy(graph), rows, ranges="minmax" if self.techniques else self.ranges)
        if not self.techniques:
            return first
        trial = _Trial(reference, judged, first)
        for name, source, rewrite in _REWRITES:
            candidate = copy.deepcopy(trial.best.graph)
            if rewrite(candidate, measure(candidate, rows, resume=self.resume)):
                trial.offer(name, source, self._plan(candidate, rows, ranges="minmax"))
        if self.ranges != "minmax":
            attempt = self._plan(copy.deepcopy(trial.best.graph), rows, ranges=self.ranges)
            trial.offer(f"{self.ranges} ranges", RANGE_SOURCES[self.ranges], attempt)
        floats = trial.best.graph
        others = without(rows, self._places(rows))  # a fit must not judge itself
        # Coded weights have rounding methods of their own, which would undo what is fitted to these codes.
        for name, source, refine in () if trial.best.plan.codes() else _REFINEMENTS:
            best = Planned(copy.deepcopy(trial.best.graph), trial.best.plan)
            if refine(best.graph, best.plan, others or rows):
                trial.offer(name, source, best)
        plan = replace(trial.best.plan, techniques=tuple(trial.tried))
        return Planned(trial.best.graph, plan, replaced(floats, trial.best.graph))

    def judged(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Give the rows that techniques are judged on, spread over the calibration rows."""
        places = self._places(rows)
        return rows[places.start : places.stop : places.step]

    def _places(self, rows: Sequence[Row]) -> range:
        step = max(2, len(rows) // self.judged_rows) if len(rows) > 1 else 1  # the other half is what a fit may see
        return range(0, len(rows), step)[: self.judged_rows]

    def _plan(self, graph: Graph, rows: Sequence[Row], *, ranges: RangeMethod) -> Planned:
        def gridded(name: str) -> bool:
            return self.mode(_whole(name)) is Mode.STATIC

        seen = measure(graph, rows, ranges=ranges, gridded=gridded, peaks=False, resume=self.resume)
        tie_ranges(graph, seen, rows, whole_network=self.whole_network)
        found = {name: self._layer(graph, seen, name, kind, node) for name, kind, node in layers(graph)}
        plan = QuantPlan(
            layers=tuple(found.values()),
            techniques=(),
            calibration_rows=len(rows),
            calibration_digest=rows_digest(graph, rows),
            ranges=ranges,
            whole_network=self.whole_network,
        )
        return Planned(graph, plan if self.finish is None else self.finish(graph, plan))

    def _layer(self, graph: Graph, seen: dict[str, Measured], name: str, kind: str, node: fx.Node) -> LayerPlan:
        mode = self.mode(_whole(name))
        weight = parameter(graph, node.args[0 if kind == "embedding" else 1])
        assert weight is not None
        assert kind in ("linear", "conv", "embedding")
        if mode is Mode.FLOAT:
            return LayerPlan(name=name, kind=kind, mode=mode, why="kept float by the recipe or the task")  # type: ignore[arg-type]
        before = after = None
        if mode is Mode.STATIC and kind != "embedding":
            before = grid_from(seen[str(node.args[0])].range, bits=self.bits)
            after = _output_grid(seen, node, bits=self.bits)
            weight = _make_room(graph, node, weight, before)
        scales = () if kind == "embedding" else self._scales(node, weight)
        narrow = "; narrow weights: no 16-bit sum can saturate" if scales and self.seven_bit else ""
        return LayerPlan(
            name=name,
            kind=kind,  # type: ignore[arg-type]
            mode=mode,
            why=_why(kind, mode) + narrow,
            weight_scales=scales,
            input=before,
            output=after,
        )

    def _scales(self, node: fx.Node, weight: Tensor) -> tuple[float, ...]:
        scales = guarded_scales(weight.numpy(), kind=kernel_kind(node, weight), how=self.seven_bit)
        if self.per_tensor:
            scales = scales.max(keepdims=True)
        return tuple(float(f"{scale:.9g}") for scale in scales)


def _whole(name: str) -> str:
    """Give the path of the layer that a technique made this one from."""
    return name.removesuffix(".loud").removesuffix(".quiet")


def _make_room(graph: Graph, node: fx.Node, weight: Tensor, grid: Grid) -> Tensor:
    """Raise one weight of a channel that is dead but for its bias, so that its scale can hold the bias in int32.

    The float answer moves by at most 3e-5 of that bias: 255 steps of the input times 127 / 2^30.
    """
    bias = parameter(graph, node.args[2]) if len(node.args) > 2 else None
    if bias is None:
        return weight
    least = torch.from_numpy(bias_room(bias.numpy(), activation_scale=np.float32(grid.scale))) * 127
    flat = weight.reshape(len(weight), -1).clone()
    peaks, places = flat.abs().max(1)
    small = (peaks < least).nonzero().ravel()
    if len(small):
        flat[small, places[small]] = least[small]
        set_tensor(graph, node.args[1], flat.reshape(weight.shape))
    return flat.reshape(weight.shape)


def _why(kind: str, mode: Mode) -> str:
    if kind == "embedding":
        return "a table of rows: int8 with one scale each loses nothing that can be measured"
    if mode is Mode.DYNAMIC:
        return "its input has rare large values, so its grid is measured at each run"
    return "integer kernels on a calibrated grid"


def _output_grid(seen: dict[str, Measured], node: fx.Node, *, bits: Literal[8, 16]) -> Grid:
    end = after_activation(node)
    found = seen[end.name].range
    if len(end.users) == 1 and next(iter(end.users)).target is GELU:
        found = Range(min(max(found.low, GELU_FLOOR), found.high), found.high)
    return grid_from(found, bits=bits)
