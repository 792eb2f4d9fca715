"""The prepared emulator, in the cache that everything else uses, and a small int8 bundle to run on it."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "runtime"))  # the tiny models are those of the runtime's tests

from tiny_int8 import int8_image_parts

from edgekit.emulator.home import Home
from edgekit.emulator.setup import prepare
from edgekit_runtime.bundle import write_bundle


@pytest.fixture(scope="session")
def emulator():
    home = Home.default()
    ready = all(home.is_ready(part) for part in ("qemu", "aarch64", "armv7"))
    if not ready and shutil.which("apt-get") is None:
        pytest.skip("the emulator is not set up, and there is no apt here to set it up with")
    prepare(("aarch64", "armv7"), home=home, mirror=None, tell=lambda line: sys.stderr.write(f"{line}\n"))
    return home


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("emulated") / "int8.edge"
    write_bundle(path, **int8_image_parts())
    return path
