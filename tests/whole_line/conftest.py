"""One tiny build of the digits, shared by all tests of the whole line."""

from collections.abc import Iterator

import pytest
from command_line import DIGITS, Built, edgekit


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Iterator[Built]:
    """Build the digits once for the whole session."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits.yaml").write_text(DIGITS)
    cache = folder / "cache"
    run = edgekit("build", "digits.yaml", "--json", cwd=folder, cache=cache)
    assert run.code == 0, run.err
    return Built(folder, cache, run, folder / "runs/tiny-digits/x86-64/tiny-digits-x86-64.edge")
