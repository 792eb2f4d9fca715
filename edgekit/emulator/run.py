"""One run of the device's code in a guest: rows in, evidence out; nothing is left behind."""

import dataclasses
import json
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import edgekit_runtime
from edgekit.emulator import guest
from edgekit.emulator.cores import Core
from edgekit.emulator.counts import EMPTY_WINDOWS, read_counts
from edgekit.emulator.home import Home, require
from edgekit.emulator.view import guest_view
from edgekit_runtime.errors import DeviceError
from edgekit_runtime.evidence import LaneEvidence
from edgekit_runtime.rows import RawRows

__all__ = ["Job", "run_job"]

_LEAST_WINDOWS: Final = 6  # the first is dropped
_LIMIT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a guest is asked.

    Attributes:
        bundle: The ``.edge`` file.
        rows: What to answer.
        engine: Key of ``ENGINES``.
        lane: Name under which the answers are kept.
    """

    bundle: Path
    rows: RawRows
    engine: str
    lane: str


def run_job(job: Job, core: Core, home: Home) -> LaneEvidence:
    """Answer rows on an emulated core.

    Returns:
        Evidence without times, which would pass for those of a board; with counts where the plugin could be compiled.

    Raises:
        MissingError: The emulator is not set up (E0677).
        DeviceError: The guest failed (E0830), was killed by a signal (E0831), or took over an hour (E0832).
    """
    require(home, core.arch)
    asked = len(job.rows)
    # Few rows are asked over and over, so that the cheapest inference is found.
    rows = job.rows if asked >= _LEAST_WINDOWS else job.rows.take([place % asked for place in range(_LEAST_WINDOWS)])
    counting = home.is_ready("counter")
    with guest_view(home, core) as view:
        # The code as it is installed here, in a place of its own: beside it lie packages for another processor.
        shutil.copytree(Path(edgekit_runtime.__file__).parent, view / "device" / "edgekit_runtime")
        shutil.copy2(guest.__file__, view / "device" / "guest.py")
        question = view / f"rows{rows.suffix}"
        rows.write(question)
        words = [
            view / "device" / "guest.py",
            job.bundle.absolute(),
            question,
            job.engine,
            job.lane,
            view / "evidence.json",
        ]
        plugin = ("-plugin", f"{home.plugin},out={view / 'counts'}") if counting else ()
        arguments = ["-B", *map(str, words), str(EMPTY_WINDOWS)]
        command = home.command(
            arch=core.arch, cpu=core.name, sysroot=view / "sysroot", plugin=plugin, arguments=arguments
        )
        _run(command, view, job.lane)
        found = LaneEvidence.from_json(json.loads((view / "evidence.json").read_bytes()))
        cost = found.cost
        if counting:
            counts = read_counts(view / "counts")
            cost = dataclasses.replace(cost, instructions_min=counts.total, instruction_classes=counts.classes)
    return dataclasses.replace(
        found,
        outputs=found.outputs[:asked],
        tensors={name: prints[:asked] for name, prints in found.tensors.items()},
        # The memory is that of emulator and guest together.
        cost=dataclasses.replace(cost, peak_rss_mib=None),
    )


def _run(command: list[str], view: Path, lane: str) -> None:
    """Run the guest; ``subprocess.run`` kills it when it is interrupted."""
    with (view / "stderr").open("wb") as stderr:
        try:
            done = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=stderr, check=False, env={}, cwd=view, timeout=_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                "E0832", f"{lane} did not end within {_LIMIT_SECONDS // 60} minutes", fix=_FEWER
            ) from error
    if done.returncode == 0:
        return
    lines = (view / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:]
    why = " | ".join(line.strip() for line in lines)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise DeviceError("E0831", f"{lane}: the emulated process was killed by {name}", why=why, fix=_CRASH)
    raise DeviceError("E0830", f"{lane}: the device's code failed with exit code {done.returncode}", why=why, fix=_SAME)


_FEWER = "ask fewer rows: an emulated core is 50 to 500 times slower than this one"
_CRASH = "the engine crashes on this model: take another engine or core, or try it on a board"
_SAME = "run python -m edgekit_runtime selftest on this machine; it may fail here too"
