"""README and docs say what the code does."""

import dataclasses
import re
from pathlib import Path

import pytest

from edgekit.cli.app import COMMANDS
from edgekit.parity.gates import DEFAULTS, GATES
from edgekit.recipe import spec

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = (
    spec.StudentSpec,
    spec.DataSpec,
    spec.ImageSpec,
    spec.AdaptSpec,
    spec.DistillSpec,
    spec.PruneSpec,
    spec.QuantizeSpec,
    spec.ExportSpec,
    spec.BudgetSpec,
    spec.ParitySpec,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    named = re.findall(r"(?:^|`|/)edgekit ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in named if name not in COMMANDS] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, page.name


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_of_a_recipe_is_in_its_page(section):
    words = set(re.findall(r"[a-z_0-9]+", (ROOT / "docs/recipe.md").read_text(encoding="utf-8")))
    assert {field.name for field in dataclasses.fields(section)} - words == set()


def test_every_gate_and_its_default_are_in_the_page_of_parity():
    page = (
        (ROOT / "docs/parity.md")
        .read_text(encoding="utf-8")
        .replace("`_5`, `_10`", "`min_overlap_5`, `min_overlap_10`")
    )
    assert [name for name in GATES if f"`{name}`" not in page] == []
    written = {
        f"{gate.kind.name}={gate.limit}".removesuffix(" cosine") for gates in DEFAULTS.values() for gate in gates
    }
    assert [text for text in written if f"`{text}`" not in page] == []


def test_figures_in_the_readme_are_filled_in():
    assert "@" not in re.sub(r"`[^`]*`|\S+@\S+", "", (ROOT / "README.md").read_text(encoding="utf-8"))
