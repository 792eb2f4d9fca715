"""Pairs an int8 file with the float file it came from: layer by layer, and what stands between the layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit_converters.layerwise.network import Network, cut
from edgekit_converters.layerwise.onnx_network import OnnxNetwork
from edgekit_converters.layerwise.places import Place
from edgekit_converters.layerwise.tflite_network import TfliteNetwork, paired_steps
from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_runtime.errors import ConversionError

__all__ = ["Twin", "Unit", "Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same tensor in both files.

    Attributes:
        reference: In the float file.
        lane: In the int8 file.
    """

    reference: str
    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is run alone: a layer, or the operators between layers.

    Attributes:
        module: PyTorch path, or ``before MODULE``, or ``output NAME``.
        kind: As ``LayerRow`` has it.
        sources: What it reads.
        target: What it gives.
        layer: Its plan; None between layers.
        floor: See ``Place``.
    """

    module: str
    kind: str
    sources: tuple[Pair, ...]
    target: Pair
    layer: LayerPlan | None = None
    floor: float | None = None

    @property
    def mode(self) -> str:
        """How it computes."""
        return "-" if self.layer is None else self.layer.mode.value


@dataclass(frozen=True, slots=True)
class Twin:
    """An int8 network and the float network that it was made from.

    Attributes:
        reference: Float.
        lane: Int8.
        units: In order of execution.
    """

    reference: Network
    lane: Network
    units: tuple[Unit, ...]

    def shown(self, unit: Unit) -> str:
        """Give the tensor of the int8 file to look at for what a unit gives.

        Between layers that is the float one: the grid that the next layer puts it on is that layer's own.
        """
        return unit.target.lane if unit.layer is None else self.lane.shown(unit.target.lane)

    @classmethod
    def of(cls, reference: Network, lane: Network, places: Sequence[Place], plan: QuantPlan) -> "Twin":
        """Find every layer of the table in both files.

        Raises:
            ConversionError: The files are not of one build (E0726), or a layer is not in the plan (E0724).
        """
        return cls(reference, lane, _Builder(reference, lane, plan).units(places))


class _Builder:
    """Walks through both files in order of execution."""

    def __init__(self, reference: Network, lane: Network, plan: QuantPlan) -> None:
        if len(reference.inputs) != len(lane.inputs) or len(reference.outputs) != len(lane.outputs):
            raise _not_one_build("they take or give another number of tensors")
        self._reference, self._lane = reference, lane
        self._plans = {layer.name: layer for layer in plan.layers}
        self._known = dict(zip(lane.inputs, reference.inputs, strict=True))

    def units(self, places: Sequence[Place]) -> tuple[Unit, ...]:
        layers = [self._layer(place, *tensors) for place, tensors in zip(places, self._find(places), strict=True)]
        for unit in layers:
            for tensor in self._copies(unit.target.lane):
                self._known[tensor] = unit.target.reference
        found: list[Unit] = []
        met = set(self._known.values())
        for unit in layers:
            for pair in unit.sources:
                if pair.reference not in met:
                    found += self._between(f"before {unit.module}", pair)
                    met.add(pair.reference)
            found.append(unit)
        for pair in map(Pair, self._reference.outputs, self._lane.outputs):
            if pair.reference not in met:
                found += self._between(f"output {_bare(pair.reference)}", pair)
        return tuple(found)

    def _find(self, places: Sequence[Place]) -> list[tuple[str, str]]:
        """Give input and output of each layer in the int8 file."""
        if isinstance(self._reference, TfliteNetwork) and isinstance(self._lane, TfliteNetwork):
            pairs = paired_steps(self._reference, self._lane)
            made = {tensor: i for i, step in enumerate(self._reference.steps) for tensor in step.makes}
            try:
                steps = [self._lane.steps[pairs[made[place.output]]] for place in places]
            except KeyError as error:
                raise _not_one_build(f"the table names a tensor {error} that the float file does not have") from error
            return [(step.reads[0], step.makes[0]) for step in steps]
        assert isinstance(self._lane, OnnxNetwork)
        held = {tensor for step in self._lane.steps for tensor in step.makes} | set(self._lane.inputs)
        lost = [name for place in places for name in (place.input, place.output) if name not in held]
        if lost:
            raise _not_one_build(f"the int8 file has no tensor {lost[0]!r}")
        return [(place.input, place.output) for place in places]

    def _copies(self, tensor: str) -> list[str]:
        """Give the names under which the int8 file reads a layer's output: codes, or floats made of them."""
        copies = self._lane.after(tensor) if isinstance(self._lane, TfliteNetwork) else []
        return [tensor, *copies]

    def _layer(self, place: Place, source: str, target: str) -> Unit:
        layer = self._plans.get(place.module.partition("#")[0])
        if layer is None:
            raise ConversionError("E0724", f"layer {place.module} is not in the plan", fix="build again")
        return Unit(
            module=place.module,
            kind=place.kind,
            sources=(Pair(place.input, source),),
            target=Pair(place.output, target),
            layer=layer,
            floor=place.floor,
        )

    def _between(self, name: str, pair: Pair) -> list[Unit]:
        """Give the unit that computes a tensor from layers' outputs and model inputs; none if it is one of them."""
        target = self._lane.before(pair.lane) if isinstance(self._lane, TfliteNetwork) else pair.lane
        if target in self._known:
            return []
        sources = cut(self._lane, [target], self._known).inputs
        self._known[target] = pair.reference
        if not sources:
            return []
        pairs = tuple(Pair(self._known[tensor], tensor) for tensor in sources)
        return [Unit(module=name, kind="between", sources=pairs, target=Pair(pair.reference, target))]


def _bare(tensor: str) -> str:
    number, _, name = tensor.partition(":")
    return name if number.isdigit() and name else tensor


def _not_one_build(why: str) -> ConversionError:
    return ConversionError(
        "E0726", "the int8 file and the float file beside it do not belong together", why=why, fix="build again"
    )
