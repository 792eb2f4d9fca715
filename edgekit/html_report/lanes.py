"""The part of a report that compares lanes: accuracy, changed answers, one table of all figures, and cost."""

import math
from collections.abc import Sequence

from edgekit.evidence_document import RunEvidence
from edgekit.html_report.charts import IntervalRow, interval_chart
from edgekit.html_report.figures import (
    NONE,
    count,
    decibel,
    filled,
    megabytes,
    milliseconds,
    model_of,
    place_of,
    share,
)
from edgekit.html_report.page import Block, Note, Section
from edgekit.parity.compare import LaneComparison
from edgekit.parity.metrics import Measure
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["LEGEND", "accuracy_section", "changed_section", "colour_of", "instructions_section", "lanes_section"]

LEGEND = (
    ("fp32", "float32 here"),
    ("int8", "int8 here"),
    ("device", "on a device"),
    ("emulated", "on an emulated core"),
)
_ORDER = {colour: place for place, (colour, _) in enumerate(LEGEND)}


def colour_of(lane: str, precision: str) -> str:
    """Give the series that a lane belongs to."""
    place = place_of(lane)
    return place if place != "desktop" else "int8" if precision == "int8" else "fp32"


def _in_order(lanes: Sequence[LaneComparison]) -> list[LaneComparison]:
    return sorted(lanes, key=lambda lane: _ORDER[colour_of(lane.lane, lane.precision)])


def _legend(rows: Sequence[IntervalRow]) -> tuple[tuple[str, str], ...]:
    used = {row.colour for row in rows}
    return tuple(pair for pair in LEGEND if pair[0] in used)


def accuracy_section(run: RunEvidence) -> Section | None:
    """Show how often each lane is right; None without labels."""
    if run.comparison is None or not run.comparison.labelled:
        return None
    rows, cells = [], []
    for lane in _in_order(run.comparison.lanes):
        found = lane.accuracy
        if found is None:
            continue
        ends = None if found.interval is None else (100 * found.interval[0], 100 * found.interval[1])
        value = f"{100 * found.value:.2f} %"
        between = NONE if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f} %"
        colour = colour_of(lane.lane, lane.precision)
        text = value if ends is None else f"{value} ({between})"
        rows.append(IntervalRow(label=lane.lane, text=text, value=100 * found.value, interval=ends, colour=colour))
        drop, test = lane.measure("drop"), lane.test
        cells.append(
            (
                lane.lane,
                dict(LEGEND)[colour],
                value,
                between,
                NONE if drop is None else str(drop),
                NONE if test is None else f"{test.p_value:.3g}",
            )
        )
    header = ("lane", "where", "accuracy", "95 % interval", "lost against the reference", "p")
    blocks: list[Block] = [
        interval_chart("Accuracy in %, with 95 % intervals", rows, _legend(rows)),
        filled(header, cells, text=("lane", "where")),
        Note(
            f"On {run.comparison.rows:,} rows. Lost accuracy is paired by row; p says how often chance alone "
            "would make as large a difference: above 0.05 the difference is no more than chance."
        ),
    ]
    return Section(heading="Accuracy", blocks=blocks)


def changed_section(run: RunEvidence) -> Section | None:
    """Show how many rows got another answer than from the reference."""
    if run.comparison is None:
        return None
    rows = []
    for lane in _in_order(run.comparison.others):
        found = lane.measure("changed")
        if found is not None:
            colour = colour_of(lane.lane, lane.precision)
            text = share(found)
            rows.append(
                IntervalRow(label=lane.lane, text=text, value=found.value, interval=found.interval, colour=colour)
            )
    if not rows:
        return None
    title = f"Rows with another answer than {run.comparison.reference}, in %, with 95 % intervals"
    return Section(heading="Changed answers", blocks=[interval_chart(title, rows, _legend(rows))])


def lanes_section(run: RunEvidence) -> Section:
    """Give the figures of all lanes: how close they are to the reference, then where they ran and what it cost."""
    compared = {lane.lane: lane for lane in run.comparison.lanes} if run.comparison else {}
    answered = {lane.lane: lane for lane in run.lanes}
    blocks: list[Block] = []
    if run.comparison is not None:
        rows = [(name, *_closeness(lane, run.comparison.reference)) for name, lane in compared.items()]
        what = f"Compared with {run.comparison.reference} on {run.comparison.rows:,} rows"
        steps = "One step is one level of the lane's output grid, or of 8 bits over the reference's answers"
        blocks += [filled(_CLOSENESS, rows, text=("lane",)), Note(f"{what}. {steps}.")]
    names = dict.fromkeys((*compared, *answered))
    costs = [(name, *_where(answered.get(name)), *_cost(name, answered.get(name), run)) for name in names]
    blocks.append(filled(_COST, costs, text=("lane", "engine", "CPU")))
    if any(lane.cost.instructions_min is not None for lane in run.lanes):
        blocks.append(
            Note("Instructions are those of one inference on an emulated core: a cost that repeats, and no latency.")
        )
    return Section(heading="Lanes", blocks=blocks)


_CLOSENESS = ("lane", "changed (95 %)", "SQNR", "cosine", "largest difference", "in steps")
_COST = (
    "lane",
    "engine",
    "CPU",
    "MB",
    "CPU ms (least)",
    "CPU ms (median)",
    "peak memory, MiB",
    "instructions (emulated)",
)


def _where(lane: LaneEvidence | None) -> tuple[str, str]:
    if lane is None:
        return NONE, NONE
    threads = "1 thread" if lane.threads == 1 else f"{lane.threads} threads"
    engine = f"{lane.engine} {lane.engine_version}\n{lane.precision}, {threads}"
    return engine, f"{lane.machine.cpu}\n{lane.machine.arch}"


def _closeness(lane: LaneComparison, reference: str) -> tuple[str, ...]:
    if lane.lane == reference:
        return ("reference", *(NONE,) * 4)
    found = (lane.measure(each) for each in ("sqnr", "cosine", "max_difference", "max_steps"))
    return (share(lane.measure("changed")), *map(_value, found))


def _value(measure: Measure | None) -> str:
    if measure is None:
        return NONE
    if measure.name == "sqnr":
        return decibel(measure.value)
    if math.isnan(measure.value):
        return "NaN"
    return f"{measure.value:.6f}" if measure.name == "cosine" else f"{measure.value:.4g} {measure.unit.value}"


def _cost(name: str, lane: LaneEvidence | None, run: RunEvidence) -> tuple[str, ...]:
    size = megabytes(run.sizes.get(name, run.sizes.get(model_of(name))))
    if lane is None:
        return (size, *(NONE,) * 4)
    cost = lane.cost
    return (
        size,
        milliseconds(cost.cpu_ms_min),
        milliseconds(cost.cpu_ms_median),
        NONE if cost.peak_rss_mib is None else f"{cost.peak_rss_mib:.1f}",
        count(cost.instructions_min),
    )


def instructions_section(run: RunEvidence) -> Section | None:
    """Show the instructions of one inference by class, where they were counted."""
    counted = {lane.lane: lane.cost.instruction_classes for lane in run.lanes if lane.cost.instruction_classes}
    if not counted:
        return None
    classes = list(dict.fromkeys(name for held in counted.values() for name in held))
    rows = [(lane, *(count(held.get(name)) for name in classes)) for lane, held in counted.items()]
    header = ("lane", *(name.replace("_", " ") for name in classes))
    note = Note("Of one inference on an emulated core: a cost that repeats, and no latency.")
    return Section(heading="Instructions by class", blocks=[filled(header, rows, text=("lane",)), note])
