"""Reading tables of texts: CSV, JSON lines, Parquet and data sets of the ``datasets`` library."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgekit.recipe.spec import DataSource, DataSpec
from edgekit_models.data.raw import RawTable, raw_label
from edgekit_models.data.sources import find_source_file, load_named_dataset, named_labels
from edgekit_models.files import near
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["read_table"]


@dataclass(frozen=True, slots=True)
class _Columns:
    """A table by column; ``numbers`` and ``unit`` as in `RawTable`."""

    cells: Mapping[str, Sequence[object]]
    numbers: Sequence[int]
    unit: str


def read_table(source: DataSource, spec: DataSpec, *, folder: Path) -> RawTable:
    """Read the text and label columns of a table and keep the rows that ``spec.where`` asks for.

    Raises:
        MissingError: The file, the package or a library is not here.
        UsageError: The file is not what it should be, or lacks a column.
    """
    if source.kind == "datasets":
        named = load_named_dataset(source)
        cells = {name: named[name] for name in named.column_names}
        if spec.label in cells:
            cells[spec.label] = named_labels(named, spec)
        columns = _Columns(cells, range(1, len(named) + 1), "row")
    else:
        path = find_source_file(source, folder=folder)
        try:
            columns = _READERS[source.kind](path, source.location)
        except ImportError as error:
            raise MissingError(
                "E0227",
                f"the library {error.name!r}, which reads {source.kind} files, is not installed",
                fix="pip install 'edgekit[build]'",
            ) from error
    for name in (spec.text, spec.label, *spec.where):
        _require_column(name, columns.cells, title=source.location)
    return _select(columns, spec, title=source.location)


def _select(columns: _Columns, spec: DataSpec, *, title: str) -> RawTable:
    kept = list(range(len(columns.numbers)))
    for name, wanted in spec.where.items():
        cells = columns.cells[name]
        kept = [i for i in kept if _cell_text(cells[i]) == wanted]
        if not kept and len(columns.numbers):
            values = sorted({_cell_text(cell) for cell in cells})
            raise UsageError(
                "E0229",
                f"no row of {title!r} has {name!r} equal to {wanted!r}{near(wanted, values)}",
                why=f"the column holds {', '.join(map(repr, values[:8]))}{' and others' if len(values) > 8 else ''}",
                fix="correct 'where' in the recipe",
            )
    texts, labels = columns.cells[spec.text], columns.cells[spec.label]
    return RawTable(
        title=title,
        texts=[texts[i] for i in kept],
        labels=[labels[i] for i in kept],
        numbers=[columns.numbers[i] for i in kept],
        unit=columns.unit,
    )


def _cell_text(cell: object) -> str:
    try:
        return raw_label(cell) or ""
    except TypeError:
        return str(cell)


def _require_column(name: str, cells: Mapping[str, Sequence[object]], *, title: str) -> None:
    if name in cells:
        return
    names = list(cells)
    why = f"the columns are {', '.join(map(repr, names[:20]))}"
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        why += "; the file seems to use another separator than the comma"
    raise UsageError(
        "E0208",
        f"{title!r} has no column {name!r}{near(name, names)}",
        why=why,
        fix="set data.text, data.label or data.where to a column that exists",
    )


def _decode(path: Path, title: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = data[:2] in {b"\xff\xfe", b"\xfe\xff"}
        line = data.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if utf16 else "WINDOWS-1252"
        raise UsageError(
            "E0206",
            f"{title!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line})",
            why=f"the file was probably saved as {guess}",
            fix=f"iconv -f {guess} -t UTF-8 '{path.name}' > utf8{path.suffix}, then name that file in the recipe",
        ) from error


def _read_csv(path: Path, title: str) -> _Columns:
    """Read a CSV file with a header (tabs in a ``.tsv``); every cell stays text, so that ``NA`` is a word."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_decode(path, title), newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    number = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(number)
            number = reader.line_num + 1
    except csv.Error as error:
        raise _unreadable(f"{title}, line {number}", "CSV row", error) from error
    if not rows:
        raise UsageError("E0211", f"{title!r} gives no rows", why="it is empty", fix="name a source with rows")
    header, *body = rows
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise _unreadable(title, "CSV table", f"its header names the column {twice[0]!r} twice")
    for row, number in zip(body, numbers[1:], strict=True):
        if len(row) != len(header):
            why = f"the row has {len(row)} cells, the header {len(header)}; text with a separator needs quotes"
            raise _unreadable(f"{title}, line {number}", "CSV row", why)
    columns = zip(*body, strict=True) if body else [()] * len(header)
    return _Columns(dict(zip(header, columns, strict=True)), numbers[1:], "line")


def _read_jsonl(path: Path, title: str) -> _Columns:
    rows: list[dict[str, object]] = []
    numbers: list[int] = []
    for number, line in enumerate(_decode(path, title).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(f"{title}, line {number}", "JSON object", error) from error
        if not isinstance(row, dict):
            raise _unreadable(f"{title}, line {number}", "JSON object", f"it is a {type(row).__name__}")
        rows.append(row)
        numbers.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _Columns({name: [row.get(name) for row in rows] for name in names}, numbers, "line")


def _read_parquet(path: Path, title: str) -> _Columns:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(title, "Parquet file", error) from error
    cells = {name: table.column(name).to_pylist() for name in table.column_names}
    return _Columns(cells, range(1, table.num_rows + 1), "row")


def _unreadable(title: str, wanted: str, cause: object) -> UsageError:
    return UsageError(
        "E0207",
        f"{title!r} cannot be read as a {wanted}",
        why=str(cause).strip(),
        fix="mend the file, or name the source kind that fits it (csv, jsonl, parquet)",
    )


_READERS: Mapping[str, Callable[[Path, str], _Columns]] = MappingProxyType(
    {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
)
