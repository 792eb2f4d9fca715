"""The digest of a stage's code moves with what can change a result, and with nothing else."""

import subprocess
import sys

import pytest

from edgekit.pipeline import Artifact
from edgekit.source import OWN_PACKAGES, source_digest
from edgekit_runtime.errors import UsageError

STAGE = """
from edgekit_models import helper
class Stage:
    pass
"""
HELPER = """
def f():
    return 1
"""


@pytest.fixture
def tree(tmp_path):
    """A package of ours by name, `edgekit_models`, that no other test sees."""
    package = tmp_path / "edgekit_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "stage.py").write_text(STAGE)
    (package / "helper.py").write_text(HELPER)
    (package / "unused.py").write_text("x = 1\n")
    return package


def digest(tree):
    code = "import sys; sys.path.insert(0, sys.argv[1])\n"
    code += (
        "from edgekit_models.stage import Stage; from edgekit.source import source_digest; print(source_digest(Stage))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tree.parent)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


EDITS = {
    "code of the stage": ("stage.py", STAGE + "y = 2\n", True),
    "code of what it imports": ("helper.py", HELPER.replace("1", "2"), True),
    "code of what that imports inside a function": (
        "helper.py",
        "def f():\n    from edgekit_models.unused import x\n    return 1\n",
        True,
    ),
    "package": ("__init__.py", "z = 1\n", True),
    "comment": ("helper.py", "# why\n" + HELPER, False),
    "docstring": ("helper.py", HELPER.replace("():\n", '():\n    """Give one."""\n'), False),
    "layout": ("helper.py", "\n\n" + HELPER.replace("return 1", "return (1)"), False),
    "module that is not imported": ("unused.py", "x = 2\n", False),
}


@pytest.mark.parametrize(("name", "text", "moves"), EDITS.values(), ids=EDITS.keys())
def test_digest_moves_with_code_only(tree, name, text, moves):
    before = digest(tree)
    (tree / name).write_text(text)
    assert (digest(tree) != before) is moves


def test_relative_imports_are_followed(tree):
    (tree / "stage.py").write_text("from . import helper\nfrom .unused import x\nclass Stage: pass\n")
    before = digest(tree)
    (tree / "unused.py").write_text("x = 3\n")
    middle = digest(tree)
    (tree / "helper.py").write_text("def f(): return 5\n")
    assert len({before, middle, digest(tree)}) == 3


def test_digest_does_not_depend_on_the_folder(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "edgekit_models"
    tree_digest = digest(tree)
    tree.rename(other)
    assert digest(other) == tree_digest


def test_class_without_a_file_is_refused():
    namespace = {"__name__": "nowhere"}
    exec("class Stage: pass", namespace)
    with pytest.raises(UsageError, match="no source file"):
        source_digest(namespace["Stage"])


def test_own_packages_can_all_be_found():
    assert "edgekit" in OWN_PACKAGES
    assert len(source_digest(Artifact)) == 64
