"""``edgekit build``: a recipe becomes a verified bundle."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.bounds import points_option
from edgekit.cli.output import json_option, print_json, print_table
from edgekit.cli.progress import make_progress
from edgekit.targets import get_target
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.build import BuildResult
    from edgekit.recipe.spec import Recipe
    from edgekit.report import BuildReport, LaneRow

__all__ = ["command", "print_report"]

_MODELS = (".onnx", ".pt2", ".tflite", ".keras", ".safetensors")


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--target", "-t", "targets", multiple=True, help="Board to build for; may be given more than once.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Output folder; runs/NAME/TARGET if not given.")
@click.option("--trust-code", is_flag=True, help="Run code that the recipe names (teacher.factory).")
@click.option("--offline", is_flag=True, help="Use no network, not even for a hub id.")
@click.option("--max-drop", help="Replaces budget.max_drop, e.g. '0.5 points'.")
@click.option("--all-int8", is_flag=True, help="Every layer static int8, as NPUs need it (quantize.all_int8).")
@click.option("--keep-int8", is_flag=True, help="Ship int8 even where float32 is faster (export.keep_int8).")
@click.option("--plan", type=click.Path(path_type=Path), help="Decide as NAME-TARGET.plan.json of an earlier build.")
@click.option("--quantize-only", is_flag=True, help="RECIPE is a model folder, .onnx or .pt2: quantise it as it is.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Only: rows: .txt, .csv, .jsonl; .npz of tensors.")
@click.option("--eval", "evaluation", type=click.Path(path_type=Path), help="Only: rows to judge by; else held out.")
@click.option("--text", help="Only: column with the text.  [default: text]")
@click.option("--name", help="Only: of the bundle; the model's if not given.")
@click.option("--max-length", type=click.IntRange(min=4), help="Only: tokens a text.  [default: 64]")
@click.option("--calibration-rows", type=click.IntRange(min=1), help="Only: most rows to use.  [default: 256]")
@click.option("--min-cosine", type=click.FloatRange(0, 1), help="Only: least mean cosine.  [default: 0.997]")
@click.option("--max-changed", help="Only: decisions that int8 may change.  [default: 5 points]")
@json_option
def command(
    recipe: Path,
    targets: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    **more: Any,  # noqa: ANN401 - click's own types
) -> None:
    """Build RECIPE into a bundle, and fail if a bound of its budget is missed.

    With --quantize-only RECIPE is a model: no teacher, no training, no labels.
    """
    for name in targets:
        get_target(name)
    if out is not None and len(targets) > 1:
        raise UsageError(
            "E0124",
            "--out names one folder, but several targets are given",
            fix="leave --out out (each target gets runs/NAME/TARGET), or build one target at a time",
        )
    if more["quantize_only"]:
        from edgekit.cli.quantise_only import quantise

        quantise(recipe, targets=targets, out=out, as_json=as_json, more=more)
        return
    results = _build(recipe, targets=targets, out=out, more=more)
    if as_json:
        print_json("build", {"builds": [_as_json(result) for result in results]})
        return
    for result in results:
        print_report(result.report)
        print(f"bundle: {result.bundle}")


def _build(recipe: Path, *, targets: tuple[str, ...], out: Path | None, more: Mapping[str, Any]) -> "list[BuildResult]":
    from edgekit.cli.quantise_only import ONLY_OPTIONS

    odd = [name for name in ONLY_OPTIONS if more[name] is not None]
    if odd:
        option = f"--{odd[0].replace('_', '-')}".replace("--evaluation", "--eval")
        raise UsageError("E0151", f"{option} goes with --quantize-only", fix="a recipe says it in its own keys")
    if recipe.is_dir() or recipe.suffix in _MODELS:
        fix = "--quantize-only --calibration FILE quantises a model as it is; edgekit init writes a recipe"
        raise UsageError("E0156", f"'{recipe}' is a model, not a recipe", fix=fix)
    from edgekit.build import build_recipe
    from edgekit.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    loaded = overridden(loaded, more)
    return [
        build_recipe(
            loaded,
            target=name,
            out=out,
            trust_code=more["trust_code"],
            offline=more["offline"],
            progress=make_progress(),
        )
        for name in targets or loaded.targets[:1]
    ]


def overridden(recipe: "Recipe", more: Mapping[str, Any]) -> "Recipe":
    """Give the recipe with what the command line says instead; only flags that were given change anything."""
    allowed = points_option("--max-drop", more["max_drop"], recipe.budget.max_drop)
    quantize, export = recipe.quantize, recipe.export
    if more["all_int8"]:
        if quantize.weights != "int8":
            why = f"the recipe asks for {quantize.weights} weights"
            raise UsageError("E0153", "--all-int8 does not fit the recipe", why=why, fix="set quantize.weights: int8")
        quantize = dataclasses.replace(quantize, all_int8=True, ffn_output="static")
    if more["plan"] is not None:
        quantize = dataclasses.replace(quantize, plan=str(more["plan"].absolute()))
    if more["keep_int8"]:
        export = dataclasses.replace(export, keep_int8=True)
    budget = dataclasses.replace(recipe.budget, max_drop=allowed)
    return dataclasses.replace(recipe, budget=budget, quantize=quantize, export=export)


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
