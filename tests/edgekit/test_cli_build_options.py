"""What the options of ``edgekit build`` change in a recipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.cli.build import overridden
from edgekit.recipe.spec import (
    DataSource,
    DataSpec,
    ModelSpec,
    QuantizeSpec,
    Recipe,
    SourceKind,
    Task,
    TeacherSource,
)
from edgekit_runtime.errors import UsageError

RECIPE = Recipe(
    name="a",
    version="0.1.0",
    folder=Path(),
    model=ModelSpec(task=Task.TEXT_CLASSIFICATION, teacher=TeacherSource(kind=SourceKind.FOLDER, location="a")),
    data=DataSpec(train=DataSource(kind="csv", location="a.csv")),
)
NOTHING = {"max_drop": None, "all_int8": False, "keep_int8": False, "plan": None}


def test_no_option_changes_nothing() -> None:
    assert overridden(RECIPE, NOTHING) == RECIPE
    kept = replace(RECIPE, export=replace(RECIPE.export, keep_int8=True))
    assert overridden(kept, NOTHING) == kept


def test_all_int8_makes_the_feed_forward_outputs_static_too() -> None:
    found = overridden(RECIPE, {**NOTHING, "all_int8": True}).quantize
    assert found == replace(QuantizeSpec(), all_int8=True, ffn_output="static")


def test_all_int8_does_not_fit_weights_in_fewer_bits() -> None:
    coded = replace(RECIPE, quantize=QuantizeSpec(weights="int4"))
    with pytest.raises(UsageError) as caught:
        overridden(coded, {**NOTHING, "all_int8": True})
    assert caught.value.code == "E0153"


def test_a_plan_is_looked_for_where_the_command_runs_and_not_where_the_recipe_lies(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = overridden(RECIPE, {**NOTHING, "plan": Path("a.plan.json"), "keep_int8": True, "max_drop": "0.5 points"})
    assert found.quantize.plan == str(tmp_path / "a.plan.json")
    assert found.export.keep_int8
    assert found.budget.max_drop.value == 0.5


@pytest.mark.parametrize("name", ["model.onnx", "folder"])
def test_a_model_without_quantize_only_is_told_the_option(tmp_path, name, capsys) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["build", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "error[E0156]" in said
    assert "--quantize-only" in said
