"""The part of a report that proves or refutes: gates, the worst part of the rows, layers, and the worst rows."""

import math
from collections.abc import Mapping, Sequence

from edgekit.evidence_document import RunEvidence
from edgekit.html_report.charts import BarRow, bar_chart
from edgekit.html_report.figures import NONE, count, decibel, filled, share
from edgekit.html_report.page import Block, Cell, Note, Picture, Section, State
from edgekit.html_report.png import png_uri
from edgekit.html_report.text import clip
from edgekit.parity.metrics import Measure
from edgekit.parity.rows import MOST_ROWS, RowDifference, Thumbnail
from edgekit.parity.verdict import GateResult, Outcome
from edgekit_converters.layerwise.result import LayerRow

__all__ = ["gates_section", "layers_section", "slices_section", "worst_rows_section"]

_STATES: Mapping[Outcome, State] = {Outcome.PASSED: "good", Outcome.FAILED: "bad", Outcome.UNDECIDED: "open"}
_WORST_FIRST = (Outcome.FAILED, Outcome.UNDECIDED, Outcome.PASSED)
_MOST_LAYERS = 120  # of one lane
_LONGEST_INPUT, _LONGEST_ANSWER = 600, 120  # characters


def gates_section(run: RunEvidence) -> Section | None:
    """List every bound with what was measured, missed ones first."""
    if run.verdict is None or not run.verdict.results:
        return None
    gates = sorted(run.verdict.results, key=lambda gate: _WORST_FIRST.index(gate.outcome))
    rows = [(gate.outcome.value, gate.lane, gate.gate.replace("_", " "), *_held(gate)) for gate in gates]
    header = ("result", "lane", "gate", "measured (95 %)", "bound")
    states = [_STATES[gate.outcome] for gate in gates]
    blocks: list[Block] = [filled(header, rows, text=header, wide=("measured (95 %)",), states=states)]
    if any(gate.outcome is Outcome.UNDECIDED for gate in gates):
        blocks.append(
            Note(
                "Undecided: the value meets the bound, but its interval does not, so these rows are too few to be sure."
            )
        )
    return Section(heading="Gates", blocks=blocks)


def _held(gate: GateResult) -> tuple[str, str]:
    if gate.measure is None or gate.limit is None:
        return gate.words.removeprefix(f"{gate.gate}: "), NONE
    side = "at least" if gate.measure.better == "higher" else "at most"
    found = share(gate.measure) if gate.measure.name == "changed" else str(gate.measure)
    return found, f"{side} {gate.limit}"


def slices_section(run: RunEvidence) -> Section | None:
    """Show the part of the rows on which each lane lost most."""
    if run.comparison is None:
        return None
    rows = []
    for lane in run.comparison.others:
        worst = lane.worst_slice
        if worst is None:
            continue
        found = {name: worst.measure(name) for name in ("changed", "reference_accuracy", "accuracy", "cosine_mean")}
        rows.append(
            (
                lane.lane,
                f"{worst.kind}: {worst.name}",
                count(worst.rows),
                share(found["changed"]),
                *(_plain(found[name]) for name in ("reference_accuracy", "accuracy", "cosine_mean")),
            )
        )
    if not rows:
        return None
    header = ("lane", "rows with", "rows", "changed (95 %)", "accuracy before", "after", "mean cosine")
    return Section(
        heading="Worst slice",
        blocks=[
            filled(header, rows, text=("lane",), wide=("rows with",)),
            Note(
                "Of all parts by length, script, class or brightness with ten rows or more, "
                "the one that surely lost most."
            ),
        ],
    )


def _plain(measure: Measure | None) -> str:
    return NONE if measure is None else "NaN" if math.isnan(measure.value) else f"{measure.value:.4f}"


_LAYER_LEGEND = (
    ("local", "local: the layer alone, fed with what float computes"),
    ("inherited", "inherited: with all before it"),
)
_LAYER_HEADER = (
    "layer",
    "kind",
    "mode",
    "local",
    "inherited",
    "expected",
    "RMSE in steps",
    "at an end",
    "what is wrong",
)


def layers_section(run: RunEvidence) -> Section | None:
    """Show where int8 leaves float, layer by layer."""
    blocks: list[Block] = []
    for lane, layers in run.layers.items():
        if layers:
            blocks += _layers(lane, layers)
    if not blocks:
        return None
    ideal = "An ideal grid has an RMSE of 0.289 steps; more means clipping or a wrong scale. At an end: share of "
    blocks.append(Note(ideal + "codes at an end of a grid, of the layer's input or output, whichever is more."))
    return Section(heading="Layers", blocks=blocks)


def _layers(lane: str, layers: Sequence[LayerRow]) -> list[Block]:
    wrong = next((layer for layer in layers if layer.reason is not None), None)
    said = "no layer is out of line" if wrong is None else f"first out of line is {wrong.module}: {wrong.note}"
    shown = _worst_layers(layers)
    blocks: list[Block] = [Note(f"{lane}: {said}.")]
    if len(shown) < len(layers):
        blocks.append(Note(f"The {len(shown)} worst of {len(layers):,} layers are shown."))
    bars = [
        BarRow(
            label=layer.module,
            text=f"{decibel(layer.local.sqnr_db)} local, {decibel(layer.inherited.sqnr_db)} inherited",
            values=(layer.local.sqnr_db, layer.inherited.sqnr_db),
            state=_layer_state(layer),
        )
        for layer in shown
    ]
    title = f"{lane}: SQNR of each layer's output against float, in dB; more is better"
    blocks.append(bar_chart(title, bars, _LAYER_LEGEND))
    rows = [_layer_cells(layer) for layer in shown]
    words = ("layer", "kind", "mode", "what is wrong")
    states = [_layer_state(layer) for layer in shown]
    blocks.append(filled(_LAYER_HEADER, rows, text=words[:3], wide=words[3:], states=states))
    return blocks


def _layer_state(layer: LayerRow) -> State | None:
    return "bad" if layer.reason is not None else None


def _worst_layers(layers: Sequence[LayerRow]) -> list[LayerRow]:
    """Give the layers to show, in order of execution: those out of line first, then those with the most noise."""

    def badness(place: int) -> tuple[bool, bool, float]:
        layer = layers[place]
        return layer.reason is None, not math.isnan(layer.local.sqnr_db), layer.local.sqnr_db

    return [layers[place] for place in sorted(sorted(range(len(layers)), key=badness)[:_MOST_LAYERS])]


def _layer_cells(layer: LayerRow) -> tuple[str, ...]:
    steps = layer.local.rmse_steps
    return (
        layer.module,
        layer.kind,
        layer.mode,
        decibel(layer.local.sqnr_db),
        decibel(layer.inherited.sqnr_db),
        decibel(layer.expected_db),
        NONE if steps is None else f"{steps:.3f}",
        NONE if layer.saturation is None else f"{100 * layer.saturation:.3g} %",
        layer.note,
    )


def worst_rows_section(run: RunEvidence) -> Section | None:
    """Show the rows on which the lanes are furthest from the reference, each with its input."""
    if run.comparison is None:
        return None
    found: dict[int, list[tuple[str, RowDifference]]] = {}
    for lane in run.comparison.others:
        for each in lane.worst_rows:
            found.setdefault(each.row, []).append((lane.lane, each))
    if not found:
        return None
    worst = sorted(found.values(), key=_distance, reverse=True)[:MOST_ROWS]
    rows = [_row_cells(entries) for entries in worst]
    states: list[State | None] = ["bad" if any(each.changed for _, each in entries) else None for entries in worst]
    header = ("row", "input", "right answer", run.comparison.reference, "lanes")
    note = Note(
        "The 20 worst rows of all lanes: another answer first, then the largest difference. A lane is named where the "
        "row is among its own 20 worst; ≠ marks another answer than the reference's."
    )
    table = filled(
        header, rows, text=("right answer", run.comparison.reference), wide=("input", "lanes"), states=states
    )
    return Section(heading="Worst rows", blocks=[table, note])


def _distance(entries: Sequence[tuple[str, RowDifference]]) -> tuple[bool, int, float]:
    gaps = [each.difference for _, each in entries]
    return (
        any(map(math.isnan, gaps)),
        sum(each.changed for _, each in entries),
        max((gap for gap in gaps if not math.isnan(gap)), default=0.0),
    )


def _row_cells(entries: Sequence[tuple[str, RowDifference]]) -> tuple[Cell, ...]:
    _, first = entries[0]
    lines = [
        f"{'≠ ' if each.changed else ''}{clip(lane, _LONGEST_ANSWER)}: {clip(each.lane, _LONGEST_ANSWER)}, "
        f"off by {each.difference:.3g} {each.unit.value}"
        for lane, each in entries
    ]
    return (
        str(first.row),
        _input(first),
        clip(first.target, _LONGEST_ANSWER),
        clip(first.reference, _LONGEST_ANSWER),
        "\n".join(lines),
    )


def _input(row: RowDifference) -> Cell:
    if isinstance(row.raw, Thumbnail):
        try:
            uri = png_uri(row.raw)
        except ValueError as error:
            return f"no picture: {error}"
        return Picture(uri, f"input of row {row.row}", row.raw.width, row.raw.height)
    return NONE if row.raw is None else clip(row.raw, _LONGEST_INPUT)
