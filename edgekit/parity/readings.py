"""How the entries of an answer are read: as decisions, vectors, numbers, spans, tokens or text. One reader a row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.intervals import bootstrap_mean, bootstrap_ratio, clopper_pearson, mean_of_shares
from edgekit.parity.metrics import Measure, Unit
from edgekit.parity.neighbours import neighbour_measures, neighbours
from edgekit.parity.numeric import row_cosines
from edgekit.parity.sequences import (
    best_spans,
    ctc_texts,
    edit_distance,
    first_divergence,
    greedy_tokens,
    span_overlap,
)
from edgekit_runtime import statistics
from edgekit_runtime.errors import UsageError

__all__ = ["READERS", "Flip", "Read", "Reader", "Reading", "Targets", "reading_of", "row_differences", "share_changed"]

Floats = NDArray[np.float64]
Targets = Sequence[Any] | NDArray[Any]  # one a row; what it is depends on the reading
_SHOWN = 4  # entries of a vector that are written out


class Reading(StrEnum):
    """What the entries of an answer are."""

    DECISIONS = "decisions"  # one logit a class
    VECTORS = "vectors"  # an embedding
    NUMBERS = "numbers"  # anything
    SPANS = "spans"  # start logits, then end logits
    TOKENS = "tokens"  # logits of each place, place by place
    TEXT = "text"  # the same, read by CTC into text


def reading_of(task: str) -> Reading:
    """Give how the answers of a runtime task are read if the user says nothing."""
    if task.endswith("classification"):
        return Reading.DECISIONS
    return Reading.VECTORS if task == "text-embedding" else Reading.NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A row whose decision moved.

    Attributes:
        row: Place of the row, from 0.
        reference: Class that the reference chose; -1 for a row with NaN.
        lane: Class that the lane chose; -1 for a row with NaN.
        margin: By how much the reference prefers its class to the lane's, in logits: near 0 it was a tie. NaN where
            one of them chose nothing.
    """

    row: int
    reference: int
    lane: int
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What became of the answers.

    Attributes:
        measures: Of this reading.
        changed: Rows with another answer, bool (N,); None where answers are just numbers.
        flips: Decisions that moved.
    """

    measures: tuple[Measure, ...]
    changed: NDArray[np.bool_] | None = None
    flips: tuple[Flip, ...] = ()


class Reader(Protocol):
    """One way to read (N, entries) answers."""

    unit: Unit

    def read(self, reference: Floats, values: Floats) -> Read:
        """Compare a lane's answers with the reference's."""

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        """Write the answers of some rows out."""

    def scores(self, values: Floats, targets: Targets) -> Floats:
        """Give how right each row is, 0 to 1, (N,); UsageError if the targets are of another kind (E0166)."""


def share_changed(changed: NDArray[np.bool_]) -> Measure:
    """Give ``changed`` in points of the rows, with its exact interval."""
    count, rows = int(changed.sum()), len(changed)
    low, high = clopper_pearson(count, rows)
    interval = (100.0 * low, 100.0 * high)
    return Measure(
        name="changed", value=100.0 * count / rows, unit=Unit.POINTS, better="lower", interval=interval, n=rows
    )


@dataclass(frozen=True, slots=True)
class Decisions:
    """The largest logit decides.

    Attributes:
        names: Of the classes; a class beyond them shows its number.
    """

    names: Sequence[str] = ()
    unit = Unit.LOGITS

    def read(self, reference: Floats, values: Floats) -> Read:
        theirs, ours = statistics.decisions(reference), statistics.decisions(values)
        changed = (theirs != ours) | (theirs < 0) | (ours < 0)
        flips = tuple(_flip(int(row), reference, int(theirs[row]), int(ours[row])) for row in changed.nonzero()[0])
        measures = [share_changed(changed)]
        if flips:
            widest = max((flip.margin for flip in flips), key=lambda margin: (math.isnan(margin), margin))
            count = len(flips)
            measures.append(Measure(name="flip_margin", value=widest, unit=Unit.LOGITS, better="lower", n=count))
        return Read(measures=tuple(measures), changed=changed, flips=flips)

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        found = statistics.decisions(values)
        return [
            "nothing (NaN)" if found[row] < 0 else f"{self._name(int(found[row]))} ({values[row].max():.3f})"
            for row in rows
        ]

    def _name(self, place: int) -> str:
        return self.names[place] if place < len(self.names) else f"class {place}"

    def scores(self, values: Floats, targets: Targets) -> Floats:
        wanted = _targets(targets, (len(values),), "a class a row")
        return np.asarray(statistics.decisions(values) == wanted, np.float64)


def _flip(row: int, reference: Floats, theirs: int, ours: int) -> Flip:
    margin = float(reference[row, theirs] - reference[row, ours]) if min(theirs, ours) >= 0 else math.nan
    return Flip(row=row, reference=theirs, lane=ours, margin=margin)


def _targets(targets: Targets, shape: tuple[int, ...], what: str) -> NDArray[np.int64]:
    given = np.asarray(targets)
    if given.shape != shape or given.dtype.kind not in "iu":
        raise UsageError("E0166", f"right answers are {what}, int of shape {shape}, not {given.dtype} {given.shape}")
    return given.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Nothing but numbers, which have no right answer."""

    names: Sequence[str] = ()
    unit = Unit.OUTPUT

    def read(self, reference: Floats, values: Floats) -> Read:  # noqa: ARG002 - the numeric measures say all
        return Read(measures=())

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        more = ", ..." if values.shape[1] > _SHOWN else ""
        return [", ".join(f"{value:.4g}" for value in values[row, :_SHOWN]) + more for row in rows]

    def scores(self, values: Floats, targets: Targets) -> Floats:  # noqa: ARG002 - as above
        raise UsageError("E0166", "answers that are just numbers are not right or wrong: leave the labels out")


@dataclass(frozen=True, slots=True)
class Vectors(Numbers):
    """Embeddings, whose use is to find neighbours."""

    def read(self, reference: Floats, values: Floats) -> Read:
        found = neighbours(reference, values)
        if found is None:
            return Read(measures=())
        changed = np.zeros(len(reference), np.bool_)
        changed[found.rows] = found.overlap[1] == 0
        return Read(measures=neighbour_measures(found), changed=changed if len(found.rows) == len(reference) else None)


@dataclass(frozen=True, slots=True)
class Spans:
    """A stretch of places, as question answering gives it."""

    names: Sequence[str] = ()
    unit = Unit.LOGITS

    def read(self, reference: Floats, values: Floats) -> Read:
        theirs, ours = best_spans(_even(reference)), best_spans(_even(values))
        same = (theirs == ours).all(1) & (theirs[:, 0] >= 0)
        return Read(
            measures=(
                share_changed(~same),
                _share("span_match", same.astype(np.float64)),
                _share("span_overlap", span_overlap(theirs, ours)),
            ),
            changed=~same,
        )

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        spans = best_spans(values)
        return ["nothing (NaN)" if spans[row, 0] < 0 else f"{spans[row, 0]} to {spans[row, 1]}" for row in rows]

    def scores(self, values: Floats, targets: Targets) -> Floats:
        wanted = _targets(targets, (len(values), 2), "first and last place a row")
        return np.asarray((best_spans(values) == wanted).all(1), np.float64)


def _even(values: Floats) -> Floats:
    if values.shape[1] % 2:
        raise UsageError("E0166", f"{values.shape[1]} entries are not as many start as end logits")
    return values


def _share(name: str, values: Floats) -> Measure:
    """Give a mean of values in [0, 1] in percent."""
    low, high = mean_of_shares(values)
    value, interval = 100.0 * float(values.mean()), (100.0 * low, 100.0 * high)
    return Measure(name=name, value=value, unit=Unit.PERCENT, better="higher", interval=interval, n=len(values))


@dataclass(frozen=True, slots=True)
class Tokens:
    """One token a place, the likeliest.

    Attributes:
        names: Of the tokens; their number says how many logits a place has.
    """

    names: Sequence[str]
    unit = Unit.LOGITS

    def read(self, reference: Floats, values: Floats) -> Read:
        theirs, ours = self._tokens(reference), self._tokens(values)
        first = first_divergence(theirs, ours)
        same = first == theirs.shape[1]
        places = first.astype(np.float64)
        length = Measure(
            name="first_divergence",
            value=float(places.mean()),
            unit=Unit.TOKENS,
            better="higher",
            interval=bootstrap_mean(places),
            n=len(places),
        )
        return Read(
            measures=(share_changed(~same), _share("same_tokens", same.astype(np.float64)), length), changed=~same
        )

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        tokens = self._tokens(values)
        return [" ".join("NaN" if token < 0 else self.names[token] for token in tokens[row]) for row in rows]

    def scores(self, values: Floats, targets: Targets) -> Floats:
        tokens = self._tokens(values)
        wanted = _targets(targets, tokens.shape, "a token a place")
        return np.asarray((tokens == wanted).mean(1), np.float64)

    def _tokens(self, values: Floats) -> NDArray[np.int64]:
        if not self.names or values.shape[1] % len(self.names):
            raise UsageError("E0166", f"{values.shape[1]} entries are no multiple of the {len(self.names)} tokens")
        return greedy_tokens(values, len(self.names))


@dataclass(frozen=True, slots=True)
class Texts(Tokens):
    """Text that comes out of a CTC network; the first name is the blank."""

    def read(self, reference: Floats, values: Floats) -> Read:
        theirs, ours = (ctc_texts(self._tokens(side), self.names) for side in (reference, values))
        same = np.array([before == after for before, after in zip(theirs, ours, strict=True)])
        return Read(
            measures=(
                share_changed(~same),
                _errors("cer", theirs, ours),
                _errors("wer", [text.split() for text in theirs], [text.split() for text in ours]),
            ),
            changed=~same,
        )

    def texts(self, values: Floats, rows: Sequence[int]) -> list[str]:
        return ctc_texts(self._tokens(values)[list(rows)], self.names)

    def scores(self, values: Floats, targets: Targets) -> Floats:
        if len(targets) != len(values) or not all(isinstance(text, str) for text in targets):
            raise UsageError("E0166", "right answers are a text a row")
        found = ctc_texts(self._tokens(values), self.names)
        return np.array(
            [
                1 - min(1.0, edit_distance(want, text) / max(1, len(want)))
                for want, text in zip(targets, found, strict=True)
            ]
        )


def _errors(name: str, reference: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> Measure:
    """Give the errors of all rows by the symbols of all rows, in percent; NaN where the reference says nothing."""
    pairs = zip(reference, given, strict=True)
    edits = np.array([edit_distance(before, after) for before, after in pairs], np.float64)
    lengths = np.array([len(row) for row in reference], np.float64)
    total = float(lengths.sum())
    low, high = bootstrap_ratio(edits, lengths)
    return Measure(
        name=name,
        value=100.0 * float(edits.sum()) / total if total else math.nan,
        unit=Unit.PERCENT,
        better="lower",
        interval=(100.0 * low, 100.0 * high),
        n=len(edits),
    )


READERS: Final[Mapping[Reading, Callable[[Sequence[str]], Reader]]] = {
    Reading.DECISIONS: Decisions,
    Reading.VECTORS: Vectors,
    Reading.NUMBERS: Numbers,
    Reading.SPANS: Spans,
    Reading.TOKENS: Tokens,
    Reading.TEXT: Texts,
}


def row_differences(reference: Floats, values: Floats, reading: Reading) -> Floats:
    """Give how far each row is off, (N,): 1 - cosine of vectors, else the largest difference; NaN for a row with it."""
    if reading is Reading.VECTORS:
        return 1.0 - row_cosines(reference, values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(reference - values).max(1), np.float64)
