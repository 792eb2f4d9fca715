"""Parity of a bundle that came from a ready model: its lanes on the same rows, compared without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.kept import kept_lane
from edgekit.lanes.local import LANES, TORCH_DYNAMIC, run_engine_lane
from edgekit.lanes.models import bundle_lane
from edgekit.parity.closeness import Closeness, closeness
from edgekit.pipeline import Artifact, Kind
from edgekit.quantise_only.rows import RowSet, read_rows
from edgekit.quantise_only.stages import read_feeds, run_graph_lane
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import UsageError
from edgekit_runtime.model import open_preprocess

__all__ = ["came_ready", "compare_ready"]


def came_ready(bundle: Bundle) -> bool:
    """Say whether a bundle was made from a ready model, without training."""
    provenance = bundle.json("provenance.json") if "provenance.json" in bundle.names else None
    return isinstance(provenance, dict) and "model_sha256" in provenance


def compare_ready(
    bundle: Bundle, path: Path, *, lanes: Sequence[str], reference: str, data: Path | None, text: str
) -> Mapping[str, Closeness]:
    """Run lanes on rows of the user, or on those that the build kept.

    Args:
        bundle: Verified.
        path: Of the bundle.
        lanes: Names; PyTorch's own int8 is left out.
        reference: Name of the lane to compare with.
        data: File of rows; None = the kept ones.
        text: Column of the texts.

    Raises:
        MissingError: A lane or the rows are not here.
        UsageError: The reference is no lane of such a bundle (E0126), or the rows do not fit.
    """
    if reference == TORCH_DYNAMIC:
        raise UsageError("E0126", f"a bundle of a ready model has no lane {reference!r}")
    rows = _rows(bundle, path, data, text).feeds
    answers = {}
    for name in LANES:
        if name == reference or (name in lanes and name != TORCH_DYNAMIC):
            answers[name] = (
                run_graph_lane(kept_lane(path, "ready"), rows)
                if name == "torch"
                else run_engine_lane(bundle_lane(bundle, path, name), rows)
            )
    base, task = np.asarray(answers.pop(reference)), bundle.manifest.task
    return {name: closeness(values, base, task=task) for name, values in answers.items()}


def _rows(bundle: Bundle, path: Path, data: Path | None, text: str) -> RowSet:
    if data is None:
        folder = kept_lane(path, "data")
        return read_feeds({Kind.DATA: Artifact(kind=Kind.DATA, path=folder, digest="")}, "eval")
    preprocess = None if bundle.manifest.task == "tensors" else open_preprocess(bundle)
    inputs = next(iter(bundle.manifest.models.values())).inputs
    return read_rows(data, inputs, preprocess=preprocess, column=text)  # type: ignore[arg-type]
