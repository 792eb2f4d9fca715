"""The part of a report that lets somebody else repeat the run: plan, versions, machines, digests, seed."""

from edgekit.evidence_document import PlannedLayer, RunEvidence
from edgekit.html_report.figures import NONE, filled
from edgekit.html_report.page import Block, Note, Section, Table
from edgekit.html_report.text import clip

__all__ = ["plan_section", "provenance_section"]

_MOST_LAYERS, _MOST_LABELS = 300, 50


def plan_section(plan: tuple[PlannedLayer, ...]) -> Section | None:
    """Show how each layer computes, and why."""
    if not plan:
        return None
    header = ("layer", "kind", "mode", "why")
    rows = [(layer.name, layer.kind, layer.mode, layer.why) for layer in plan[:_MOST_LAYERS]]
    blocks: list[Block] = [filled(header, rows, text=header[:3], wide=header[3:])]
    if len(plan) > _MOST_LAYERS:
        blocks.append(Note(f"The first {_MOST_LAYERS} of {len(plan):,} layers are shown."))
    return Section(heading="Plan", blocks=blocks)


def provenance_section(run: RunEvidence) -> Section:
    """Show what was compared, where, and by what."""
    more = f" and {len(run.labels) - _MOST_LABELS:,} more" if len(run.labels) > _MOST_LABELS else ""
    facts = [
        ("evidence", run.source),
        ("bundle", f"{run.bundle.name} {run.bundle.version}, {run.bundle.task}"),
        ("bundle sha256", run.bundle.sha256),
        ("rows", f"{run.rows.count:,}, {run.rows.source}"),
        ("rows sha256", run.rows.sha256),
        ("labels", ", ".join(clip(label, 80) for label in run.labels[:_MOST_LABELS]) + more or NONE),
        ("seed", NONE if run.seed is None else str(run.seed)),
        ("created", run.created or NONE),
        *((f"{name}", version) for name, version in run.versions.items()),
    ]
    known = [(name, value) for name, value in facts if value != NONE]
    table = Table(header=("what", "value"), rows=tuple(known), wide=frozenset({1}))
    return Section(heading="Provenance", blocks=[table, *_machines(run)])


def _machines(run: RunEvidence) -> list[Block]:
    where: dict[tuple[str, ...], list[str]] = {}
    for lane in run.lanes:
        held = lane.machine
        features = " ".join(held.features)
        key = (held.cpu, held.arch, held.system, f"{held.python}, numpy {held.numpy}", lane.kernels, features)
        where.setdefault(key, []).append(lane.lane)
    rows = [("\n".join(lanes), *key) for key, lanes in where.items()]
    header = ("lanes", "CPU", "architecture", "system", "Python", "kernels", "CPU features")
    return [filled(header, rows, text=header[1:5], wide=("lanes", "kernels", "CPU features"))] if rows else []
