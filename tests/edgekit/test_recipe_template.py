"""What `edgekit init` writes loads as it stands and tells the truth about the defaults."""

from pathlib import Path

import pytest

from edgekit.recipe import spec
from edgekit.recipe.load import parse_recipe
from edgekit.recipe.template import template


@pytest.mark.parametrize("task", spec.Task)
def test_template_loads_and_its_steps_are_the_defaults(task):
    text = template(task, name="my-model", file="recipe.yaml")
    recipe = parse_recipe(text, name="recipe.yaml", folder=Path())
    assert recipe.name == "my-model"
    assert recipe.model.task is task
    assert recipe.adapt == spec.AdaptSpec()
    assert recipe.distill == spec.DistillSpec()
    assert recipe.prune == spec.PruneSpec()
    assert recipe.quantize == spec.QuantizeSpec()
    assert recipe.export == spec.ExportSpec()
    assert recipe.budget == spec.BudgetSpec()
    assert recipe.seed == 0


@pytest.mark.parametrize("task", spec.Task)
def test_template_is_at_most_120_wide(task):
    assert max(map(len, template(task, name="my-model", file="recipe.yaml").splitlines())) <= 120


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_loads(file):
    text = file.read_text(encoding="utf-8")
    assert parse_recipe(text, name=file.name, folder=file.parent).name == file.stem
