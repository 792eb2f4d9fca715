"""What the sections of a recipe share: strict models, faults in our own words, and the types of their keys."""

from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from edgekit.parity.gates import make_gate
from edgekit.recipe.units import Points
from edgekit_runtime.errors import UsageError

__all__ = [
    "UNSET",
    "Count",
    "Epochs",
    "GateTexts",
    "Increasing",
    "PointsText",
    "Positive",
    "Rate",
    "Section",
    "Sha256",
    "Text",
    "fault",
    "unique",
]

UNSET: Any = None  # of a key that the file lacks; never handed on


def fault(text: str, *, key: str = "") -> PydanticCustomError:
    """Make an error with our own words; ``key`` points at one key of the section."""
    # The text goes in as a value: pydantic would read braces in a template.
    return PydanticCustomError("recipe", "{text}", {"text": text, "key": key})


def _points(value: object) -> Points:
    if not isinstance(value, str):
        raise fault(f"needs a unit; write for example '{value} points'")
    try:
        return Points.parse(value)
    except ValueError as error:
        raise fault(str(error)) from None


def unique(values: list[Any]) -> list[Any]:
    """Refuse a list that names one thing twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise fault(f"names {value!r} twice")
    return values


def _increasing(values: list[int]) -> list[int]:
    if any(left >= right for left, right in pairwise(values)):
        raise fault(f"must increase from one layer to the next, not {values}")
    return values


def _gates(given: dict[str, Any]) -> dict[str, str]:
    held = {}
    for name, written in given.items():
        try:
            held[name] = make_gate(name, written).written()
        except UsageError as error:
            raise fault(f"{error.what.removeprefix(f'{name} ')}; {error.fix or error.why}", key=name) from None
    return held


Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Epochs = Annotated[float, Field(ge=0, le=10_000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Increasing = Annotated[list[Count], AfterValidator(_increasing)]
GateTexts = Annotated[dict[str, Any], AfterValidator(_gates)]
PointsText = Annotated[Points, BeforeValidator(_points)]


class Section(BaseModel):
    """A part of the recipe; keys that it does not know are refused, and no value is converted from another type."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    def given(self, *without: str) -> dict[str, Any]:
        """Give the keys that the file holds, lists as tuples."""
        pairs = ((name, getattr(self, name)) for name in self.model_fields_set if name not in without)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in pairs}
