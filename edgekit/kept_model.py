"""Is the int8 model of a bundle the one that was built? A flipped byte in a weight may move no answer that is asked."""

from pathlib import Path

from edgekit.kept import kept_lane
from edgekit.lanes.local import MODEL_FILES, engine_of
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import MissingError

__all__ = ["is_kept_model"]


def is_kept_model(bundle: Bundle, path: Path, lane: str) -> bool | None:
    """Compare a bundle's int8 model with the one that the build kept beside it, byte by byte.

    A bundle proves by its digests that nobody changed it since it was packed, and not that the right model was packed.

    Args:
        bundle: Verified.
        path: Of the bundle.
        lane: ``onnx-int8`` or ``tflite-int8``.

    Returns:
        None where the bundle holds float for this engine, or where the build's file is not here.
    """
    entry = bundle.manifest.models.get(engine_of(lane))
    try:
        kept = kept_lane(path, lane) / MODEL_FILES[engine_of(lane)]
    except MissingError:
        return None
    if entry is None or entry.precision != "int8" or not kept.is_file():
        return None
    return bundle.read(entry.member) == kept.read_bytes()
