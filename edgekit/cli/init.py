"""``edgekit init``: a commented recipe to start from."""

import re
from pathlib import Path

import click

from edgekit.cli.output import json_option, print_json
from edgekit.recipe.spec import Task
from edgekit.recipe.template import template
from edgekit_runtime.errors import UsageError

__all__ = ["command"]


@click.command("init")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("recipe.yaml"))
@click.option(
    "--task",
    type=click.Choice([task.value for task in Task]),
    default=Task.TEXT_CLASSIFICATION.value,
    show_default=True,
    help="What the model answers.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def command(file: Path, task: str, force: bool, as_json: bool) -> None:
    """Write a commented recipe into FILE (recipe.yaml if none is given)."""
    text = template(Task(task), name=_bundle_name(file), file=str(file))
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(
            "E0121", f"'{file}' exists already", fix="name another file, or replace it with --force"
        ) from None
    except OSError as error:
        raise UsageError("E0122", f"'{file}' cannot be written: {error.strerror}") from error
    if as_json:
        print_json("init", {"file": str(file), "task": task})
    else:
        print(f"wrote {file}; set the teacher and the data in it, then: edgekit build {file}")


def _bundle_name(file: Path) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")
    return stem[:64].rstrip("-") if stem and stem != "recipe" else "my-model"
