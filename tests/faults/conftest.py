"""The healthy bundles, built once in a session; every fault is planted into a copy."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "whole_line"))  # where the maker of a small BERT folder lies

from fault_bundles import build_digits, build_photos, build_texts


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return build_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory) -> Path:
    return build_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    return build_texts(tmp_path_factory.mktemp("texts"))
