"""What is installed here, what is missing, and the exact command that mends it.

Nothing that could crash is imported here: engines are tried in a child process, where an illegal instruction kills the
child and is reported.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgekit.cache import default_root
from edgekit.extras import install_command
from edgekit.versions import Requirement, requirements, version_matches
from edgekit_runtime.engines.registry import ENGINES, EngineRow

__all__ = [
    "KNOWN_BAD",
    "Check",
    "KnownBad",
    "Report",
    "cpu_features",
    "examine",
    "known_faults",
    "package_checks",
    "probe",
]

Status = Literal["ok", "warn", "missing", "bad"]

_GIB = 1 << 30
_PROBE_SECONDS = 120
_INT8_FEATURES = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve", "sve2", "sme")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report.

    Attributes:
        group: ``python``, ``machine``, ``engine``, ``known fault``, or the extra that a package belongs to.
        name: What was looked at.
        status: ``ok``; ``warn`` (works, but); ``missing``; ``bad`` (there, and does not work).
        detail: Version, size or reason.
        fix: What to type or do; empty where all is well.
        blocks_build: Whether ``edgekit build`` cannot run because of it.
    """

    group: str
    name: str
    status: Status
    detail: str
    fix: str = ""
    blocks_build: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks of one machine."""

    checks: tuple[Check, ...]

    @property
    def can_build(self) -> bool:
        """Whether ``edgekit build`` can run here."""
        return not any(check.blocks_build for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBad:
    """A combination that installs without complaint and then fails.

    Attributes:
        distributions: Version ranges by name; all must match, e.g. ``{"numpy": ">=2"}``.
        without_feature: It fails only on aarch64 CPUs that lack this feature; empty = everywhere.
        why: What happens.
        fix: What to install instead.
        blocks_build: Whether the build fails because of it.
    """

    distributions: Mapping[str, str]
    without_feature: str = ""
    why: str
    fix: str
    blocks_build: bool


KNOWN_BAD = (
    # github.com/microsoft/onnxruntime issue 23957; a Pi 4 (Cortex-A72) has no dot product instructions.
    KnownBad(
        distributions={"onnxruntime": "==1.21.0"},
        without_feature="asimddp",
        why="onnxruntime 1.21.0 dies with an illegal instruction on a Raspberry Pi 4",
        fix="pip install 'onnxruntime>=1.22'",
        blocks_build=True,
    ),
    # Its extension was compiled against numpy 1; `import` works, the first Interpreter dies (_ARRAY_API not found).
    KnownBad(
        distributions={"tflite-runtime": ">=0", "numpy": ">=2"},
        why="tflite-runtime imports beside numpy 2 and dies when it makes its first interpreter",
        fix="pip uninstall tflite-runtime && pip install 'ai-edge-litert>=2.1'",
        blocks_build=False,
    ),
    # transformers 4.57 refuses to be imported beside it.
    KnownBad(
        distributions={"transformers": ">=4.57,<4.58", "huggingface-hub": ">=1"},
        why="transformers 4.57 cannot be imported beside huggingface-hub 1",
        fix="pip install 'huggingface-hub<1'",
        blocks_build=True,
    ),
)


def examine() -> Report:
    """Look at this machine and this Python; takes a few seconds because engines are tried for real."""
    features = cpu_features(Path("/proc/cpuinfo"))
    installed = _installed_versions()
    checks = [
        _python(),
        *_packages(installed),
        *known_faults(installed, machine=platform.machine(), features=features),
        *(_engine(row) for row in ENGINES.values() if row.installed),
        *_machine(features),
    ]
    return Report(checks=tuple(checks))


def _installed_versions() -> dict[str, str]:
    """Versions by name in lower case with hyphens."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        found.setdefault(name, distribution.version)  # the first on the path is the one that is imported
    return found


def _python() -> Check:
    version = platform.python_version()
    if sys.maxsize <= 2**32:
        fix = "use a 64-bit system: there are no 32-bit wheels of the engines"
        return Check(
            group="python", name="Python", status="bad", detail=f"{version}, 32 bits", fix=fix, blocks_build=True
        )
    return Check(group="python", name="Python", status="ok", detail=f"{version}, {sys.executable}")


def _packages(installed: Mapping[str, str]) -> Iterator[Check]:
    try:
        wanted = requirements("edgekit")
    except metadata.PackageNotFoundError:
        detail, fix = "on the path but not installed, so its requirements are unknown", "pip install -e '.[build]'"
        yield Check(group="base", name="edgekit", status="bad", detail=detail, fix=fix, blocks_build=True)
        return
    yield from package_checks(wanted, installed)


def package_checks(wanted: Iterable[Requirement], installed: Mapping[str, str]) -> Iterator[Check]:
    """Compare what edgekit requires with what is installed; versions by distribution name."""
    for need in wanted:
        if need.extra in {"onnx", "tflite", "dev"}:
            continue  # the engines have checks of their own; dev is for those who change edgekit
        group, name = need.extra or "base", need.name
        version = installed.get(name)
        builds = need.extra in {"", "build"}
        install = install_command(need.extra) if need.extra else "pip install edgekit"
        if version is None:
            yield Check(
                group=group, name=name, status="missing", detail="not installed", fix=install, blocks_build=builds
            )
        elif not version_matches(version, need.versions):
            detail = f"{version}; edgekit was tried with {need.versions}"
            fix = f"pip install '{name}{need.versions}'"
            yield Check(group=group, name=name, status="warn", detail=detail, fix=fix)
        else:
            yield Check(group=group, name=name, status="ok", detail=version)


def known_faults(installed: Mapping[str, str], *, machine: str, features: frozenset[str]) -> Iterator[Check]:
    """Give a check for each row of ``KNOWN_BAD`` that this machine meets.

    Args:
        installed: Versions by distribution name.
        machine: As ``platform.machine`` has it.
        features: CPU features as Linux names them.
    """
    for row in KNOWN_BAD:
        if row.without_feature and (machine != "aarch64" or row.without_feature in features):
            continue
        if all(
            name in installed and version_matches(installed[name], spec) for name, spec in row.distributions.items()
        ):
            names = " + ".join(f"{name} {installed[name]}" for name in row.distributions)
            yield Check(
                group="known fault",
                name=names,
                status="bad",
                detail=row.why,
                fix=row.fix,
                blocks_build=row.blocks_build,
            )


def _engine(row: EngineRow) -> Check:
    status, detail = probe(f"import {row.module}")
    # The build runs both formats; the older TFLite interpreters are for devices.
    builds = row.name in {"onnxruntime", "litert"}
    if status != "ok":
        fix = f"in a fresh virtual environment: {row.install}"
        return Check(group="engine", name=row.name, status=status, detail=detail, fix=fix, blocks_build=builds)
    return Check(group="engine", name=row.name, status="ok", detail=f"{row.version}, imports")


def probe(code: str) -> tuple[Status, str]:
    """Run Python code in a child; give ``ok``, or ``bad`` and how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "bad", f"did not import within {_PROBE_SECONDS} s"
    if done.returncode < 0:
        return "bad", f"import dies with {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        lines = done.stderr.strip().splitlines()
        return "bad", f"import fails: {lines[-1] if lines else f'exit code {done.returncode}'}"
    return "ok", ""


def cpu_features(cpuinfo: Path) -> frozenset[str]:
    """Read the feature flags of the first core; empty where Linux does not tell them."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _machine(features: frozenset[str]) -> Iterator[Check]:
    shown = ", ".join(name for name in _INT8_FEATURES if name in features) or "unknown"
    x86 = platform.machine() in {"x86_64", "AMD64"}
    if x86 and features and not {"avx512_vnni", "avx_vnni"} & features:
        fix = "trust the parity of an emulated or real target more than that of this machine"
        detail = f"{shown}; without VNNI, int8 products can saturate in ONNX Runtime"
        yield Check(group="machine", name="CPU", status="warn", detail=detail, fix=fix)
    else:
        yield Check(group="machine", name="CPU", status="ok", detail=f"{platform.machine()}: {shown}")
    yield Check(group="machine", name="cores", status="ok", detail=str(len(os.sched_getaffinity(0))))
    memory = _memory_bytes()
    if memory is not None:
        enough = memory >= 4 * _GIB
        fix = "" if enough else "close other programs, or build on a machine with more"
        detail = f"{memory / _GIB:.1f} GiB free" + ("" if enough else "; a build of a small transformer takes about 4")
        yield Check(group="machine", name="memory", status="ok" if enough else "warn", detail=detail, fix=fix)
    folder = next(path for path in (default_root(), *default_root().absolute().parents) if path.is_dir())
    disk = shutil.disk_usage(folder).free
    enough = disk >= 2 * _GIB
    detail = f"{disk / _GIB:.1f} GiB free for the cache in {default_root()}"
    fix = "" if enough else "set EDGEKIT_CACHE to a folder on a larger disk"
    yield Check(group="machine", name="disk", status="ok" if enough else "warn", detail=detail, fix=fix)


def _memory_bytes() -> int | None:
    """Memory that can be had: what Linux calls available, or what is left of a container's limit, if that is less."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    if match is None:
        return None
    available = int(match[1]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8").strip()
    except OSError:
        return available
    return min(available, int(limit) - int(used)) if limit.isdigit() else available
