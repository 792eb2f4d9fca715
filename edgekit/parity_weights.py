"""Is the int8 model of a bundle the one that was built? A flipped byte in a weight may move no answer that is asked."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.kept import kept_lane
from edgekit.lanes.local import MODEL_FILES, engine_of
from edgekit.layers import open_twin
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import EdgekitError, MissingError

__all__ = ["weights_fault"]

# Of a channel's weights above rounding on the plan's own scale: GPTQ trades 3 dB of it, the few weights of a depthwise
# channel may be 5 dB unlucky, and one wrong byte among 1,000 gives 20 dB.
_LIMIT_DB = 12.0
Weights = NDArray[np.float32]


def weights_fault(bundle: Bundle, path: Path, lane: str) -> str | None:
    """Compare the weights of every int8 layer with the float ones that they were rounded from, and file with file.

    Nothing is run: a weight of a channel that no row reaches counts as well.

    Args:
        bundle: Verified.
        path: Of the bundle, beside which the build kept its files.
        lane: ``onnx-int8`` or ``tflite-int8``.

    Returns:
        What is wrong, in words; empty if all is well; None where the build's files are not here.
    """
    try:
        folder = kept_lane(path, lane)
    except MissingError:
        return None
    entry, kept = bundle.manifest.models.get(engine_of(lane)), folder / MODEL_FILES[engine_of(lane)]
    if entry is None or entry.precision != "int8" or not kept.is_file():
        return None
    words = _wrong_layer(bundle, path, lane)
    if words or bundle.read(entry.member) == kept.read_bytes():
        return words
    return f"{entry.member} is not the file that the build kept beside the bundle"


def _wrong_layer(bundle: Bundle, path: Path, lane: str) -> str:
    """Give the first layer with wrong weights; empty if there is none, or where networks cannot be taken apart."""
    try:
        twin = open_twin(path, lane, bundle=bundle).twin
    except EdgekitError:
        return ""  # an older build; `edgekit debug layers` says what is missing
    for unit in twin.units:
        if unit.layer is None or not unit.layer.is_int8 or unit.kind == "embedding":
            continue
        wanted = twin.reference.weights([unit.sources[0].reference], unit.target.reference)
        held = twin.lane.weights([unit.sources[0].lane], unit.target.lane)
        words = "" if wanted is None or held is None else _off_rounding(wanted, held, unit.layer.weight_scales)
        if words:
            return f"{unit.module}: {words}"
    return ""


def _off_rounding(wanted: Weights, held: Weights, scales: tuple[float, ...]) -> str:
    """Give the worst channel that is no rounding of the float weights on the plan's scales; empty if there is none."""
    if wanted.shape != held.shape:
        return f"weights of shape {held.shape}, not {wanted.shape}"
    error = np.square(held.astype(np.float64) - wanted).reshape(len(held), -1).mean(1)
    rounding = np.square(np.asarray(scales, np.float64)) / 12  # uniform within half a step (Widrow 1956)
    excess = 10 * np.log10(np.maximum(error, 1e-300) / rounding)
    if not np.isfinite(error).all():
        return f"weights of channel {int(np.argmin(np.isfinite(error)))} are NaN or infinite"
    worst = int(np.argmax(excess))
    if excess[worst] < _LIMIT_DB:
        return ""
    return f"weights of channel {worst} are {excess[worst]:.0f} dB further from the float ones than rounding puts them"
