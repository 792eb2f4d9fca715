"""The lanes that a build keeps beside its bundle, so that parity can be asked again without the cache."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgekit.pipeline import Artifacts, Kind
from edgekit_runtime.errors import MissingError

__all__ = ["KEPT", "kept_lane", "keep_lanes"]


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a lane's files are kept, and the artifact they come from."""

    kind: Kind
    folder: str


KEPT: Mapping[str, _Row] = MappingProxyType(
    {
        "teacher": _Row(Kind.TEACHER_ONNX, "teacher-onnx"),
        "torch": _Row(Kind.STUDENT_PRUNED, "student"),
        "onnx-fp32": _Row(Kind.ONNX_FLOAT32, "onnx-fp32"),
        "tflite-fp32": _Row(Kind.TFLITE_FLOAT32, "tflite-fp32"),
        "onnx-int8": _Row(Kind.ONNX_INT8, "onnx-int8"),
        "tflite-int8": _Row(Kind.TFLITE_INT8, "tflite-int8"),
        "data": _Row(Kind.DATA, "data"),
        "ready": _Row(Kind.READY, "ready"),
    }
)


def keep_lanes(artifacts: Artifacts, folder: Path) -> None:
    """Copy the lanes of a build into ``folder``, replacing those of an earlier build."""
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for row in KEPT.values():
        if row.kind in artifacts:
            shutil.copytree(artifacts[row.kind].path, fresh / row.folder)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)


def kept_lane(bundle: Path, lane: str) -> Path:
    """Give the folder of a lane that the build of ``bundle`` kept.

    Raises:
        MissingError: It is not there.
    """
    folder = bundle.with_suffix(".lanes") / KEPT[lane].folder
    if not folder.is_dir():
        what = "the evaluation rows" if lane == "data" else f"the lane {lane}"
        instead = "--data rows.csv or --data goldens" if lane == "data" else "--reference onnx-int8 --on tflite-int8"
        raise MissingError(
            "E0641",
            f"{what} of {bundle.name} {'are' if lane == 'data' else 'is'} not here",
            why=f"the build writes them into {folder.parent.name}, beside the bundle",
            fix=f"keep that folder beside the bundle, build again, or let parity do without: {instead}",
        )
    return folder
