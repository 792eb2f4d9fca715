"""``edgekit build``: a recipe becomes a verified bundle."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.bounds import points_option
from edgekit.cli.output import json_option, print_json, print_table
from edgekit.cli.progress import make_progress
from edgekit.targets import get_target
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.build import BuildResult
    from edgekit.report import BuildReport, LaneRow

__all__ = ["command", "print_report"]


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--target", "-t", "targets", multiple=True, help="Board to build for; may be given more than once.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Output folder; runs/NAME/TARGET if not given.")
@click.option("--trust-code", is_flag=True, help="Run code that the recipe names (teacher.factory).")
@click.option("--offline", is_flag=True, help="Use no network, not even for a hub id.")
@click.option("--max-drop", help="Replaces budget.max_drop, e.g. '0.5 points'.")
@json_option
def command(
    recipe: Path,
    targets: tuple[str, ...],
    out: Path | None,
    trust_code: bool,
    offline: bool,
    max_drop: str | None,
    as_json: bool,
) -> None:
    """Build RECIPE into a bundle, and fail if a bound of its budget is missed."""
    for name in targets:
        get_target(name)
    if out is not None and len(targets) > 1:
        raise UsageError(
            "E0124",
            "--out names one folder, but several targets are given",
            fix="leave --out out (each target gets runs/NAME/TARGET), or build one target at a time",
        )
    from edgekit.build import build_recipe
    from edgekit.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    allowed = points_option("--max-drop", max_drop, loaded.budget.max_drop)
    loaded = dataclasses.replace(loaded, budget=dataclasses.replace(loaded.budget, max_drop=allowed))
    progress = make_progress()
    results = [
        build_recipe(loaded, target=name, out=out, trust_code=trust_code, offline=offline, progress=progress)
        for name in targets or loaded.targets[:1]
    ]
    if as_json:
        print_json("build", {"builds": [_as_json(result) for result in results]})
        return
    for result in results:
        print_report(result.report)
        print(f"bundle: {result.bundle}")


def _as_json(result: "BuildResult") -> dict[str, object]:
    return {"bundle": str(result.bundle), "sha256": result.digest, "report": result.report.as_json()}


_HEADER = (
    "lane",
    "engine",
    "MB",
    "M params",
    "M MACs",
    "accuracy (95 %)",
    "drop",
    "changed",
    "SQNR",
    "CPU ms",
    "faster",
)


def print_report(report: "BuildReport") -> None:
    """Print the table of a build."""
    teacher = report.row("teacher")
    base = teacher.cpu_ms_min if teacher else None
    rows = [_cells(row, report.eval_rows, base) for row in report.rows]
    print(
        f"\n{report.name} for {report.target}: {report.eval_rows:,} evaluation rows; CPU: {report.machine}, one thread"
    )
    print_table(_HEADER, rows, right=frozenset(range(2, len(_HEADER))))
    print("drop in points, changed in rows: against the float32 student in PyTorch; faster: against the teacher")


def _cells(row: "LaneRow", eval_rows: int, base: float | None) -> list[str]:
    low, high = row.accuracy_interval_95
    changed = "-" if row.changed is None else f"{row.changed} ({100 * row.changed / eval_rows:.2f} %)"
    return [
        row.lane,
        row.engine,
        f"{row.size_mb:.2f}",
        f"{row.parameters / 1e6:.2f}",
        f"{row.macs / 1e6:.1f}",
        f"{row.accuracy:.4f} ({low:.3f}-{high:.3f})",
        "-" if row.drop_points is None else f"{row.drop_points:+.2f}",
        changed,
        "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
        "-" if row.cpu_ms_min is None else f"{row.cpu_ms_min:.3f}",
        "-" if row.cpu_ms_min is None or base is None else f"{base / row.cpu_ms_min:.1f}x",
    ]
