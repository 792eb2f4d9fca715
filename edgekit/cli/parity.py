"""``edgekit parity``: do the lanes of a bundle give the same answers?"""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import bundle_argument, json_is_printed, json_option, print_json, print_table
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekit.parity.compare import LaneComparison
    from edgekit.parity_run import ParityAsk, ParityRun

__all__ = ["READINGS", "command"]

_HEADER = ("lane", "accuracy (95 %)", "changed (95 %)", "SQNR", "cosine", "max difference", "steps")
READINGS = ("decisions", "vectors", "numbers", "spans", "tokens", "text")  # of edgekit.parity.readings, which is heavy
_COSTS = ("lane", "engine", "CPU", "CPU ms", "instructions")


def _rows_option(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    if value == "all":
        return 0
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter("give a number of rows, or 'all'")
    return int(value)


@click.command("parity")
@bundle_argument
@click.option("--on", "lanes", multiple=True, metavar="LANE", help="Where to run it; may be given more than once.")
@click.option("--reference", default="torch", show_default=True, metavar="LANE", help="Lane to compare with.")
@click.option("--data", type=click.Path(path_type=Path), help="Rows of your own, or the word goldens.")
@click.option("--text", default="text", show_default=True, help="Column with the text.")
@click.option("--label", default="label", show_default=True, help="Column with the label.")
@click.option("--rows", callback=_rows_option, help="At most so many rows; all, but 200 with an emulated lane.")
@click.option("--read-as", type=click.Choice(READINGS), help="How answers are read, if not as the task says.")
@click.option("--names", type=click.Path(path_type=Path), help="Tokens or symbols, one a line, for --read-as.")
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="A bound, e.g. 'max_changed=2 points'.")
@click.option("--require-enough-rows", is_flag=True, help="Fail where the rows are too few to be sure of a bound.")
@click.option("--layers/--no-layers", default=None, help="Name the layer where an int8 lane parts; else if it fails.")
@click.option("--max-ram", default=1500, show_default=True, type=click.IntRange(min=1), help="For --layers, in MB.")
@click.option("--evidence", type=click.Path(path_type=Path), help="Write all that was measured as JSON.")
@click.option("--dry-run", is_flag=True, help="Print the commands that ssh and adb lanes would run, and run nothing.")
@click.option("--save-rows", type=click.Path(path_type=Path), help="Write the rows for a device, and run nothing.")
@json_option
def command(bundle: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's own types
    """Run BUNDLE in several places on the same rows and compare the answers; exit code 3 if a gate is missed.

    LANE is torch, onnx-fp32, onnx-int8, tflite-fp32 or tflite-int8 on this machine, any of the last four with an engine
    (tflite-int8:litert-builtin), a place that runs the bundle (arm:cortex-a72, armv7:cortex-a7, ssh://pi@host,
    adb:SERIAL), one of its models (arm:cortex-a72/onnx-int8), or an evidence file of a device (pi.json). Without --on,
    every lane of this machine. Without --data, the evaluation rows that the build kept beside the bundle.
    """
    from edgekit.parity.gates import parse_gate
    from edgekit.parity.readings import Reading
    from edgekit.parity.verdict import refusal
    from edgekit.parity_rows import DataOption
    from edgekit.parity_run import ParityAsk, planned_commands, run_parity, with_layers, write_evidence

    data, evidence, rows_file = options["data"], options["evidence"], options["save_rows"]
    for option, path in (("--evidence", evidence), ("--save-rows", rows_file)):
        _require_writable(option, path)
    ask = ParityAsk(
        lanes=options["lanes"],
        reference=options["reference"],
        data=DataOption(path=data, text=options["text"], label=options["label"]) if data else None,
        most_rows=options["rows"],
        gates=tuple(parse_gate(text) for text in options["gates"]),
        require_enough_rows=options["require_enough_rows"],
        reading=Reading(options["read_as"]) if options["read_as"] else None,
        names=_names(options["names"]),
    )
    if rows_file:
        _save_rows(Path(bundle), ask, rows_file, as_json=as_json)
        return
    if options["dry_run"]:
        _print_commands(planned_commands(Path(bundle), ask), as_json=as_json)
        return
    run = run_parity(Path(bundle), ask, tell=_tell)
    if options["layers"] is not False:
        run = with_layers(run, every=bool(options["layers"]), max_ram_mb=options["max_ram"], tell=_tell)
    if evidence:
        _write("--evidence", evidence, lambda: write_evidence(run, evidence))
    if as_json:
        print_json("parity", _short(bundle, run))
        json_is_printed()
    else:
        _print(run)
    failed = refusal(run.verdict, bundle=Path(bundle).name, reference=ask.reference)
    if failed:
        raise failed
    for error in run.lost.values():
        raise error  # all that answered pass, but nobody may take that for a pass of the lane that did not


def _names(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("E0170", f"--names {path} cannot be read", why=str(error), fix="check the path") from error


def _require_writable(option: str, path: Path | None) -> None:
    """Refuse before the work, not after it, a file that cannot be written.

    Raises:
        UsageError: It cannot (E0195).
    """
    if path is None:
        return
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder '{path.parent}'"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "nothing may be written there"
    if why:
        raise _unwritable(option, path, why)


def _write(option: str, path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise _unwritable(option, path, error.strerror or str(error)) from error


def _unwritable(option: str, path: Path, why: str) -> UsageError:
    return UsageError("E0195", f"{option} {path} cannot be written", why=why, fix="name a file in another folder")


def _print_commands(found: "Mapping[str, Sequence[Sequence[str]]]", *, as_json: bool) -> None:
    if as_json:
        print_json("parity", {"dry_run": {lane: [list(words) for words in lines] for lane, lines in found.items()}})
        return
    for lane, lines in found.items():
        print(f"# {lane}")
        for words in lines:
            print(shlex.join(words))
    if not found:
        print("no lane runs another program: nothing to print")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _save_rows(bundle: Path, ask: "ParityAsk", path: Path, *, as_json: bool) -> None:
    from edgekit.parity_rows import load_asked, spread
    from edgekit_runtime.bundle import verify

    asked = spread(load_asked(verify(bundle), bundle, ask.data), ask.most_rows or None)
    if path.suffix != asked.rows.suffix:
        what = f"these rows are kept in a file that ends in {asked.rows.suffix}, not in {path.suffix or 'nothing'}"
        raise UsageError("E0128", what, fix=f"--save-rows {path.with_suffix(asked.rows.suffix)}")
    _write("--save-rows", path, lambda: asked.rows.write(path))
    device = ["python", "-m", "edgekit_runtime", "selftest", bundle.name, "--rows", path.name]
    device += ["--evidence", "device.json"]
    # The rows as they were asked for, not the file: it holds no labels.
    here = ["edgekit", "parity", str(bundle), "--on", "device.json"]
    if ask.data:
        here += ["--data", str(ask.data.path)]
        here += ["--text", ask.data.text] * (ask.data.text != "text")
        here += ["--label", ask.data.label] * (ask.data.label != "label")
    if ask.most_rows is not None:
        here += ["--rows", str(ask.most_rows or "all")]
    if as_json:
        print_json("parity", {"rows": len(asked.rows), "file": str(path), "device": device, "here": here})
        return
    print(f"{len(asked.rows)} rows written to {path}; on the device:")
    print(shlex.join(device))
    print("then here, with the file that it wrote:")
    print(shlex.join(here))


def _short(bundle: str, run: "ParityRun") -> dict[str, object]:
    """Give the evidence document without the outputs of every row, which ``--evidence`` writes."""
    held = run.as_json()
    lanes = [lane.as_json() for lane in run.evidence]
    for lane in lanes:
        lane.pop("outputs")
        lane.pop("tensors")
    passed = run.verdict.passed and not run.lost
    return {**held, "lanes": lanes, "bundle_file": bundle, "passed": passed, "words": _words(run)}


def _words(run: "ParityRun") -> list[str]:
    from edgekit.parity.words import sentences

    layers = [report.words for report in run.layers.values()]
    lost = [f"{lane}: no answer: {error.what}" for lane, error in run.lost.items()]
    return [*sentences(run.comparison, run.verdict), *lost, *layers, *(f"note: {note}" for note in run.notes)]


def _print(run: "ParityRun") -> None:
    for warning in run.asked.warnings:
        click.echo(f"data: {warning}", err=True)
    comparison = run.comparison
    print(f"{comparison.rows:,} rows ({run.asked.source}), against {comparison.reference}")
    rows = [_cells(lane, reference=lane.lane == comparison.reference) for lane in comparison.lanes]
    print_table(_HEADER, rows, right=frozenset(range(1, len(_HEADER))))
    print()
    costs = []
    for lane in run.evidence:
        counted = lane.cost.instructions_min
        cpu = "-" if lane.cost.cpu_ms_min is None else f"{lane.cost.cpu_ms_min:.3f}"
        where = f"{lane.machine.cpu}, {lane.machine.arch}"
        costs.append(
            [lane.lane, f"{lane.engine} {lane.engine_version}", where, cpu, f"{counted:,}" if counted else "-"]
        )
    print_table(_COSTS, costs, right=frozenset({3, 4}))
    print()
    for line in _words(run):
        print(line)


def _cells(lane: "LaneComparison", *, reference: bool) -> list[str]:
    accuracy = "-"
    if lane.accuracy is not None:
        accuracy = f"{lane.accuracy.value:.4f}"
        if lane.accuracy.interval is not None:
            accuracy += " ({:.3f}-{:.3f})".format(*lane.accuracy.interval)
    if reference:
        return [lane.lane, accuracy, "reference", "-", "-", "-", "-"]
    changed = "-"
    found = lane.measure("changed")
    if found is not None and found.n is not None and found.interval is not None:
        low, high = found.interval
        changed = f"{round(found.value * found.n / 100)} ({low:.2f}-{high:.2f} %)"
    numbers = [
        (lane.measure(name), form)
        for name, form in (
            ("sqnr", "{:.1f} dB"),
            ("cosine", "{:.6f}"),
            ("max_difference", "{:.4f}"),
            ("max_steps", "{:.2f}"),
        )
    ]
    cells = ["-" if measure is None else form.format(measure.value) for measure, form in numbers]
    return [lane.lane, accuracy, changed, *cells]
