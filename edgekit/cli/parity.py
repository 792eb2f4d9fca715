"""``edgekit parity``: do the lanes of a bundle give the same answers?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.bounds import points_option
from edgekit.cli.output import bundle_argument, json_option, print_json, print_table
from edgekit.lanes.local import LANES
from edgekit.recipe.spec import BudgetSpec
from edgekit_runtime.errors import QualityError

if TYPE_CHECKING:
    from edgekit.parity.agreement import Fault, ParityResult
    from edgekit.parity.closeness import Closeness, Limits

__all__ = ["command"]

_HEADER = ("lane", "accuracy (95 %)", "drop", "changed (95 %)", "SQNR", "cosine", "max difference")


@click.command("parity")
@bundle_argument
@click.option("--on", "lanes", multiple=True, type=click.Choice(LANES), help="Lane; may be given more than once.")
@click.option("--reference", type=click.Choice(LANES), default="torch", show_default=True, help="Lane to compare with.")
@click.option("--data", type=click.Path(path_type=Path), help="Rows: csv, jsonl, parquet, npz or a folder of images.")
@click.option("--text", default="text", show_default=True, help="Column with the text.")
@click.option("--label", default="label", show_default=True, help="Column with the label.")
@click.option("--max-drop", help="Accuracy that int8 may lose, e.g. '0.5 points'; 1 point if not given.")
@click.option("--max-changed", help="Decisions that int8 may change, e.g. '2 points' of the rows; 5 if not given.")
@click.option("--min-cosine", type=click.FloatRange(0, 1), help="For ready models: least mean cosine.")
@json_option
def command(
    bundle: str,
    lanes: tuple[str, ...],
    reference: str,
    data: Path | None,
    text: str,
    label: str,
    as_json: bool,
    **bounds: Any,  # noqa: ANN401 - click's own types
) -> None:
    """Run the lanes of BUNDLE on the same rows and compare them; exit code 3 if a bound is missed.

    Without --on, every lane. Without --data, the evaluation rows that the build kept beside the bundle.
    """
    from edgekit.parity.agreement import judge
    from edgekit.parity.closeness import Limits
    from edgekit.parity_run import DataOption, run_parity
    from edgekit.quantise_only.parity import came_ready, compare_ready
    from edgekit_runtime.bundle import verify

    budget = BudgetSpec(
        max_drop=points_option("--max-drop", bounds["max_drop"], BudgetSpec().max_drop),
        max_changed=points_option("--max-changed", bounds["max_changed"], BudgetSpec().max_changed),
    )
    checked = verify(bundle)
    if came_ready(checked):
        found = compare_ready(checked, Path(bundle), lanes=lanes or LANES, reference=reference, data=data, text=text)
        cosine = Limits().min_cosine if bounds["min_cosine"] is None else float(bounds["min_cosine"])
        limits = Limits(min_cosine=cosine, max_changed=budget.max_changed.value / 100)
        _finish_ready(bundle, found, reference=reference, limits=limits, as_json=as_json)
        return
    option = DataOption(path=data, text=text, label=label) if data else None
    result, warnings = run_parity(Path(bundle), lanes=lanes or LANES, reference=reference, data=option)
    faults = judge(result, budget)
    if as_json:
        verdict = {"passed": not faults, "faults": [str(fault) for fault in faults], "warnings": list(warnings)}
        print_json("parity", {"bundle": bundle, **result.as_json(), **verdict})
    else:
        for warning in warnings:
            click.echo(f"data: {warning}", err=True)
        _print(result)
    if faults:
        raise _unlike(bundle, reference, faults)
    if not as_json:
        print(f"passed: int8 loses at most {budget.max_drop} and changes at most {budget.max_changed} of the rows")


def _unlike(bundle: str, reference: str, faults: "Sequence[Fault]") -> QualityError:
    return QualityError(
        "E0302",
        f"{Path(bundle).name} does not answer as {reference} does",
        why="; ".join(str(fault) for fault in faults),
        fix="look at the rows above; build again with more calibration rows or more layers in float",
    )


def _finish_ready(
    bundle: str, found: "Mapping[str, Closeness]", *, reference: str, limits: "Limits", as_json: bool
) -> None:
    """Print what a bundle of a ready model lost, and judge it."""
    from edgekit.cli.quantise_only import CLOSENESS, closeness_cells
    from edgekit.parity.closeness import misses

    faults = [fault for lane, close in found.items() for fault in misses(lane, close, limits)]
    if as_json:
        verdict = {"passed": not faults, "faults": [str(fault) for fault in faults]}
        agreements = {lane: close.as_json() for lane, close in found.items()}
        print_json("parity", {"bundle": bundle, "reference": reference, "agreements": agreements, **verdict})
    else:
        rows = [[lane, *closeness_cells(close)] for lane, close in found.items()]
        print_table(("lane", *CLOSENESS), rows, right=frozenset(range(1, 1 + len(CLOSENESS))))
    if faults:
        raise _unlike(bundle, reference, faults)
    if not as_json:
        print(f"passed: int8 keeps a mean cosine of at least {limits.min_cosine:g} to {reference}")


def _print(result: "ParityResult") -> None:
    rows = []
    for lane in result.lanes:
        low, high = lane.interval
        cells = [lane.lane, f"{lane.accuracy:.4f} ({low:.3f}-{high:.3f})"]
        pair = result.agreement(lane.lane)
        if pair is None:
            rows.append([*cells, "reference", "-", "-", "-", "-"])
            continue
        least, most = pair.changed_interval
        changed = f"{pair.changed} ({100 * least:.2f}-{100 * most:.2f} %)"
        sqnr = f"{pair.sqnr_db:.1f} dB"
        rows.append(
            [*cells, f"{pair.drop.value:+.2f}", changed, sqnr, f"{pair.cosine:.6f}", f"{pair.max_difference:.4f}"]
        )
    print(f"{result.rows:,} rows; drop in points and changed rows against {result.reference}")
    print_table(_HEADER, rows, right=frozenset(range(1, len(_HEADER))))
