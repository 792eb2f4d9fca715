"""Parts of the rows, by length, script, class or brightness: a loss that hides in one of them is found there."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.intervals import clopper_pearson, mean_of_shares
from edgekit.parity.metrics import Measure, Unit
from edgekit.parity.readings import share_changed
from edgekit_runtime.rows import IMAGES, RawRows

__all__ = ["LEAST_ROWS", "Part", "Slice", "accuracy_measure", "measure_slice", "partitions", "script_of", "worst_slice"]

Floats = NDArray[np.float64]
LEAST_ROWS: Final = 10  # a smaller part says too little to be called the worst
_MOST_CLASSES = 50
# Unicode names a letter by its script first; these scripts are written together.
_SCRIPTS: Final[Mapping[str, str]] = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that have something in common.

    Attributes:
        kind: ``length``, ``script``, ``class`` or ``brightness``.
        name: Which, in words.
        rows: Mask, bool (N,).
    """

    kind: str
    name: str
    rows: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How a lane did on a part of the rows.

    Attributes:
        kind: ``length``, ``script``, ``class`` or ``brightness``.
        name: Which, in words.
        rows: Their number.
        measures: ``changed`` (points) where answers can change, ``accuracy`` and ``reference_accuracy`` (fractions)
            where labels are known, ``cosine_mean`` always.
    """

    kind: str
    name: str
    rows: int
    measures: tuple[Measure, ...]

    def measure(self, name: str) -> Measure | None:
        """Give one of the measures."""
        return next((each for each in self.measures if each.name == name), None)

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        measures = [each.as_json() for each in self.measures]
        return {"kind": self.kind, "name": self.name, "rows": self.rows, "measures": measures}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave."""
        measures = tuple(Measure.from_json(each) for each in held["measures"])
        return cls(kind=str(held["kind"]), name=str(held["name"]), rows=int(held["rows"]), measures=measures)


def partitions(rows: RawRows | None, classes: Sequence[str] | None) -> list[Part]:
    """Part the rows in every way that gives two parts or more.

    Args:
        rows: Texts are parted by length and script, images by brightness; None where they are not known.
        classes: Name of the class of each row, (N,).
    """
    parts: list[Part] = []
    if rows is not None and rows.texts:
        lengths = np.array([len(text) for text in rows.texts], np.float64)
        parts += _thirds("length", lengths, "{:.0f} characters")
        parts += _groups("script", [script_of(text) for text in rows.texts])
    elif rows is not None and IMAGES in rows.arrays:
        images = rows.arrays[IMAGES]
        brightness = images.reshape(len(images), -1).mean(1, dtype=np.float64)
        parts += _thirds("brightness", brightness, "{:.3g}")
    if classes is not None and len(set(classes)) <= _MOST_CLASSES:
        parts += _groups("class", classes)
    return parts


def script_of(text: str) -> str:
    """Give the script of most letters of a text, e.g. ``Latin``, ``Cyrillic``, ``Han``; ``none`` without letters."""
    found = Counter(
        _SCRIPTS.get(word := unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0], word.capitalize())
        for letter in text
        if letter.isalpha()
    )
    # Japanese writes Han characters between its own: a text with both is Japanese.
    if found["Japanese"]:
        found["Japanese"] += found.pop("Han", 0)
    return found.most_common(1)[0][0] if found else "none"


def _groups(kind: str, names: Sequence[str]) -> list[Part]:
    each, known = np.array(names, object), sorted(set(names))
    return [Part(kind, name, each == name) for name in known] if len(known) > 1 else []


def _thirds(kind: str, values: Floats, shown: str) -> list[Part]:
    """Part rows at the two values that leave a third of them on either side; equal values stay together."""
    low, high = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
    if low == high:
        masks = {f"up to {shown.format(low)}": values <= low, f"over {shown.format(low)}": values > low}
    else:
        masks = {
            f"up to {shown.format(low)}": values <= low,
            f"over {shown.format(low)}, up to {shown.format(high)}": (values > low) & (values <= high),
            f"over {shown.format(high)}": values > high,
        }
    held = {name: mask for name, mask in masks.items() if mask.any()}
    return [Part(kind, name, mask) for name, mask in held.items()] if len(held) > 1 else []


def measure_slice(
    part: Part, *, changed: NDArray[np.bool_] | None, scores: tuple[Floats, Floats] | None, cosines: Floats
) -> Slice:
    """Measure a lane on one part.

    Args:
        part: Of the rows.
        changed: Rows with another answer, bool (N,).
        scores: Of the reference and of the lane, (N,) each, 0 to 1.
        cosines: Of each row with its reference, (N,).
    """
    count, measures = int(part.rows.sum()), []
    if changed is not None:
        measures.append(share_changed(changed[part.rows]))
    if scores is not None:
        for name, values in zip(("reference_accuracy", "accuracy"), scores, strict=True):
            measures.append(accuracy_measure(values[part.rows], name=name))
    mean = float(cosines[part.rows].mean())
    measures.append(Measure(name="cosine_mean", value=mean, unit=Unit.COSINE, better="higher", n=count))
    return Slice(kind=part.kind, name=part.name, rows=count, measures=tuple(measures))


def accuracy_measure(scores: Floats, *, name: str = "accuracy") -> Measure:
    """Give the mean score as a fraction; right and wrong have an exact interval, other scores a bootstrap one."""
    binary = bool(((scores == 0) | (scores == 1)).all())
    interval = clopper_pearson(int(scores.sum()), len(scores)) if binary else mean_of_shares(scores)
    value = float(scores.mean())
    return Measure(name=name, value=value, unit=Unit.FRACTION, better="higher", interval=interval, n=len(scores))


def worst_slice(slices: Sequence[Slice]) -> Slice | None:
    """Give the part of ten rows or more whose changed answers are the least likely at the share of all rows.

    Without changed answers: the part with the lowest cosine. None where nothing tells parts apart.

    Source: the upper tail of a binomial distribution, so that neither a small part nor a large one is favoured.
    """
    from scipy.stats import binom

    held = [each for each in slices if each.rows >= LEAST_ROWS]
    counts = {id(each): _changed(each) for each in slices}
    if all(count is None for count in counts.values()):
        return min(held, key=_cosine, default=None)
    first = [each for each in slices if each.kind == slices[0].kind]  # the parts of one kind hold every row once
    share = sum(counts[id(each)] or 0 for each in first) / sum(each.rows for each in first)
    tails = [(float(binom.sf((counts[id(each)] or 0) - 1, each.rows, share)), each) for each in held]
    tail, worst = min(tails, key=lambda pair: pair[0], default=(1.0, None))
    return worst if tail < 1.0 else None


def _changed(each: Slice) -> int | None:
    found = each.measure("changed")
    return None if found is None else round(found.value * each.rows / 100)


def _cosine(each: Slice) -> float:
    found = each.measure("cosine_mean")
    return -np.inf if found is None or np.isnan(found.value) else found.value
