"""The models of a bundle: its own, the float ones that the build kept, and a bundle that holds just the wanted one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from edgekit.kept import kept_lane
from edgekit.lanes.local import MODEL_FILES, TORCH_DYNAMIC, EngineLane, Lane, TorchDynamicLane, engine_of
from edgekit_runtime.bundle import Bundle, pack
from edgekit_runtime.errors import UsageError
from edgekit_runtime.manifest import ModelEntry, Precision, TensorSpec

__all__ = ["MODELS", "bundle_lane", "held_models", "model_bundle"]

# What a place can run, by its name at the end of a lane.
MODELS: Mapping[str, Precision] = MappingProxyType(
    {"onnx-fp32": "float32", "onnx-int8": "int8", "tflite-fp32": "float32", "tflite-int8": "int8"}
)


def held_models(bundle: Bundle) -> tuple[str, ...]:
    """Give the models that a bundle holds, by their names at the end of a lane."""
    held = {runtime: entry.precision for runtime, entry in bundle.manifest.models.items()}
    return tuple(name for name, precision in MODELS.items() if held.get(engine_of(name)) == precision)


def bundle_lane(bundle: Bundle, path: Path, name: str) -> Lane:
    """Give a model that can be timed: from the bundle's members what it holds, all else from what the build kept.

    Raises:
        MissingError: It is neither in the bundle nor kept.
        UsageError: The bundle has no model of that format.
    """
    if name == TORCH_DYNAMIC:
        return TorchDynamicLane(student=kept_lane(path, "torch"))
    return _engine_lane(bundle, path, name)


def model_bundle(bundle: Bundle, path: Path, model: str) -> bytes | None:
    """Give the bytes of a bundle that holds ``model``, or None where the user's own holds it.

    Args:
        bundle: Verified.
        path: Its file, beside which the build kept the float models.
        model: Key of ``MODELS``.

    Raises:
        MissingError: The float model is not here (E0641).
        UsageError: The bundle has no model of this format (E0127).
    """
    if model in held_models(bundle):
        return None
    lane, manifest, runtime = _engine_lane(bundle, path, model), bundle.manifest, engine_of(model)
    members = {name: bundle.read(name) for name in bundle.names}
    held = manifest.models.get(runtime)
    file = held.member if held else MODEL_FILES[runtime]
    members[file] = lane.content()
    # The recorded answers are those of the model that is replaced; the float reference binds both.
    members[f"golden/{runtime}.npy"] = bundle.read("golden/reference.npy")
    entry = ModelEntry(member=file, precision=MODELS[model], inputs=lane.inputs, outputs=lane.outputs)
    return pack(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        target=manifest.target,
        models={**manifest.models, runtime: entry},
        members=members,
        calibration_sha256=manifest.calibration_sha256,
    )


def _engine_lane(bundle: Bundle, path: Path, name: str) -> EngineLane:
    engine = engine_of(name)
    entry = bundle.manifest.models.get(engine)
    if name.endswith("-int8") and entry is None:
        raise UsageError("E0127", f"{path.name} holds no model for {engine}, so it has no lane {name}")
    if entry is not None and entry.precision == MODELS[name]:
        content = bundle.read(entry.member)
        return EngineLane(name=name, engine=engine, model=content, inputs=entry.inputs, outputs=entry.outputs)
    inputs, outputs = _logical(bundle)
    file = kept_lane(path, name) / MODEL_FILES[engine]
    if engine == "litert":
        from edgekit_converters.export.contract import ModelContract
        from edgekit_converters.export.tflite import tflite_contract

        contract = tflite_contract(ModelContract(inputs=inputs, outputs=outputs), file)
        inputs, outputs = contract.inputs, contract.outputs
    return EngineLane(name=name, engine=engine, model=file, inputs=inputs, outputs=outputs)


def _logical(bundle: Bundle) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Give inputs and outputs under the names of the model contract, as an ONNX file has them."""
    entry = next(iter(bundle.manifest.models.values()))
    inputs, outputs = (
        tuple(replace(spec, tensor=spec.name) for spec in side) for side in (entry.inputs, entry.outputs)
    )
    return inputs, outputs
