"""Bundles of the tiny models, written once per session."""

import pytest
import tiny_models
from signed_bundles import SignedBundle

from edgekit_runtime.bundle import write_bundle


@pytest.fixture(scope="session")
def image_parts():
    return tiny_models.image_bundle_parts()


@pytest.fixture(scope="session")
def text_parts():
    return tiny_models.text_bundle_parts()


@pytest.fixture(scope="session")
def image_path(tmp_path_factory, image_parts):
    path = tmp_path_factory.mktemp("bundles") / "image.edge"
    write_bundle(path, **image_parts)
    return path


@pytest.fixture(scope="session")
def text_path(tmp_path_factory, text_parts):
    path = tmp_path_factory.mktemp("bundles") / "text.edge"
    write_bundle(path, **text_parts)
    return path


@pytest.fixture
def signed(tmp_path, image_path):
    return SignedBundle(tmp_path, image_path)
