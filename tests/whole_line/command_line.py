"""Running the command line as a user does, and a recipe small enough for tests."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DIGITS = """\
name: tiny-digits
version: 0.1.0
model:
  task: image-classification
  teacher: {architecture: cnn, config: {widths: [16, 32]}, licence: Apache-2.0}
  student: {widths: [8, 16]}
data:
  train: {sklearn: digits}
  eval_rows: 360
  image: {height: 8, width: 8, channels: 1, scale: 0.0625, mean: [0.3], std: [0.38]}
adapt: {epochs: 4, learning_rate: 4e-3}
distill: {epochs: 4, learning_rate: 4e-3}
prune: {channels: 0.25, multiple: 4, criterion: activation, recover_epochs: 2}
quantize: {calibration_rows: 64}
export: {keep_int8: true}
budget: {max_drop: 2 points, max_changed: 3 points}
targets: [x86-64]
"""


@dataclass(frozen=True)
class Run:
    """What a command left.

    Attributes:
        code: Exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def measured(run: Run) -> dict[str, dict[str, float]]:
    """Give the measures of every lane but the reference, from ``edgekit parity --json``."""
    lanes = run.json["comparison"]["lanes"]
    return {
        lane["lane"]: {each["name"]: each["value"] for each in lane["measures"]} for lane in lanes if lane["measures"]
    }


def edgekit(*arguments: object, cwd: Path, cache: Path, timeout: float = 600) -> Run:
    """Run the command line in a process of its own, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        cwd=cwd,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def environment(cache: Path) -> dict[str, str]:
    """Give an environment without a network, a home or a terminal, and with one thread: other tests run beside."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "EDGEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(cache)}


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        folder: Where the recipe is and commands run.
        cache: Stage cache of the build.
        run: The build command.
        bundle: The ``.edge`` file.
    """

    folder: Path
    cache: Path
    run: Run
    bundle: Path
