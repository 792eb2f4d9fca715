"""``edgekit debug``: where int8 parts from float, and the smallest model that shows it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import bundle_argument, json_option, print_json, print_table

if TYPE_CHECKING:
    from edgekit.layers import LayerReport
    from edgekit_converters.layerwise.result import LayerRow

__all__ = ["command"]

_HEADER = ("module", "kind", "mode", "own SQNR", "expected", "inherited", "steps", "at ends", "note")
_LANES = ("onnx-int8", "tflite-int8")


@click.group("debug")
def command() -> None:
    """Find the layer where the int8 model of a bundle parts from float."""


def _row_options(function: Any) -> Any:  # noqa: ANN401 - click's own types
    for option in (
        click.option("--on", "lane", required=True, type=click.Choice(_LANES), help="Whose layers."),
        click.option("--rows", default=32, show_default=True, type=click.IntRange(min=1), help="At most so many rows."),
        click.option("--data", type=click.Path(path_type=Path), help="Rows of your own, or the word goldens."),
        click.option("--text", default="text", show_default=True, help="Column with the text."),
        click.option("--max-ram", default=1500, show_default=True, type=click.IntRange(min=1), help="In MB."),
    ):
        function = option(function)
    return function


@command.command("layers")
@bundle_argument
@_row_options
@json_option
def layers(bundle: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Compare every layer of BUNDLE with float: its own error, and what it inherits."""
    from edgekit.layers import layer_report

    question, source = _question(bundle, **options)
    report = layer_report(
        Path(bundle), options["lane"], question.feeds, max_ram_mb=options["max_ram"], bundle=question.bundle
    )
    if as_json:
        print_json("debug", {**report.as_json(), "source": source})
        return
    print(f"{report.rows} rows ({source}); {report.kernels}")
    print_layers(report)


@command.command("reduce")
@bundle_argument
@_row_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@json_option
def reduce(bundle: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Write the smallest model and input that show where BUNDLE first parts from float, as plain files."""
    from edgekit.layers_reduce import reduce_fault

    question, _ = _question(bundle, **options)
    told, made = reduce_fault(
        Path(bundle),
        options["lane"],
        question.feeds,
        options["out"],
        max_ram_mb=options["max_ram"],
        bundle=question.bundle,
    )
    if as_json:
        files = [str(file) for file in made.files]
        print_json("debug", {**told.as_json(), "operators": list(made.operators), "row": made.row, "files": files})
        return
    print(f"{told.module} ({told.reason}): {told.note}")
    print(f"{', '.join(made.operators)}, row {made.row} of {made.of_rows}: {options['out']}")
    print("`python show.py` in that folder shows it")


@command.command("identity")
@bundle_argument
@json_option
def identity(bundle: str, as_json: bool) -> None:
    """Show which tensor of which file each PyTorch module of BUNDLE became."""
    from edgekit.layers_identity import layer_identities
    from edgekit_runtime.bundle import verify

    found = layer_identities(Path(bundle), bundle=verify(bundle))
    if as_json:
        tables = {"layers": [asdict(row) for row in found.layers], "lost": [asdict(row) for row in found.lost]}
        print_json("debug", {"bundle": bundle, **tables})
        return
    rows = [[_short(value) for value in asdict(row).values()] for row in found.layers]
    print_table(("module", "kind", "ONNX float", "ONNX int8", "TFLite float", "TFLite int8"), rows)
    for row in found.lost:
        print(f"{row.module}: {row.reason}")


def _short(name: str | None) -> str:
    """Keep the number and the end of the long names that TFLite's converter gives."""
    number, _, rest = (name or "-").partition(":")
    return f"{number}:...{rest[-24:]}" if len(rest) > 24 else name or "-"


def _question(bundle: str, **options: Any) -> Any:  # noqa: ANN401
    from edgekit.lanes.base import Question
    from edgekit.parity_rows import DataOption, load_asked, spread
    from edgekit_runtime.bundle import verify

    checked, path = verify(bundle), Path(bundle)
    data = DataOption(path=options["data"], text=options["text"]) if options["data"] else None
    asked = spread(load_asked(checked, path, data), options["rows"])
    return Question(path=path, bundle=checked, rows=asked.rows), asked.source


def print_layers(report: "LayerReport") -> None:
    """Print the table and what it says."""
    print_table(_HEADER, [_cells(row) for row in report.layers], right=frozenset({3, 4, 5, 6, 7}))
    print()
    print(report.words)
    later = [row.module for row in report.layers if row.reason is not None][1:]
    if later:
        print(f"out of line as well: {', '.join(later[:5])}{' ...' if len(later) > 5 else ''}")
    print(f"{report.cpu_s:.1f} s of CPU time, at most {report.peak_rss_mb:.0f} MB of memory")


def _cells(row: "LayerRow") -> list[str]:
    steps = "-" if row.local.rmse_steps is None else f"{row.local.rmse_steps:.3f}"
    ends = "-" if row.saturation is None else f"{100 * row.saturation:.2f} %"
    note = "" if row.reason is None else f"{row.reason}: {row.note}"
    return [
        *(row.module, row.kind, row.mode, _db(row.local.sqnr_db), _db(row.expected_db), _db(row.inherited.sqnr_db)),
        *(steps, ends, note),
    ]


def _db(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f} dB"
