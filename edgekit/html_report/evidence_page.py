"""Puts the report of an evidence document together, the verdict first."""

from edgekit.evidence_document import RunEvidence
from edgekit.html_report.lanes import accuracy_section, changed_section, instructions_section, lanes_section
from edgekit.html_report.page import Note, Page, Section, State
from edgekit.html_report.proof import gates_section, layers_section, slices_section, worst_rows_section
from edgekit.html_report.provenance import plan_section, provenance_section
from edgekit.parity.verdict import Verdict
from edgekit.parity.words import sentences

__all__ = ["evidence_page"]

_MOST_FAULTS, _MOST_WORDS = 20, 200


def evidence_page(run: RunEvidence) -> Page:
    """Give the report of a comparison, or of what a device answered."""
    sections = (
        accuracy_section(run),
        changed_section(run),
        lanes_section(run),
        gates_section(run),
        slices_section(run),
        layers_section(run),
        worst_rows_section(run),
        _words_section(run),
        instructions_section(run),
        plan_section(run.plan),
        provenance_section(run),
    )
    state, headline, faults = _told(run.verdict) if run.verdict else _answers_alone(run)
    rows = f"{run.rows.count:,} row{'s' * (run.rows.count != 1)}: {run.rows.source}"
    return Page(
        title=f"{run.bundle.name} {run.bundle.version}",
        subtitle=f"{run.bundle.task}; {rows}",
        state=state,
        headline=headline,
        sentences=faults,
        sections=tuple(section for section in sections if section is not None),
    )


def _told(verdict: Verdict) -> tuple[State, str, tuple[str, ...]]:
    """Give the verdict in one sentence, and what was missed."""
    gates, unsure = len(verdict.results), len(verdict.undecided)
    if verdict.passed and unsure:
        headline = f"Passed: no gate is missed; for {unsure} of {gates} the rows are too few to be sure."
    elif verdict.passed:
        headline = f"Passed: all {gates} gates are met."
    elif verdict.reference_faults:
        headline = "Failed: the reference is itself bad, so nothing can be judged by it."
    elif verdict.failed:
        count = len(verdict.failed)
        headline = f"Failed: {count} of {gates} gates {'is' if count == 1 else 'are'} missed."
    else:
        headline = f"Failed: for {unsure} of {gates} gates the rows are too few."
    said = (*verdict.reference_faults, *(f"{gate.lane}: {gate.words}" for gate in verdict.failed))
    return "good" if verdict.passed else "bad", headline, said[:_MOST_FAULTS]


def _words_section(run: RunEvidence) -> Section | None:
    """Repeat in sentences what charts and tables show, and what they cannot show."""
    said = sentences(run.comparison, run.verdict) if run.comparison and run.verdict else []
    said += [*(f"rows: {warning}" for warning in run.warnings), *(f"layers: {note}" for note in run.notes)]
    return Section(heading="In words", blocks=[Note(each) for each in said[:_MOST_WORDS]]) if said else None


def _answers_alone(run: RunEvidence) -> tuple[State, str, tuple[str, ...]]:
    """Say what an evidence file shows that nobody has judged yet."""
    faults = tuple(f"{lane.lane}: {fault}" for lane in run.lanes for fault in lane.selftest or ())
    if faults:
        return "bad", "Failed: the self-test does not repeat the answers that the bundle carries.", faults
    if run.lanes and all(lane.selftest is not None for lane in run.lanes):
        return (
            "open",
            "Not judged: the self-test passed, and nobody has compared these answers with the desktop yet.",
            (f"Compare them: edgekit parity BUNDLE --on {run.source}",),
        )
    return "open", "Not judged: these answers were not compared with anything.", ()
