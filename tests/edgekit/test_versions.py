"""Version ranges, against the examples of the packaging specification."""

import pytest

from edgekit import versions
from edgekit.versions import Requirement, requirements, version_matches


@pytest.mark.parametrize(
    ("version", "wanted", "result"),
    [
        ("2.13.0+cpu", "==2.13.*", True),
        ("2.14.0", "==2.13.*", False),
        ("2.130.0", "==2.13.*", False),
        ("2", "==2.0.*", True),
        ("1.23.2", "==1.23.2", True),
        ("1.23", "==1.23.0", True),
        ("1.23.2", "==1.23", False),
        ("4.57.6", ">=4.57,<4.58", True),
        ("4.58.0", "<4.58,>=4.57", False),
        ("1.10", ">=1.9", True),
        ("0.36.2", "<1", True),
        ("1.0.0", "<1", False),
        ("1.0", "<=1.0.0", True),
        ("1.0.1", ">1.0", True),
        ("1.0.0", "!=1.0", False),
        ("1.5", "!=1.4.*", True),
        ("anything", "", True),
    ],
)
def test_range(version, wanted, result):
    assert version_matches(version, wanted) is result


@pytest.mark.parametrize("wanted", ["~=1.4", "===1", ">=1.*", "latest"])
def test_range_of_another_form_is_refused(wanted):
    with pytest.raises(ValueError, match="not understood"):
        version_matches("1.0", wanted)


def test_own_metadata_is_understood():
    found = requirements("edgekit")
    assert Requirement("torch", "==2.13.*", "build") in found
    assert any(need.name == "numpy" and need.extra == "" for need in found)
    assert all(version_matches("1", need.versions) in {True, False} for need in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("numpy>=1.26", Requirement("numpy", ">=1.26", "")),
        ("transformers<4.58,>=4.57; extra == 'build'", Requirement("transformers", "<4.58,>=4.57", "build")),
        ('Types_PyYAML >= 6 ; extra == "dev"', Requirement("types-pyyaml", ">=6", "dev")),
        ("pip", Requirement("pip", "", "")),
    ],
)
def test_requirement_is_read(monkeypatch, text, wanted):
    monkeypatch.setattr(versions.metadata, "requires", lambda _: [text])
    assert requirements("x") == (wanted,)


def test_requirement_of_another_form_is_refused(monkeypatch):
    monkeypatch.setattr(versions.metadata, "requires", lambda _: ["name @ https://host/x.whl"])
    with pytest.raises(ValueError, match="not understood"):
        requirements("x")
