"""``edgekit build``: a recipe becomes a verified bundle."""

import dataclasses
from pathlib import Path

import click

from edgekit.cli.output import json_option
from edgekit.cli.progress import make_progress
from edgekit.recipe.units import Points
from edgekit.targets import get_target
from edgekit_runtime.errors import UsageError

__all__ = ["command"]


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--target", "-t", "targets", multiple=True, help="Board to build for; may be given more than once.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Where the bundle goes.")
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
    as_json: bool,  # noqa: ARG001 - the report asks for it
) -> None:
    """Build RECIPE into a bundle, and fail if a bound of its budget is missed."""
    from edgekit.build import build_recipe
    from edgekit.recipe.load import load_recipe

    for name in targets:
        get_target(name)
    loaded = load_recipe(recipe)
    if max_drop is not None:
        budget = dataclasses.replace(loaded.budget, max_drop=_points(max_drop))
        loaded = dataclasses.replace(loaded, budget=budget)
    progress = make_progress()
    for name in targets or loaded.targets[:1]:
        build_recipe(loaded, target=name, out=out, trust_code=trust_code, offline=offline, progress=progress)


def _points(text: str) -> Points:
    try:
        return Points.parse(text)
    except ValueError as error:
        raise UsageError("E0123", f"--max-drop: {error}") from None
