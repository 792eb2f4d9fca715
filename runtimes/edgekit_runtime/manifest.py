"""The manifest of a bundle: what is inside, under which digest, and which tensors the models take and give."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast, get_args

from edgekit_runtime.errors import BundleError

__all__ = [
    "FORMAT",
    "MAX_MANIFEST_BYTES",
    "SCHEMA",
    "Manifest",
    "Member",
    "ModelEntry",
    "Precision",
    "Role",
    "Runtime",
    "TaskName",
    "TensorSpec",
    "canonical_json",
    "strict_json",
]

FORMAT: Final = "edgekit-bundle"
SCHEMA: Final = 1
MAX_MANIFEST_BYTES: Final = 1 << 20

TaskName = Literal["text-classification", "image-classification", "text-embedding", "tensors"]
Runtime = Literal["onnxruntime", "litert"]
Precision = Literal["int8", "float32"]
DType = Literal["float32", "int32", "int8", "uint8"]
Role = Literal["model", "preprocess", "tokenizer", "labels", "golden", "parity", "provenance", "licence", "extra"]

_MEMBER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(?:/[a-z0-9][a-z0-9_.-]*)*")
_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_VERSION = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CALIBRATION = "calibration_sha256"
_MAX_NAME = 100
_MAX_INTEGER = 2**53  # what every JSON reader keeps exactly
_MAX_SIZE = 2**32 - 2  # the container has no zip64

T = TypeVar("T")


def canonical_json(value: object) -> bytes:
    """Serialise in the one form a manifest may have: UTF-8, sorted keys, no spaces, no trailing newline.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def strict_json(data: bytes, *, floats: bool = False) -> object:
    """Parse JSON without its loose ends: no duplicate keys, no NaN, no integer that a reader might round.

    Args:
        data: UTF-8 text.
        floats: Accept numbers with a fraction or exponent.

    Raises:
        ValueError: The text is not UTF-8, not JSON, or breaks one of these rules.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_float=_finite if floats else _refuse_number,
            parse_int=_safe_integer,
            parse_constant=_refuse_number,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _refuse_number(text: str) -> object:
    raise ValueError(f"the number {text[:20]} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _safe_integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > _MAX_INTEGER:
        raise ValueError(f"the integer {text[:20]} is too large")
    return int(text)


def _fault(what: str) -> BundleError:
    return BundleError(
        "E0507", f"the manifest is wrong: {what}", fix="build the bundle again with the edgekit that wrote it"
    )


def _match(pattern: re.Pattern[str], value: str, field: str) -> None:
    if not pattern.fullmatch(value):
        raise _fault(f"{field} {value[:120]!r} is not allowed")


def _one_of(choices: object, value: str, field: str) -> None:
    known = get_args(choices)
    if value not in known:
        raise _fault(f"{field} {value[:60]!r} is unknown; known: {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside the bundle.

    Attributes:
        name: Path inside the bundle; lower-case letters, digits, ``_ . -`` and ``/``, at most 100 characters.
        role: What it is for.
        sha256: Digest of its content, hex.
        size: In bytes.
    """

    name: str
    role: Role
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME or not _MEMBER_NAME.fullmatch(self.name) or self.name == "manifest.json":
            raise BundleError(
                "E0508",
                f"a member may not be named {self.name[:120]!r}",
                why="names are lower-case letters, digits and _ . - in parts joined by /, at most 100 characters",
            )
        _one_of(Role, self.role, "role")
        _match(_SHA256, self.sha256, "sha256")
        if not 0 <= self.size <= _MAX_SIZE:
            raise _fault(f"size {self.size} of {self.name} is out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: What edgekit calls it, e.g. ``input_ids`` or ``logits``.
        tensor: What the model file calls it.
        dtype: Type that a caller gives or gets. A TFLite file may hold int8 where this says float32; the engine
            converts with the file's own scale and zero point.
        shape: Fixed; every entry above 0.
    """

    name: str
    tensor: str
    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name or not self.tensor:
            raise _fault("a tensor has no name")
        _one_of(DType, self.dtype, "dtype")
        if not self.shape or min(self.shape) < 1:
            raise _fault(f"shape {self.shape} of {self.name} has no fixed size")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model file.

    Attributes:
        member: Its name in the bundle.
        precision: ``float32`` when the build kept the float model, ``int8`` when it quantised it; the plan says which
            weights have fewer bits and which activations have 16.
        inputs: In the order of the model contract of the task.
        outputs: Likewise.
    """

    member: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        _one_of(Precision, self.precision, "precision")
        for side in (self.inputs, self.outputs):
            if not side or len({spec.name for spec in side}) != len(side):
                raise _fault(f"{self.member} needs inputs and outputs with distinct names")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The first member of a bundle.

    Attributes:
        name: Bundle name: lower-case letters, digits and hyphens.
        version: Version of the user's model, ``major.minor.patch``.
        task: What the model answers.
        target: The board that it was built for.
        members: Every other member, in file order.
        models: Model by runtime; at least one.
        calibration_sha256: Fingerprint of the rows that int8 ranges were measured on, hex; empty where there were none.
    """

    name: str
    version: str
    task: TaskName
    target: str
    members: tuple[Member, ...]
    models: Mapping[Runtime, ModelEntry]
    calibration_sha256: str = ""

    def __post_init__(self) -> None:
        _match(_BUNDLE_NAME, self.name, "name")
        _match(_VERSION, self.version, "version")
        _match(_BUNDLE_NAME, self.target, "target")
        _one_of(TaskName, self.task, "task")
        if self.calibration_sha256:
            _match(_SHA256, self.calibration_sha256, _CALIBRATION)
        names = {member.name for member in self.members}
        if len(names) != len(self.members):
            raise BundleError("E0508", "two members have the same name")
        for name in names:
            parts = name.split("/")
            for end in range(1, len(parts)):
                if "/".join(parts[:end]) in names:
                    raise BundleError("E0508", f"member {name!r} lies inside another member")
        if not self.models:
            raise _fault("it lists no model")
        for runtime, entry in self.models.items():
            _one_of(Runtime, runtime, "runtime")
            if entry.member not in names:
                raise _fault(f"model {entry.member!r} is not among the members")

    def to_bytes(self) -> bytes:
        """Serialise canonically."""
        return canonical_json(
            {
                "format": FORMAT,
                "schema": SCHEMA,
                "name": self.name,
                "version": self.version,
                "task": self.task,
                "target": self.target,
                **({_CALIBRATION: self.calibration_sha256} if self.calibration_sha256 else {}),
                "members": [{"name": m.name, "role": m.role, "sha256": m.sha256, "size": m.size} for m in self.members],
                "models": {
                    runtime: {
                        "member": entry.member,
                        "precision": entry.precision,
                        "inputs": [_tensor_to_json(spec) for spec in entry.inputs],
                        "outputs": [_tensor_to_json(spec) for spec in entry.outputs],
                    }
                    for runtime, entry in self.models.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read and check.

        Raises:
            BundleError: Not canonical JSON (E0506), a schema this version does not know (E0509), or a wrong field.
        """
        try:
            value = strict_json(data)
        except ValueError as error:
            raise BundleError("E0506", "the manifest is not strict JSON", why=str(error)) from None
        top = _as(dict, value, "the manifest")
        if top.get("format") != FORMAT:
            raise _fault(f"format is {str(top.get('format'))[:40]!r}, not {FORMAT!r}")
        if top.get("schema") != SCHEMA:
            raise BundleError(
                "E0509",
                f"the bundle has schema {str(top.get('schema'))[:20]}; this edgekit_runtime reads schema {SCHEMA}",
                fix="install the edgekit-runtime that belongs to the edgekit that built the bundle",
            )
        keys: tuple[str, ...] = ("format", "schema", "name", "version", "task", "target", "members", "models")
        keys += (_CALIBRATION,) if _CALIBRATION in top else ()
        fields = _fields(top, keys, "the manifest")
        models = _as(dict, fields["models"], "models")
        manifest = cls(
            name=_as(str, fields["name"], "name"),
            version=_as(str, fields["version"], "version"),
            task=cast("TaskName", _as(str, fields["task"], "task")),
            target=_as(str, fields["target"], "target"),
            members=_each(fields["members"], _member, "members"),
            models={cast("Runtime", runtime): _model(entry) for runtime, entry in models.items()},
            calibration_sha256=_as(str, fields.get(_CALIBRATION, ""), _CALIBRATION),
        )
        if manifest.to_bytes() != data:
            raise BundleError("E0506", "the manifest is not in canonical form")
        return manifest


def _tensor_to_json(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "tensor": spec.tensor, "dtype": spec.dtype, "shape": list(spec.shape)}


def _as(kind: type[T], value: object, field: str) -> T:
    # bool is an int to isinstance; a manifest has no use for either in place of the other.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _fault(f"{field} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _fields(value: object, keys: tuple[str, ...], field: str) -> dict[str, object]:
    found: dict[str, object] = _as(dict, value, field)
    if set(found) != set(keys):
        odd = sorted(set(found) ^ set(keys))
        raise _fault(f"{field} has missing or unknown keys: {', '.join(odd)[:200]}")
    return found


def _each(value: object, read: Callable[[object], T], field: str) -> tuple[T, ...]:
    items: list[object] = _as(list, value, field)
    return tuple(read(item) for item in items)


def _member(value: object) -> Member:
    fields = _fields(value, ("name", "role", "sha256", "size"), "a member")
    return Member(
        name=_as(str, fields["name"], "member name"),
        role=cast("Role", _as(str, fields["role"], "role")),
        sha256=_as(str, fields["sha256"], "sha256"),
        size=_as(int, fields["size"], "size"),
    )


def _tensor(value: object) -> TensorSpec:
    fields = _fields(value, ("name", "tensor", "dtype", "shape"), "a tensor")
    return TensorSpec(
        name=_as(str, fields["name"], "tensor name"),
        tensor=_as(str, fields["tensor"], "tensor"),
        dtype=cast("DType", _as(str, fields["dtype"], "dtype")),
        shape=_each(fields["shape"], lambda size: _as(int, size, "shape"), "shape"),
    )


def _model(value: object) -> ModelEntry:
    fields = _fields(value, ("member", "precision", "inputs", "outputs"), "a model")
    return ModelEntry(
        member=_as(str, fields["member"], "member"),
        precision=cast("Precision", _as(str, fields["precision"], "precision")),
        inputs=_each(fields["inputs"], _tensor, "inputs"),
        outputs=_each(fields["outputs"], _tensor, "outputs"),
    )
