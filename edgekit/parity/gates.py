"""The bounds that a lane can be held to: one table, what each counts in, and what holds if nobody says otherwise."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgekit.parity.metrics import Quantity, Unit
from edgekit_runtime.errors import UsageError

__all__ = [
    "DEFAULTS",
    "FLOAT_SQNR_DB",
    "GATES",
    "Gate",
    "GateKind",
    "chosen_gates",
    "make_gate",
    "parse_gate",
    "read_gates",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateKind:
    """One row of the table.

    Attributes:
        name: What the user types; ``min_`` bounds hold a value up, ``max_`` bounds hold one down.
        measure: Name of the measure.
        unit: Of the measure.
        accepts: Units that a bound may be written in beside it; each converts into ``unit`` without doubt.
        plausible: Least and largest bound that makes sense, in ``unit``; beyond it lies a mistaken unit.
        meaning: In words.
    """

    name: str
    measure: str
    unit: Unit
    accepts: tuple[Unit, ...] = ()
    plausible: tuple[float, float]
    meaning: str


_SHARES = (Unit.FRACTION, Unit.PERCENT, Unit.POINTS)
_ROWS: Final = (
    GateKind(
        name="max_changed",
        measure="changed",
        unit=Unit.POINTS,
        accepts=_SHARES,
        plausible=(0, 100),
        meaning="rows whose answer is another one",
    ),
    # A percentage of an accuracy may be meant of 100 or of the accuracy, so only points will do.
    GateKind(name="max_drop", measure="drop", unit=Unit.POINTS, plausible=(0, 100), meaning="accuracy lost"),
    GateKind(
        name="min_relative_accuracy",
        measure="relative_accuracy",
        unit=Unit.PERCENT,
        accepts=(Unit.FRACTION,),
        plausible=(50, 110),
        meaning="accuracy as a share of the reference's",
    ),
    GateKind(
        name="min_cosine",
        measure="cosine_mean",
        unit=Unit.COSINE,
        plausible=(0, 1),
        meaning="mean cosine of a row with its reference",
    ),
    GateKind(
        name="min_worst_cosine",
        measure="cosine_worst",
        unit=Unit.COSINE,
        plausible=(-1, 1),
        meaning="cosine of the worst row with its reference",
    ),
    *(
        GateKind(
            name=f"min_overlap_{depth}",
            measure=f"overlap_{depth}",
            unit=Unit.FRACTION,
            accepts=(Unit.PERCENT,),
            plausible=(0.02, 1),
            meaning=f"share of the {depth} nearest rows that stay",
        )
        for depth in (1, 5, 10)
    ),
    GateKind(name="min_sqnr", measure="sqnr", unit=Unit.DECIBEL, plausible=(-20, 200), meaning="SQNR"),
    GateKind(
        name="min_float_sqnr",
        measure="sqnr",
        unit=Unit.DECIBEL,
        plausible=(-20, 200),
        meaning="SQNR of a float lane against a float reference",
    ),
    GateKind(
        name="max_difference",
        measure="max_difference",
        unit=Unit.OUTPUT,
        accepts=(Unit.LOGITS,),
        plausible=(0, float("inf")),
        meaning="largest difference of an output",
    ),
    GateKind(
        name="max_steps",
        measure="max_steps",
        unit=Unit.STEPS,
        plausible=(0, float("inf")),
        meaning="largest difference of an output, in quantisation steps",
    ),
    GateKind(
        name="min_span_match",
        measure="span_match",
        unit=Unit.PERCENT,
        accepts=_SHARES,
        plausible=(2, 100),
        meaning="rows with the same span",
    ),
    GateKind(
        name="min_same_tokens",
        measure="same_tokens",
        unit=Unit.PERCENT,
        accepts=_SHARES,
        plausible=(2, 100),
        meaning="rows with the same tokens throughout",
    ),
    *(
        GateKind(
            name=f"max_{name}",
            measure=name,
            unit=Unit.PERCENT,
            accepts=(Unit.FRACTION,),
            plausible=(0, 100),
            meaning=f"{what} errors against the reference's text",
        )
        for name, what in (("cer", "character"), ("wer", "word"))
    ),
)
GATES: Mapping[str, GateKind] = MappingProxyType({row.name: row for row in _ROWS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A bound.

    Attributes:
        kind: What is bounded.
        limit: In the unit of the kind, or in logits for one of the output.
        asked: Whether the user set it; a default that cannot be measured is left out, an asked one is an error.
    """

    kind: GateKind
    limit: Quantity
    asked: bool = False

    def written(self) -> str:
        """Give the bound as a recipe would write it, with every digit."""
        return f"{self.limit.value!r} {self.limit.unit.value}"


# A float export computes the same sums in another order: noise of one millionth of the signal's power is the most that
# was seen. An export that misreads a constant or drops an operator is far above.
FLOAT_SQNR_DB: Final = 60.0
# MLPerf Inference holds a closed-division model to 99 % of the reference's accuracy. Cosine 0.997 is SQNR 22 dB of a
# whole vector; ExecuTorch's backends ask for 20 dB.
_DECIDES: Final = {"max_changed": "5 points", "min_relative_accuracy": "99 %"}
_WRITTEN_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "decisions": _DECIDES,
    "vectors": {"min_cosine": "0.997 cosine", "min_overlap_1": "0.9 fraction"},
    "numbers": {"min_cosine": "0.997 cosine", "min_sqnr": "20 dB"},
    "spans": _DECIDES,
    "tokens": {"min_sqnr": "20 dB", "min_relative_accuracy": "99 %"},
    "text": {"max_cer": "2 %", "min_relative_accuracy": "99 %"},
}
_ALWAYS: Final = {"min_float_sqnr": f"{FLOAT_SQNR_DB:g} dB"}


def make_gate(name: str, written: object, *, asked: bool = True) -> Gate:
    """Give the bound ``written`` of the gate ``name``.

    Raises:
        UsageError: No such gate (E0167); no unit, or one that the gate does not count in (E0168); a number that makes
            sense only in another unit (E0169).
    """
    kind = GATES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, GATES, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "take one of these"
        raise UsageError("E0167", f"no gate {name!r}", why=f"known: {', '.join(GATES)}", fix=fix)
    example = f"write for example {name}='{_example(kind)}'"
    # A cosine has no other unit that it could be taken for.
    bare = kind.unit is Unit.COSINE and _is_number(written)
    if not bare and not isinstance(written, str):
        raise UsageError("E0168", f"{name} needs a unit, not {written!r} alone", fix=example)
    text = f"{written} cosine" if bare else str(written)
    try:
        given = Quantity.parse(text)
    except ValueError as error:
        raise UsageError("E0168", f"{name}: {error}", fix=example) from None
    if given.unit is not kind.unit and given.unit not in kind.accepts:
        raise UsageError("E0168", f"{name} counts in {kind.unit.value}, not in {given.unit.value}", fix=example)
    limit = given if kind.unit is Unit.OUTPUT else given.to(kind.unit)
    low, high = kind.plausible
    if not low <= limit.value <= high:
        what = f"{name}={written} makes no sense: {limit} is not between {low:g} and {high:g}"
        raise UsageError("E0169", what, why="a fraction and a percentage were confused, or a digit is off", fix=example)
    return Gate(kind=kind, limit=limit, asked=asked)


def _is_number(written: object) -> bool:
    if isinstance(written, str):
        return written.replace(".", "", 1).isdecimal()
    return isinstance(written, int | float)


def _example(kind: GateKind) -> str:
    held = {name: text for row in (*_WRITTEN_DEFAULTS.values(), _ALWAYS) for name, text in row.items()}
    low, high = kind.plausible
    return held.get(kind.name, f"{high if kind.name.startswith('min_') else max(1.0, low):g} {kind.unit.value}")


def parse_gate(text: str) -> Gate:
    """Read ``NAME=VALUE``, e.g. ``max_changed=2 points``.

    Raises:
        UsageError: It is no gate (E0167, E0168, E0169).
    """
    name, equals, written = text.partition("=")
    if not equals:
        raise UsageError("E0168", f"{text!r} is no gate", fix="write NAME=VALUE, e.g. 'max_changed=2 points'")
    return make_gate(name.strip(), written.strip())


def read_gates(provenance: object) -> tuple[Gate, ...]:
    """Give the gates that a bundle carries, from its ``provenance.json``: of its recipe and budget, if it had one.

    Where rows have no labels, those on accuracy are left out.
    """
    held = provenance.get("gates", {}) if isinstance(provenance, dict) else {}
    return tuple(make_gate(name, written, asked=False) for name, written in held.items())


DEFAULTS: Mapping[str, tuple[Gate, ...]] = MappingProxyType(
    {
        reading: tuple(make_gate(name, text, asked=False) for name, text in {**written, **_ALWAYS}.items())
        for reading, written in _WRITTEN_DEFAULTS.items()
    }
)
"""Gates by reading."""


def chosen_gates(reading: str, asked: Iterable[Gate]) -> tuple[Gate, ...]:
    """Give the gates that hold: the asked ones, and the defaults that nothing asked stands in for.

    ``max_drop`` and ``min_relative_accuracy`` bound the same loss, so that either stands in for the other. Of two asked
    gates of one name the later holds.
    """
    wanted = {gate.kind.name: gate for gate in asked}
    taken = {*wanted, *({"min_relative_accuracy"} if "max_drop" in wanted else ())}
    return (*(gate for gate in DEFAULTS[reading] if gate.kind.name not in taken), *wanted.values())
