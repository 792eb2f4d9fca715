"""What a build decided after measuring, in one file: a build that is given it decides the same without measuring."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast, get_args

from edgekit_converters.quantize.plan import QuantPlan
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import Precision

__all__ = ["Decisions", "Format", "Planning", "adopt", "read_decisions"]

Format = Literal["onnx", "tflite"]
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """How the layers of one format compute.

    Attributes:
        candidate: Which kind of plan it began as, e.g. ``static``; empty for a recipe, which says so itself.
        plan: All of it.
    """

    candidate: str
    plan: QuantPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What was decided.

    Attributes:
        plans: By format.
        precision: Of the model that the bundle holds, by format.
    """

    plans: Mapping[Format, Planning]
    precision: Mapping[Format, Precision]

    def to_json(self) -> str:
        """Give the file's text; the same decisions give the same bytes."""
        plans = {
            name: {"candidate": one.candidate, "plan": json.loads(one.plan.to_json())}
            for name, one in self.plans.items()
        }
        content = {"schema": _SCHEMA, "plans": plans, "precision": dict(self.precision)}
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """Sha256 (hex) of the text."""
        return sha256(self.to_json().encode()).hexdigest()


def read_decisions(path: Path) -> Decisions:
    """Read a file that a build wrote beside its bundle.

    Raises:
        MissingError: There is none (E0614).
        UsageError: It is no such file (E0147).
    """
    if not path.is_file():
        raise MissingError("E0614", f"there is no file '{path}'", fix="check the path")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != _SCHEMA:
            raise ValueError(f"schema {raw['schema']}")  # noqa: TRY301 - one place turns all faults into one error
        plans = {
            _format(name): Planning(candidate=str(one["candidate"]), plan=QuantPlan.from_json(json.dumps(one["plan"])))
            for name, one in raw["plans"].items()
        }
        precision = {_format(name): _precision(value) for name, value in raw["precision"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "E0147",
            f"'{path.name}' holds no decisions of a build",
            why=f"{type(error).__name__}: {error}",
            fix="give the NAME-TARGET.plan.json that a build wrote beside its bundle",
        ) from error
    return Decisions(plans=plans, precision=precision)


def _format(name: str) -> Format:
    if name not in get_args(Format):
        raise ValueError(f"format {name!r}")
    return cast("Format", name)


def _precision(value: str) -> Precision:
    if value not in get_args(Precision):
        raise ValueError(f"precision {value!r}")
    return cast("Precision", value)


def adopt(made: QuantPlan, given: QuantPlan) -> QuantPlan:
    """Give the decided plan, once it is sure that it belongs to this model and these rows.

    Args:
        made: Planned just now, from the same model and rows.
        given: From the file.

    Raises:
        UsageError: Rows, layers or weights are others (E0147).
    """
    if made.calibration_digest != given.calibration_digest:
        raise _other("it was made on other calibration rows")
    if [layer.name for layer in made.layers] != [layer.name for layer in given.layers]:
        raise _other("the model has other layers")
    layers = []
    for mine, theirs in zip(made.layers, given.layers, strict=True):
        if mine.weight_scales and theirs.weight_scales and mine.weight_scales != theirs.weight_scales:
            raise _other(f"the weights of {mine.name} are others")
        if theirs.scheme is not None and mine.scheme != theirs.scheme:
            raise _other(f"the weights of {mine.name} are coded in another way")
        layers.append(replace(theirs, coded=mine.coded if theirs.scheme else None))
    return replace(given, layers=tuple(layers))


def _other(why: str) -> UsageError:
    fix = "give the model and the rows of that build, or build without the file"
    return UsageError("E0147", "the plan does not belong to this build", why=why, fix=fix)
