"""The file system that one run of a guest sees: the prepared one, with the ``/proc/cpuinfo`` of its core."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.emulator.cores import Core
from edgekit.emulator.home import Home

__all__ = ["guest_view"]


@contextlib.contextmanager
def guest_view(home: Home, core: Core) -> Iterator[Path]:
    """Lend a temporary folder with ``sysroot`` in it; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgekit-guest-") as name:
        view = Path(name)
        sysroot = view / "sysroot"
        (sysroot / "proc").mkdir(parents=True)
        for path in (home.part(core.arch) / "sysroot").iterdir():
            (sysroot / path.name).symlink_to(path)
        (sysroot / "proc" / "cpuinfo").write_text(core.cpuinfo(), encoding="ascii")
        yield view
