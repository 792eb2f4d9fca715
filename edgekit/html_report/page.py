"""What a report is made of, before it becomes HTML: a verdict, then sections of text, charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

__all__ = ["Block", "Cell", "Chart", "ChartRow", "Mark", "Note", "Page", "Picture", "Section", "State", "Table", "Tick"]

State = Literal["good", "bad", "open"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a cell.

    Attributes:
        uri: ``data:`` address.
        alt: What it shows, in words.
        width: In pixels.
        height: In pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


Cell = str | Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        header: One text a column.
        rows: As many cells each.
        right: Columns of numbers.
        wide: Columns of running text, which may break.
        states: One a row: good, bad or neither; empty for all neither.
    """

    kind: ClassVar = "table"
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    states: tuple[State | None, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row has not {len(self.header)} cells")
        if self.states and len(self.states) != len(self.rows):
            raise ValueError(f"{len(self.states)} states of {len(self.rows)} rows")


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the scale.

    Attributes:
        at: In % of the width.
        label: The value there.
        edge: ``start`` or ``end`` at the borders, where a centred label would stick out, else ``middle``.
    """

    at: str
    label: str
    edge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A bar, or a dot with whiskers.

    Attributes:
        low: Left end, in % of the width.
        high: Right end, likewise.
        width: Of both, likewise.
        dot: Place of the dot; None for a bar.
        colour: Name of a series.
    """

    low: str
    high: str
    width: str
    dot: str | None
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartRow:
    """One line of a chart; the text holds all that the drawing shows.

    Attributes:
        label: Whose it is.
        value: With its unit.
        marks: At most two, one above the other.
        state: Bad where something is wrong with it.
    """

    label: str
    value: str
    marks: tuple[Mark, ...]
    state: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Horizontal bars or dots on one scale.

    Attributes:
        title: What is drawn, and its unit.
        rows: From top to bottom.
        ticks: Of the scale.
        legend: Colour and meaning of each series.
    """

    kind: ClassVar = "chart"
    title: str
    rows: tuple[ChartRow, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...] = ()


Block = Table | Note | Chart


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report under its own heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report.

    Attributes:
        title: Of what.
        subtitle: On what.
        state: Good if all passed, bad if not, open where nothing was judged.
        headline: The verdict in one sentence.
        sentences: What is behind it.
        sections: In reading order.
    """

    title: str
    subtitle: str
    state: State
    headline: str
    sentences: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())
