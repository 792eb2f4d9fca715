"""What one lane answered, as JSON that another machine can judge: written with numpy and an engine alone."""

import base64
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.engines.registry import get_engine
from edgekit_runtime.model import Model
from edgekit_runtime.rows import IMAGES, RawRows, require_fit
from edgekit_runtime.selftest import SelfTest, flat_outputs

__all__ = [
    "FORMAT",
    "SCHEMA",
    "Cost",
    "LaneEvidence",
    "Machine",
    "array_json",
    "collect",
    "document",
    "fingerprint",
    "json_array",
    "this_machine",
]

FORMAT: Final = "edgekit-evidence"
SCHEMA: Final = 1

# Source: Linux, arch/arm64/include/asm/cputype.h and arch/arm/include/asm/cputype.h.
_ARM_PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "0xc07": "Cortex-A7",
        "0xd03": "Cortex-A53",
        "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72",
        "0xd09": "Cortex-A73",
        "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1",
        "0xd0d": "Cortex-A77",
        "0xd41": "Cortex-A78",
        "0xd44": "Cortex-X1",
    }
)

_Feeds = Mapping[str, NDArray[np.generic]]
_Mark = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a lane ran.

    Attributes:
        arch: As ``platform.machine()`` says, e.g. ``aarch64``.
        cpu: Name, or the implementer and part codes where Linux gives no name.
        features: Of the CPU, sorted, as the kernel lists them.
        system: Of the operating system.
        python: Version.
        numpy: Version.
    """

    arch: str
    cpu: str
    features: tuple[str, ...]
    system: str
    python: str
    numpy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one inference; None where it was not, or could not truthfully be, measured.

    Attributes:
        cpu_ms_min: Least CPU time, in ms.
        cpu_ms_median: Median, in ms.
        peak_rss_mib: Most memory of the whole process, in MiB.
        instructions_min: Fewest instructions of one inference under emulation. A cost that repeats, and no latency.
        instruction_classes: The same window by class of instruction.
    """

    cpu_ms_min: float | None = None
    cpu_ms_median: float | None = None
    peak_rss_mib: float | None = None
    instructions_min: int | None = None
    instruction_classes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneEvidence:
    """The answers of one lane to one set of rows.

    Attributes:
        lane: Its name.
        engine: Key of ``ENGINES``, or ``torch``.
        engine_version: Of the installed package.
        precision: ``int8`` or ``float32``.
        threads: Of the engine.
        kernels: Which kernels ran, as far as it is known; may be empty.
        machine: Where.
        outputs: Float32 (N, entries): logits, vectors, or all outputs side by side.
        tensors: By input of the model a fingerprint of each row after preprocessing, float64 (N,).
        selftest: Faults of the goldens on this lane, in words; empty when all passed, None when they were not run.
        cost: Of one inference.
    """

    lane: str
    engine: str
    engine_version: str
    precision: str
    threads: int
    kernels: str
    machine: Machine
    outputs: NDArray[np.float32]
    tensors: Mapping[str, NDArray[np.float64]]
    selftest: tuple[str, ...] | None
    cost: Cost

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form; arrays as base64, so that every bit survives, NaN too."""
        plain = {name: getattr(self, name) for name in ("lane", "engine", "engine_version", "precision", "threads")}
        cost = {name: getattr(self.cost, name) for name in Cost.__slots__}
        return {
            **plain,
            "kernels": self.kernels,
            "machine": {**asdict(self.machine), "features": list(self.machine.features)},
            "outputs": array_json(self.outputs),
            "tensors": {name: array_json(rows) for name, rows in self.tensors.items()},
            "selftest": None if self.selftest is None else list(self.selftest),
            "cost": {**cost, "instruction_classes": dict(self.cost.instruction_classes)},
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave.

        Raises:
            ValueError: It is something else (or KeyError, TypeError).
        """
        machine = {**held["machine"], "features": tuple(map(str, held["machine"]["features"]))}
        outputs = json_array(held["outputs"])
        if outputs.ndim != 2 or outputs.dtype != np.float32 or not len(outputs):
            raise ValueError(f"outputs are float32 (N, entries), not {outputs.dtype} {outputs.shape}")
        tensors = {str(name): json_array(rows) for name, rows in held["tensors"].items()}
        if any(rows.shape != (len(outputs),) or rows.dtype != np.float64 for rows in tensors.values()):
            raise ValueError("a fingerprint is float64 (N,)")
        faults = held["selftest"]
        return cls(
            **{name: str(held[name]) for name in ("lane", "engine", "engine_version", "precision", "kernels")},
            threads=int(held["threads"]),
            machine=Machine(**machine),
            outputs=cast("NDArray[np.float32]", outputs),
            tensors=cast("Mapping[str, NDArray[np.float64]]", tensors),
            selftest=None if faults is None else tuple(map(str, faults)),
            cost=Cost(**held["cost"]),
        )


def array_json(array: NDArray[Any]) -> dict[str, object]:
    """Give an array as ``{"dtype", "shape", "base64"}``, little-endian."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": data}


def json_array(held: Mapping[str, Any]) -> NDArray[Any]:
    """Read what ``array_json`` gave; ValueError where length and shape disagree."""
    if held["dtype"] not in {"float32", "float64"}:
        raise ValueError(f"an array of {held['dtype']!r}")
    data = np.frombuffer(base64.b64decode(held["base64"], validate=True), np.dtype(held["dtype"]).newbyteorder("<"))
    return data.reshape(held["shape"]).astype(held["dtype"])


def fingerprint(tensor: NDArray[Any]) -> float:
    """Give one number that a changed, moved or missing entry changes: a weighted sum in float64.

    The weights run through [1, 2) by multiples of the golden ratio, so that swapped channels do not cancel. They are
    4096ths, so that products and sums of integers are exact and give the same on every machine, which sums in an order
    of its own; floats do to about 1e-12 of the sum of magnitudes, beside their own rounding.
    """
    values = np.asarray(tensor, np.float64).ravel()
    weights = 1.0 + np.floor((np.arange(len(values)) * 0.6180339887498949) % 1.0 * 4096.0) / 4096.0
    return float(values @ weights)


def this_machine(cpuinfo: str = "/proc/cpuinfo") -> Machine:
    """Say where this process runs."""
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    pairs = [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
    first = dict(reversed(pairs))  # of several processors the first
    codes = " ".join(
        f"{key.removeprefix('CPU ')} {first[key]}" for key in ("CPU implementer", "CPU part") if key in first
    )
    return Machine(
        arch=platform.machine(),
        cpu=first.get("model name") or _arm_core(first) or codes or platform.processor() or "unknown",
        features=tuple(sorted(set((first.get("flags") or first.get("Features") or "").split()))),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        numpy=np.__version__,
    )


def _arm_core(fields: Mapping[str, str]) -> str | None:
    own = fields.get("CPU implementer") == "0x41"  # Arm's own cores; other makers number theirs anew
    return _ARM_PARTS.get(fields.get("CPU part", "")) if own else None


def collect(
    model: Model, rows: RawRows, *, lane: str = "device", timed: bool = True, mark: _Mark | None = None
) -> LaneEvidence:
    """Answer rows, and keep all that another machine needs to judge the answers.

    Args:
        model: Open; ``Model(bundle, prove=False)`` for an engine that may be wrong, since the judge must see it.
        rows: What to answer.
        lane: Name of the lane.
        timed: Measure CPU time; never under emulation, where it would pass for a latency.
        mark: Called right before and right after each inference.

    Raises:
        UsageError: The rows do not fit the bundle (E0198), or one of them does not fit the model.
        BundleError: The engine failed.
    """
    require_fit(model.bundle, rows)
    row, manifest = get_engine(model.engine_name), model.bundle.manifest
    entry = manifest.models[row.runtime]
    answer = [spec.name for spec in entry.outputs]
    test = model.selftest()
    outputs, times = [], []
    prints: dict[str, list[float]] = {spec.name: [] for spec in entry.inputs}
    for feeds in _feeds(model, rows):
        for name, held in prints.items():
            held.append(fingerprint(feeds[name]))
        if mark:
            mark()
        start = time.thread_time()
        found = model.run(**feeds)
        times.append(1e3 * (time.thread_time() - start))
        if mark:
            mark()
        outputs.append(flat_outputs(found, answer))
    clocked = timed and model.threads == 1  # thread_time sees the calling thread alone
    return LaneEvidence(
        lane=lane,
        engine=row.name,
        engine_version=row.version,
        precision=entry.precision,
        threads=model.threads,
        kernels=row.kernels,
        machine=this_machine(),
        outputs=np.concatenate(outputs),
        tensors={name: np.array(held) for name, held in prints.items()},
        selftest=_faults(test),
        cost=Cost(
            cpu_ms_min=min(times) if clocked else None,
            cpu_ms_median=float(np.median(times)) if clocked else None,
            peak_rss_mib=_peak_rss_mib(),
        ),
    )


def _feeds(model: Model, rows: RawRows) -> Iterable[_Feeds]:
    if rows.texts:
        yield from (model.preprocess(text) for text in rows.texts)
    elif model.bundle.manifest.task == "tensors":
        yield from ({n: array[i : i + 1] for n, array in rows.arrays.items()} for i in range(len(rows)))
    else:
        yield from (model.preprocess(image) for image in rows.arrays[IMAGES])


def _faults(test: SelfTest) -> tuple[str, ...]:
    return tuple(f"{check.name}: {check.detail}" for check in test.checks if not check.passed)


def _peak_rss_mib() -> float | None:
    try:
        import resource
    except ImportError:  # not a Unix system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def document(model: Model, rows: RawRows, lanes: Sequence[LaneEvidence], *, source: str) -> dict[str, object]:
    """Give the evidence of a run as one JSON document.

    Args:
        model: That answered.
        rows: What was asked.
        lanes: The answers.
        source: Where the rows come from, in words.
    """
    manifest = model.bundle.manifest
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "task": manifest.task,
            "sha256": model.bundle.digest,
        },
        "rows": {"count": len(rows), "sha256": rows.digest(), "source": source},
        "lanes": [lane.as_json() for lane in lanes],
    }
