"""Reads what a run or a device wrote as evidence into typed parts; a device writes few of them, a comparison all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from edgekit.lanes.saved import read_document
from edgekit.layers import LayerReport
from edgekit.parity.compare import Comparison
from edgekit.parity.verdict import Verdict
from edgekit_converters.layerwise.result import LayerRow
from edgekit_runtime.errors import UsageError
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["BundleFacts", "PlannedLayer", "RowFacts", "RunEvidence", "read_run"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """Which bundle answered.

    Attributes:
        name: As its manifest says.
        version: Likewise.
        task: Likewise.
        sha256: Of the file, hex.
    """

    name: str
    version: str
    task: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What was asked.

    Attributes:
        count: Rows.
        sha256: Of their content, hex.
        source: Where they come from, in words.
    """

    count: int
    sha256: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """How a layer computes.

    Attributes:
        name: PyTorch module path.
        kind: ``linear``, ``conv``, ...
        mode: ``static``, ``dynamic``, ``float``.
        why: The reason.
    """

    name: str
    kind: str
    mode: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """An evidence document.

    Attributes:
        source: Name of the file.
        bundle: That answered.
        rows: That were asked.
        lanes: The answers.
        comparison: Of all lanes with the reference; None where a device answered and nobody compared yet.
        verdict: None likewise.
        layers: By lane, in order of execution; empty where it was not asked for.
        plan: Layers of the bundle; empty likewise.
        sizes: Of model files in bytes, by the name of the model, e.g. ``tflite-int8``.
        versions: Of packages.
        labels: Of the classes.
        warnings: About the rows.
        notes: Why layers were not compared.
        seed: Of resampling; None where nothing was drawn.
        created: ISO time; may be empty.
    """

    source: str
    bundle: BundleFacts
    rows: RowFacts
    lanes: tuple[LaneEvidence, ...]
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    layers: Mapping[str, tuple[LayerRow, ...]] = field(default_factory=lambda: MappingProxyType({}))
    plan: tuple[PlannedLayer, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seed: int | None = None
    created: str = ""


def read_run(path: Path) -> RunEvidence:
    """Read an evidence file.

    Raises:
        MissingError: No such file (E0659).
        UsageError: It is something else (E0183), or a part of it is damaged (E0190).
    """
    held = read_document(path)

    def part(name: str, read: Callable[[Any], _T], absent: _T) -> _T:
        return absent if held.get(name) is None else _checked(path, name, lambda: read(held[name]))

    return RunEvidence(
        source=path.name,
        bundle=_checked(path, "bundle", lambda: _bundle(held["bundle"])),
        rows=_checked(path, "rows", lambda: _rows(held["rows"])),
        lanes=_checked(path, "lanes", lambda: tuple(LaneEvidence.from_json(lane) for lane in held["lanes"])),
        comparison=part("comparison", Comparison.from_json, None),
        verdict=part("verdict", _verdict, None),
        layers=part("layers", _layers, {}),
        plan=part("plan", _plan, ()),
        sizes=part("sizes", lambda sizes: {str(lane): int(size) for lane, size in sizes.items()}, {}),
        versions=part("versions", lambda given: {str(name): str(version) for name, version in given.items()}, {}),
        labels=part("labels", _texts, ()),
        warnings=part("warnings", _texts, ()),
        notes=part("notes", _texts, ()),
        seed=part("seed", int, None),
        created=part("created", str, ""),
    )


def _checked(path: Path, name: str, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            "E0190",
            f"'{path}' is damaged: its part {name!r} cannot be read",
            why=f"{type(error).__name__}: {error}",
            fix="write it again",
        ) from error


def _bundle(held: Mapping[str, Any]) -> BundleFacts:
    return BundleFacts(**{name: str(held[name]) for name in ("name", "version", "task", "sha256")})


def _rows(held: Mapping[str, Any]) -> RowFacts:
    return RowFacts(count=int(held["count"]), sha256=str(held["sha256"]), source=str(held["source"]))


def _verdict(held: Mapping[str, Any]) -> Verdict:
    verdict = Verdict.from_json(held)
    if held["passed"] is not verdict.passed:
        raise ValueError(f"it says passed: {held['passed']!r}, and its own gates say otherwise")
    return verdict


def _layers(held: Mapping[str, Any]) -> Mapping[str, tuple[LayerRow, ...]]:
    return {str(lane): LayerReport.from_json(report).layers for lane, report in held.items()}


def _texts(held: Sequence[object]) -> tuple[str, ...]:
    if not isinstance(held, list):
        raise TypeError(f"no list of texts, but {type(held).__name__}")
    return tuple(map(str, held))


def _plan(held: Any) -> tuple[PlannedLayer, ...]:  # noqa: ANN401 - JSON
    return tuple(PlannedLayer(**{name: str(layer[name]) for name in ("name", "kind", "mode", "why")}) for layer in held)
