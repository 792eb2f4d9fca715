"""What a comparison layer by layer gives: figures and, where a layer is out of line, what is wrong with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Figures", "LayerRow", "Reason", "number_from_json", "number_to_json"]

Reason = Literal["nan", "scale", "weights", "clipping", "differs"]


def number_to_json(value: float | None) -> float | str | None:
    """JSON has no word for NaN and infinity: they become the strings ``nan``, ``inf`` and ``-inf``."""
    return value if value is None or value - value == 0 else str(value)


def number_from_json(value: Any) -> float | None:  # noqa: ANN401 - out of JSON
    """Read what ``number_to_json`` wrote."""
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far a layer's output is from float, over all entries of all rows; NaN where one is not finite.

    Attributes:
        sqnr_db: Signal to noise, dB.
        cosine: Of the flattened outputs.
        rmse: In the tensor's unit.
        rmse_steps: In steps of the output's grid; rounding alone gives 0.289. None for a float output.
        max_difference: Largest difference, in the tensor's unit.
        not_finite: Entries that are NaN or infinite where float is not.
    """

    sqnr_db: float
    cosine: float
    rmse: float
    rmse_steps: float | None
    max_difference: float
    not_finite: int

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {key: number_to_json(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Figures":
        """Read it back."""
        values = {key: number_from_json(value) for key, value in raw.items() if key != "not_finite"}
        return cls(not_finite=int(raw["not_finite"]), **values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer, or what stands between layers.

    Attributes:
        module: PyTorch module path; ``before MODULE`` for what stands between layers, ``output NAME`` for the end.
        kind: ``linear``, ``conv``, ``embedding``, or ``between``.
        mode: As planned: ``static``, ``dynamic``, ``float``; ``-`` between layers.
        local: Fed with what the float network computes: the layer's own error.
        inherited: In the int8 network: its own error and that of all layers before.
        expected_db: SQNR of a sound int8 layer of these ranges; None where there is no expectation.
        saturation: Largest share of codes at an end of a grid, of the input's and the output's; None without a grid.
        reason: What is wrong with it; None if nothing is.
        note: The same for a reader, with figures; empty if nothing is.
        reference: Its output tensor in the float file.
        tensor: Its output tensor in the int8 file.
    """

    module: str
    kind: str
    mode: str
    local: Figures
    inherited: Figures
    expected_db: float | None
    saturation: float | None
    reason: Reason | None
    note: str
    reference: str
    tensor: str

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        return {
            **{name: getattr(self, name) for name in ("module", "kind", "mode", "reason", "note")},
            "reference": self.reference,
            "tensor": self.tensor,
            "local": self.local.as_json(),
            "inherited": self.inherited.as_json(),
            "expected_db": number_to_json(self.expected_db),
            "saturation": number_to_json(self.saturation),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "LayerRow":
        """Read it back."""
        figures = {side: Figures.from_json(raw[side]) for side in ("local", "inherited")}
        numbers = {name: number_from_json(raw[name]) for name in ("expected_db", "saturation")}
        return cls(**{**raw, **figures, **numbers})
