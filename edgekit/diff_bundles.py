"""What differs between two bundles: members, models, how layers are quantised, and the answers that they carry."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from edgekit.diff import ABSENT, AnswerDiff, Change, Difference, answer_diff
from edgekit.parity.readings import reading_of
from edgekit_runtime.bundle import Bundle

__all__ = ["compare_bundles"]

_PLANS: Final = ("plan.json", "plan-onnx.json", "plan-tflite.json")  # one for both formats, or one each
_ANSWERS: Final = frozenset({"golden/reference.npy", "golden/onnxruntime.npy", "golden/litert.npy"})


def compare_bundles(a: Bundle, b: Bundle) -> Difference:
    """Compare two verified bundles."""
    sections = {
        "bundle": [*_pairs("", _identity(a), _identity(b))],
        "members": [*_pairs("", _members(a), _members(b))],
        "models": [*_pairs("", _models(a), _models(b))],
        **{name: _layer_changes(_layers(a, name), _layers(b, name)) for name in _PLANS},
        "provenance": [*_pairs("", _flat(a, "provenance.json"), _flat(b, "provenance.json"))],
    }
    held = {name: tuple(changes) for name, changes in sections.items() if changes}
    return Difference(kind="bundle", sections=held, answers=tuple(_goldens(a, b)))


def _pairs(prefix: str, a: Mapping[str, str], b: Mapping[str, str]) -> Iterable[Change]:
    for name in dict.fromkeys((*a, *b)):
        ours, theirs = a.get(name, ABSENT), b.get(name, ABSENT)
        if ours != theirs:
            yield Change(f"{prefix}{name}", ours, theirs)


def _identity(bundle: Bundle) -> dict[str, str]:
    held = bundle.manifest
    return {
        "name": held.name,
        "version": held.version,
        "task": held.task,
        "target": held.target,
        "sha256": bundle.digest,
    }


def _members(bundle: Bundle) -> dict[str, str]:
    return {member.name: f"{member.size:,} bytes, sha256 {member.sha256[:16]}" for member in bundle.manifest.members}


def _models(bundle: Bundle) -> dict[str, str]:
    found: dict[str, str] = {}
    for engine, entry in bundle.manifest.models.items():
        found[f"{engine}: precision"] = entry.precision
        for side, specs in (("input", entry.inputs), ("output", entry.outputs)):
            found |= {
                f"{engine}: {side} {spec.name}": f"{spec.dtype} {spec.shape}, tensor {spec.tensor}" for spec in specs
            }
    return found


def _flat(bundle: Bundle, member: str) -> dict[str, str]:
    """Give a JSON member as one text a leaf."""

    def leaves(value: object, path: tuple[str, ...]) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                yield from leaves(each, (*path, str(key)))
        else:
            yield ".".join(path), str(value)

    return dict(leaves(bundle.json(member), ())) if member in bundle.names else {}


def _layers(bundle: Bundle, member: str) -> dict[str, Any]:
    held: Any = bundle.json(member) if member in bundle.names else {"layers": []}
    return {str(layer["name"]): layer for layer in held["layers"]}


def _layer_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """Say which layers are quantised differently: mode, codes, scales of the weights, grids of input and output."""
    changes: list[Change] = []
    for name in dict.fromkeys((*a, *b)):
        ours, theirs = a.get(name), b.get(name)
        if ours is None or theirs is None:
            changes.append(Change(name, _mode(ours), _mode(theirs)))
            continue
        if _mode(ours) != _mode(theirs):
            changes.append(Change(f"{name}: mode", _mode(ours), _mode(theirs)))
        changes += _scale_changes(name, ours, theirs)
        for side in ("input", "output"):
            before, after = _grid(ours[side]), _grid(theirs[side])
            if before != after:
                changes.append(Change(f"{name}: {side} grid", before, after))
    return changes


def _mode(layer: Any) -> str:  # noqa: ANN401 - checked JSON
    if layer is None:
        return ABSENT
    scheme = layer.get("scheme")
    return str(layer["mode"]) if scheme is None else f"{layer['mode']} {scheme['kind']} {scheme['rounding']}"


def _grid(grid: Any) -> str:  # noqa: ANN401 - checked JSON
    if grid is None:
        return ABSENT
    return f"scale {grid['scale']:.9g}, zero point {grid['zero_point']}, {grid.get('bits', 8)} bits"


def _scale_changes(name: str, ours: Any, theirs: Any) -> list[Change]:  # noqa: ANN401 - checked JSON
    """Compare the scales of the weights; where both have as many, the largest relative difference is told."""
    a, b = (np.asarray(layer.get("weight_scales") or [], np.float64).ravel() for layer in (ours, theirs))
    if a.shape != b.shape:
        return [Change(f"{name}: weight scales", f"{len(a)}", f"{len(b)}")]
    if np.array_equal(a, b):
        return []
    apart = np.abs(b - a) / np.maximum(np.abs(a), np.finfo(np.float64).tiny)
    worst = int(apart.argmax())
    moved = f"{b[worst]:.6g} (channel {worst}, {100 * apart[worst]:.3g} %; {int((apart > 0).sum())} of {len(a)} differ)"
    return [Change(f"{name}: weight scales", f"{a[worst]:.6g}", moved)]


def _goldens(a: Bundle, b: Bundle) -> Iterable[AnswerDiff]:
    """Compare the answers that both bundles carry, if they carry them to the same rows."""
    held = sorted(_ANSWERS & a.names & b.names)
    asked = [_asked(bundle) for bundle in (a, b)]
    labels: list[Any] = [bundle.json("labels.json") if "labels.json" in bundle.names else [] for bundle in (a, b)]
    for member in held:
        lane = f"golden answers of {member.partition('/')[2].removesuffix('.npy')}"
        if asked[0] != asked[1]:
            yield AnswerDiff(lane=lane, reason="they answer other rows")
            continue
        outputs = tuple(bundle.npy(member) for bundle in (a, b))
        flat = [values.reshape(len(values), -1) for values in outputs]
        reading = reading_of(a.manifest.task)
        yield answer_diff(lane, (flat[0], flat[1]), reading=reading, labels=(labels[0], labels[1]))


def _asked(bundle: Bundle) -> dict[str, str]:
    """Give digests of the golden rows before preprocessing, or of the tensors where there is none."""
    raw: list[str] = [name for name in ("golden.json", "golden/input.npy") if name in bundle.names]
    if bundle.manifest.task == "tensors":
        raw = [name for name in sorted(bundle.names) if name.startswith("golden/") and name not in _ANSWERS]
    return {name: hashlib.sha256(bundle.read(name)).hexdigest() for name in raw}
