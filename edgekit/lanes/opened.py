"""What a user may type after ``--on``, and the lane behind it."""

import difflib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgekit.lanes.base import ParityLane
from edgekit.lanes.here import EngineHere, TorchHere
from edgekit.lanes.local import LANES, TORCH_DYNAMIC, engine_of
from edgekit.lanes.models import MODELS, held_models
from edgekit.lanes.saved import open_saved
from edgekit.quantise_only.parity import came_ready
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.engines.registry import ENGINES
from edgekit_runtime.errors import UsageError

__all__ = ["PLACES", "default_lanes", "is_slow", "open_lanes"]


class _Opens(Protocol):
    def __call__(self, place: str, models: Sequence[str]) -> Sequence[ParityLane]:
        """Give one lane for each of ``models`` that the place can run, named ``PLACE/MODEL``."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A kind of place that runs bundles.

    Attributes:
        prefix: What its names begin with.
        module: Has ``open_lanes(place, models)``; imported when it is asked for.
        example: For messages.
        slow: A row takes seconds, so that few are asked unless the user wants more.
    """

    prefix: str
    module: str
    example: str
    slow: bool = False


PLACES = (
    _Place("arm:", "edgekit.emulator.lanes", "arm:cortex-a72", slow=True),
    _Place("armv7:", "edgekit.emulator.lanes", "armv7:cortex-a7", slow=True),
    _Place("ssh://", "edgekit.remote.ssh", "ssh://pi@raspberrypi.local"),
    _Place("adb:", "edgekit.remote.adb", "adb:SERIAL"),
)
_MODEL = re.compile(rf"(.*)/({'|'.join(MODELS)})")


def default_lanes(bundle: Bundle) -> tuple[str, ...]:
    """Give the lanes of a comparison for which the user named none: all of the bundle's formats that run here."""
    formats = {engine_of(name) for name in held_models(bundle)}
    wanted = [name for name in MODELS if engine_of(name) in formats]
    int8 = set(held_models(bundle))
    dynamic = bundle.manifest.task == "text-classification" and not came_ready(bundle)
    return (
        "torch",
        *([TORCH_DYNAMIC] if dynamic else []),
        *(name for name in wanted if MODELS[name] == "float32" or name in int8),
    )


def open_lanes(spec: str, bundle: Bundle) -> Sequence[ParityLane]:
    """Give the lanes behind a name: one, or one for each model where a place runs them all.

    Args:
        spec: A lane of this machine, ``FORMAT-PRECISION:ENGINE``, ``PLACE``, ``PLACE/MODEL`` or an evidence file.
        bundle: What is to run.

    Raises:
        UsageError: An unknown name (E0126).
        MissingError: What the place needs is not here.
    """
    if spec in {"torch", TORCH_DYNAMIC}:
        return [TorchHere(name=spec)]
    model, colon, engine = spec.partition(":")
    if model in MODELS:
        return [_here(spec, model, engine if colon else engine_of(model))]
    for place in PLACES:
        if spec.startswith(place.prefix):
            match = _MODEL.fullmatch(spec)
            name, models = (match[1], (match[2],)) if match else (spec, held_models(bundle))
            opens = cast("_Opens", importlib.import_module(place.module).open_lanes)
            return opens(name, models)
    if spec.endswith(".json"):
        return open_saved(Path(spec))
    known = [*LANES, "tflite-int8:litert-builtin", *(place.example for place in PLACES), "device.json"]
    near = difflib.get_close_matches(spec, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else "take one of these, with your own core, host or file in it"
    raise UsageError("E0126", f"no lane {spec!r}", why=f"known: {', '.join(known)}", fix=fix)


def is_slow(lane: str) -> bool:
    """Say whether a lane needs long for a row."""
    return any(place.slow and lane.startswith(place.prefix) for place in PLACES)


def _here(spec: str, model: str, engine: str) -> EngineHere:
    runtime = engine_of(model)
    row = ENGINES.get(engine)
    if row is None or row.runtime != runtime:
        fits = [name for name, row in ENGINES.items() if row.runtime == runtime]
        fix = f"for example {model}:{fits[0]}"
        raise UsageError("E0126", f"no lane {spec!r}", why=f"engines that run {model}: {', '.join(fits)}", fix=fix)
    return EngineHere(name=spec, model=model, engine=engine)
