"""A comparison and its verdict in sentences that need no table."""

import math

from edgekit.parity.compare import Comparison, LaneComparison
from edgekit.parity.metrics import Measure
from edgekit.parity.slices import Slice
from edgekit.parity.verdict import Outcome, Verdict

__all__ = ["sentences"]

# Gates on measures that neither the table nor a sentence gives.
_ELSEWHERE = frozenset(
    {
        "max_cer",
        "max_wer",
        "min_overlap_1",
        "min_overlap_10",
        "min_overlap_5",
        "min_same_tokens",
        "min_span_match",
        "min_worst_cosine",
    }
)


def sentences(comparison: Comparison, verdict: Verdict) -> list[str]:
    """Say what was found: the verdict first, then each lane, then what the figures cannot show."""
    lines = [_verdict(comparison, verdict)]
    lines += [f"the reference {comparison.reference} is itself bad: {fault}" for fault in verdict.reference_faults]
    for lane in comparison.others:
        lines += [
            f"{each.lane}: {each.words}"
            for each in verdict.results
            if each.lane == lane.lane and each.outcome is Outcome.FAILED
        ]
        lines += [
            f"{each.lane}: {each.words}"
            for each in verdict.results
            if each.lane == lane.lane and each.outcome is Outcome.PASSED and each.gate in _ELSEWHERE
        ]
        lines += [f"{lane.lane}: {text}" for text in _lane(lane)]
    return lines + [f"note: {warning}" for warning in verdict.warnings]


def _verdict(comparison: Comparison, verdict: Verdict) -> str:
    lanes = len(comparison.others)
    bad = {each.lane for each in verdict.failed or verdict.undecided} if not verdict.passed else set()
    part = f"{len(bad)} of " if 0 < len(bad) < lanes and not verdict.reference_faults else ""
    what = f"{part}{lanes} lane{'s' * (lanes != 1)} against {comparison.reference} on {comparison.rows:,} rows"
    if verdict.passed:
        return f"passed: {what}, {len(verdict.results)} gates"
    missed = len(verdict.failed) or len(verdict.undecided) * verdict.require_enough_rows
    return f"failed: {what}, {missed} of {len(verdict.results)} gates missed"


def _lane(lane: LaneComparison) -> list[str]:
    lines = []
    changed = lane.measure("changed")
    if changed is not None and changed.n is not None and changed.interval is not None:
        low, high = changed.interval
        count = round(changed.value * changed.n / 100)
        text = f"{count} of {changed.n:,} rows have another answer ({low:.2f} to {high:.2f} % with 95 % confidence)"
        margins = sorted(flip.margin for flip in lane.flips if not math.isnan(flip.margin))
        if margins:
            middle = margins[len(margins) // 2]
            text += f"; the reference preferred its own by {middle:.3g} logits (median), {margins[-1]:.3g} at most"
        lines.append(text)
    if lane.test is not None and lane.accuracy is not None:
        low, high = (100 * end for end in lane.test.interval)
        chance = "no more than chance" if lane.test.p_value > 0.05 else "more than chance"
        lines.append(
            f"accuracy {lane.accuracy.value:.4f}, {100 * lane.test.difference:+.2f} points lost "
            f"({low:+.2f} to {high:+.2f}): {chance}, p = {lane.test.p_value:.3g}"
        )
    worst = lane.worst_slice
    if worst is not None:
        lines.append(_slice(worst, changed))
    return lines


def _slice(worst: Slice, overall: Measure | None) -> str:
    text = f"worst slice: {worst.kind} {worst.name}, {worst.rows:,} rows"
    changed, cosine = worst.measure("changed"), worst.measure("cosine_mean")
    if changed is not None and changed.interval is not None:
        low, high = changed.interval
        text += f", {round(changed.value * worst.rows / 100)} changed ({low:.1f} to {high:.1f} %)"
        if overall is not None and low <= overall.value:
            text += ", which does not stand out"
    elif cosine is not None:
        text += f", mean cosine {cosine.value:.5f}"
    before, after = worst.measure("reference_accuracy"), worst.measure("accuracy")
    if before is not None and after is not None:
        text += f", accuracy {before.value:.3f} before and {after.value:.3f} after"
    return text
