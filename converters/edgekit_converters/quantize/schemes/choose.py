"""Codes the weights of a plan as the recipe asks; techniques are then judged on what the files will hold."""

from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from edgekit.recipe.spec import QuantizeSpec
from edgekit_converters.quantize.graph import Graph, layer_weights
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_converters.quantize.schemes.blockwise import blockwise_integer
from edgekit_converters.quantize.schemes.codebook import codebook
from edgekit_converters.quantize.schemes.lookup import Coded
from edgekit_converters.quantize.schemes.power import power_of_two
from edgekit_converters.quantize.schemes.scheme import Rounding, SchemeKind, WeightScheme, digest_of

__all__ = ["CodeWeights", "with_codes"]

_WHY = {
    "int4": "asked for; LiteRT and ONNX Runtime round its input to int8 at each run",
    "power-of-two": "asked for; the file is small, the engines decode it to float",
    "codebook": "asked for; the file is small, the engines decode it to float",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeWeights:
    """Gives the layers of a plan coded weights.

    Attributes:
        how: Scheme, block and embedding of the recipe.
    """

    how: QuantizeSpec
    _made: dict[bytes, Coded] = field(default_factory=dict, repr=False)  # weights that no technique changed stay coded

    def __call__(self, graph: Graph, plan: QuantPlan) -> QuantPlan:
        """Code the linear layers that are not float, and the embeddings, where the recipe wants fewer than 8 bits.

        Raises:
            ConversionError: A weight is not finite (E0756).
        """
        weights = layer_weights(graph)
        return replace(plan, layers=tuple(self._coded(layer, weights[layer.name]) for layer in plan.layers))

    def _coded(self, layer: LayerPlan, weight: NDArray[np.float32]) -> LayerPlan:
        kind = self._kind(layer)
        if kind is None:
            return layer
        block = self.how.block if kind == "int4" and self.how.block and weight.shape[1] % self.how.block == 0 else 0
        key = sha256(f"{kind}{block}{weight.shape}".encode() + np.ascontiguousarray(weight).tobytes()).digest()
        if key not in self._made:
            self._made[key] = _encode(weight, kind, block)
        why = "asked for; rows of codes" if layer.kind == "embedding" else _WHY[kind]
        if kind == "int4" and block != self.how.block:
            why += f"; one scale per channel, for {self.how.block} does not divide {weight.shape[1]} inputs"
        return with_codes(replace(layer, why=why), self._made[key], kind=kind, block=block, rounding="nearest")

    def _kind(self, layer: LayerPlan) -> SchemeKind | None:
        if layer.mode is Mode.FLOAT or layer.kind == "conv":
            return None
        if layer.kind == "embedding":
            return "int4" if self.how.embedding == "int4" else None
        return None if self.how.weights == "int8" else self.how.weights


def _encode(weight: NDArray[np.float32], kind: SchemeKind, block: int) -> Coded:
    if kind == "int4":
        return blockwise_integer(weight, block=block or None)
    return power_of_two(weight) if kind == "power-of-two" else codebook(weight)


def with_codes(layer: LayerPlan, coded: Coded, *, kind: SchemeKind, block: int, rounding: Rounding) -> LayerPlan:
    """Give a layer these codes, and the digest that its files must show."""
    scheme = WeightScheme(kind=kind, block=block, rounding=rounding, sha256=digest_of(coded))
    return replace(layer, scheme=scheme, coded=coded)
