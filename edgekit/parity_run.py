"""Parity of a finished bundle: its own models, and the float lanes that the build kept beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from edgekit.kept import kept_lane
from edgekit.lanes.local import LANES, TORCH_DYNAMIC, run_engine_lane, run_torch_lane
from edgekit.lanes.models import bundle_lane
from edgekit.parity.agreement import ParityResult, compare_lanes
from edgekit.recipe.spec import DataSource, DataSpec, ImageSpec, Task
from edgekit_models.data.dataset import Rows
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.errors import UsageError
from edgekit_runtime.model import open_preprocess

__all__ = ["DataOption", "run_parity"]

_FileKind = Literal["csv", "jsonl", "parquet", "npz"]
_SUFFIXES: Mapping[str, _FileKind] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npz": "npz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOption:
    """Rows that the user names on the command line.

    Attributes:
        path: A CSV, JSONL, Parquet or npz file, or a folder with one sub-folder of images per class.
        text: Column with the text.
        label: Column with the label.
    """

    path: Path
    text: str = "text"
    label: str = "label"


def run_parity(
    path: Path, *, lanes: Sequence[str], reference: str, data: DataOption | None
) -> tuple[ParityResult, tuple[str, ...]]:
    """Run lanes of a bundle on the same rows and compare them.

    Args:
        path: The ``.edge`` file.
        lanes: Names from ``LANES``; ``torch-int8-dynamic`` is left out of an image bundle unless it is the reference.
        reference: One of them.
        data: Rows; None takes the evaluation rows that the build kept.

    Returns:
        The comparison, and warnings about the rows.

    Raises:
        BundleError: The bundle is damaged.
        MissingError: A lane or the rows are not here.
        UsageError: An unknown lane, or rows that do not fit.
    """
    bundle = verify(path)
    if bundle.manifest.task == Task.IMAGE_CLASSIFICATION.value:
        lanes = [name for name in lanes if name != TORCH_DYNAMIC]
    wanted = list(dict.fromkeys((reference, *lanes)))
    unknown = [name for name in wanted if name not in LANES]
    if unknown:
        raise UsageError("E0126", f"no lane {unknown[0]!r}", why=f"known: {', '.join(LANES)}")
    rows, warnings = _rows(bundle, path, data)
    preprocess = open_preprocess(bundle)
    feeds = [preprocess(row) for row in rows.inputs]
    logits = {}
    for name in LANES:
        if name in wanted:
            logits[name] = (
                run_torch_lane(kept_lane(path, name), feeds)
                if name == "torch"
                else run_engine_lane(bundle_lane(bundle, path, name), feeds)
            )
    return compare_lanes(logits, rows.targets, reference=reference), warnings


def _rows(bundle: Bundle, path: Path, data: DataOption | None) -> tuple[Rows, tuple[str, ...]]:
    from edgekit_models.data.dataset import read_dataset
    from edgekit_models.data.load import load_rows

    if data is None:
        return read_dataset(kept_lane(path, "data")).evaluation, ()
    kind: _FileKind | Literal["images"] | None = (
        "images" if data.path.is_dir() else _SUFFIXES.get(data.path.suffix.lower())
    )
    if kind is None:
        raise UsageError(
            "E0128",
            f"--data {data.path} is of an unknown kind",
            fix=f"give a folder of images, or a file that ends in {', '.join(_SUFFIXES)}",
        )
    task = Task(bundle.manifest.task)
    spec = DataSpec(
        train=DataSource(kind=kind, location=str(data.path.absolute())),
        text=data.text,
        label=data.label,
        image=_image(bundle) if task is Task.IMAGE_CLASSIFICATION else None,
    )
    labels = cast("list[str]", bundle.json("labels.json"))
    return load_rows(spec, task=task, folder=Path(), labels=labels)


def _image(bundle: Bundle) -> ImageSpec:
    config = json.loads(bundle.read("preprocess.json"))
    return ImageSpec(height=config["height"], width=config["width"], channels=config["channels"])
