"""The quantisation plan: how every layer computes, on which grid, and why; both formats are written from it."""

import json
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.calibration.spec import RangeMethod
from edgekit_converters.quantize.grid import Range, grid_of, weight_grid
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.schemes.lookup import Coded
from edgekit_converters.quantize.schemes.scheme import WeightScheme
from edgekit_runtime.errors import ConversionError

__all__ = ["PLAN_FILE", "Grid", "LayerPlan", "QuantPlan", "Technique", "grid_from"]

PLAN_FILE = "plan.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """An asymmetric int8 grid of one tensor: ``q = clip(rint(x / scale) + zero_point, -128, 127)``.

    With 16 bits it is symmetric, as LiteRT's kernels need: codes -32,768 to 32,767, zero point 0.

    Attributes:
        low: Smallest value that calibration saw, or the clip that was chosen below it.
        high: Largest.
        scale: Width of a step, a float32 value; above 0.
        zero_point: Code of 0.0, -128 to 127; uint8 kernels use ``zero_point + 128``, the same grid.
        bits: 8 or 16.
    """

    low: float
    high: float
    scale: float
    zero_point: int
    bits: Literal[8, 16] = 8

    def __post_init__(self) -> None:
        known = -128 <= self.zero_point <= 127 if self.bits == 8 else self.bits == 16 and self.zero_point == 0
        if not (self.scale > 0 and known and self.low <= self.high):
            raise ConversionError("E0766", f"the plan holds an impossible grid: {self}", fix="build again")

    @property
    def codes(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def limits(self) -> tuple[np.float64, np.float64]:
        """Values of the outermost codes in float64, from which scale and zero point come back exactly."""
        scale = np.float64(np.float32(self.scale))
        lowest, highest = self.codes if self.bits == 8 else (-self.codes[1], self.codes[1])
        return scale * (lowest - self.zero_point), scale * (highest - self.zero_point)


def grid_from(seen: Range, *, bits: Literal[8, 16] = 8) -> Grid:
    """Give the grid that holds a range and 0."""
    if bits == 16:
        step = np.float32(max(-seen.low, seen.high, 1e-9) / 32767.0)
        return Grid(low=seen.low, high=seen.high, scale=float(step), zero_point=0, bits=16)
    scale, zero_point = grid_of(seen, "int8")
    return Grid(low=seen.low, high=seen.high, scale=float(scale), zero_point=zero_point)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer.

    Attributes:
        name: PyTorch module path.
        kind: ``linear``, ``conv`` or ``embedding``.
        mode: How it computes.
        why: Reason for the mode, for the reader.
        weight_scales: Per output channel, or one for the whole layer, float32. Empty when float, and for an embedding,
            where each of its many rows has the scale ``absolute maximum / 127``.
        input: Grid of the input; None unless static.
        output: Grid of the output behind a fused ReLU; None unless static. ONNX Runtime's linear kernels give float and
            leave it out; LiteRT's and all convolutions use it.
        scheme: How the weights are coded in fewer than 8 bits; None = int8, with ``weight_scales``.
        coded: The codes that ``scheme`` names by their digest; the JSON does not hold them.
    """

    name: str
    kind: Literal["linear", "conv", "embedding"]
    mode: Mode
    why: str
    weight_scales: tuple[float, ...] = ()
    input: Grid | None = None
    output: Grid | None = None
    scheme: WeightScheme | None = None
    coded: Coded | None = field(default=None, compare=False, repr=False)

    @property
    def is_coded(self) -> bool:
        """Whether the weights stand in the files in fewer than 8 bits."""
        return self.scheme is not None and self.mode is not Mode.FLOAT

    @property
    def is_int8(self) -> bool:
        """Whether the weights stand in the files as int8."""
        return self.scheme is None and self.mode is not Mode.FLOAT

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves all channels; a layer of one channel is both."""
        return len(self.weight_scales) == 1

    @property
    def held(self) -> Coded:
        """The codes of a coded layer.

        Raises:
            ConversionError: The plan was read without them (E0797).
        """
        if self.coded is None:
            fix = "read the plan with the file of codes beside it"
            raise ConversionError("E0797", f"the codes of {self.name} are absent", fix=fix)
        return self.coded

    def scales(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the scales of a weight whose channels are dimension 0, float32 (channels,)."""
        if self.kind == "embedding":
            return weight_grid(weight, axis=0)[1]
        return np.array(self.weight_scales, np.float32)

    def codes(self, weight: NDArray[np.float32]) -> NDArray[np.int8]:
        """Give the int8 codes of a weight whose channels are dimension 0: ``clip(rint(w / scale), -127, 127)``.

        The quotient is float64 but for embeddings, as in ai-edge-quantizer where ranges are given: in float32 some that
        lie beside a half round to it, and one weight in millions gets another code.
        """
        shape = [-1] + [1] * (weight.ndim - 1)
        scale = self.scales(weight).reshape(shape)
        steps = weight / scale if self.kind == "embedding" else weight / scale.astype(np.float64)
        codes: NDArray[np.int8] = np.clip(np.rint(steps), -127, 127).astype(np.int8)
        return codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What was tried for accuracy, and what the measurement said.

    Attributes:
        name: Short name.
        source: Paper or reasoning it comes from.
        sqnr_before_db: Of the simulated int8 model's outputs on held-in rows, before.
        sqnr_after_db: With the technique.
        kept: Whether it improved enough to be kept.
    """

    name: str
    source: str
    sqnr_before_db: float
    sqnr_after_db: float
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """The whole model.

    Attributes:
        layers: In order of execution.
        techniques: In the order they were tried.
        calibration_rows: Rows that the ranges were measured on.
        calibration_digest: sha256 (hex) of those rows, names, types and shapes included.
        whole_network: Every operator runs in int8, not the layers alone (images, NPUs).
        ranges: How ranges were chosen from the values; ``minmax`` clips none of them.
    """

    layers: tuple[LayerPlan, ...]
    techniques: tuple[Technique, ...]
    calibration_rows: int
    calibration_digest: str
    whole_network: bool
    ranges: RangeMethod = "minmax"

    def layer(self, name: str) -> LayerPlan:
        """Give a layer by its path."""
        return next(layer for layer in self.layers if layer.name == name)

    def codes(self) -> dict[str, Coded]:
        """Give the coded weights by layer.

        Raises:
            ConversionError: The plan was read without its codes (E0797).
        """
        return {layer.name: layer.held for layer in self.layers if layer.is_coded}

    def with_modes(self, mode: Mode, *, kind: str) -> "QuantPlan":
        """Give a copy where every int8 layer of a kind computes in ``mode``."""
        changed = tuple(
            replace(layer, mode=mode, why="asked for") if layer.kind == kind and layer.mode is not Mode.FLOAT else layer
            for layer in self.layers
        )
        return replace(self, layers=changed)

    def to_json(self) -> str:
        """Give the file's text; the same plan gives the same bytes."""
        plain = replace(self, layers=tuple(replace(layer, coded=None) for layer in self.layers))
        values = asdict(plain)
        for layer in values["layers"]:
            del layer["coded"]
        return json.dumps({"version": _VERSION, **values}, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """Sha256 (hex) of the text."""
        return sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "QuantPlan":
        """Read a plan back.

        Raises:
            ConversionError: The text is no plan of this version (E0767).
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            version = raw.pop("version")
            if version != _VERSION:
                raise ValueError(f"version {version}")  # noqa: TRY301 - one place turns all faults into one error
            layers = tuple(_layer(layer) for layer in raw.pop("layers"))
            techniques = tuple(Technique(**technique) for technique in raw.pop("techniques"))
            return cls(layers=layers, techniques=techniques, **raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConversionError(
                "E0767",
                "the quantisation plan cannot be read",
                why=f"{type(error).__name__}: {error}",
                fix=f"give a plan.json of version {_VERSION}",
            ) from error


def _layer(raw: dict[str, Any]) -> LayerPlan:
    grids = {side: None if raw[side] is None else Grid(**raw[side]) for side in ("input", "output")}
    scheme = None if raw.get("scheme") is None else WeightScheme(**raw["scheme"])
    return LayerPlan(
        **{**raw, **grids, "scheme": scheme, "mode": Mode(raw["mode"]), "weight_scales": tuple(raw["weight_scales"])}
    )
