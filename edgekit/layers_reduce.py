"""From a bundle whose int8 model parts from float to a folder with one layer, one row and a script that shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.layers import DISK_BYTES, Feeds, open_twin, ram_for_pieces, scratch
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_converters.layerwise.reduce import Reduced
    from edgekit_converters.layerwise.result import LayerRow

__all__ = ["reduce_fault"]


def reduce_fault(
    path: Path, lane: str, feeds: Sequence[Feeds], out: Path, *, max_ram_mb: int = 1500, bundle: Bundle | None = None
) -> "tuple[LayerRow, Reduced]":
    """Find the first layer that is out of line, and write it alone with the row that shows it best.

    Args:
        path: The ``.edge`` file, with the folder ``NAME.lanes`` beside it.
        lane: ``onnx-int8`` or ``tflite-int8``.
        feeds: Rows, tensors by name of the model contract.
        out: Folder; made if it is not there.
        max_ram_mb: Memory that this process may take, in MB (1e6 bytes).
        bundle: The same, verified; None = verify it here.

    Raises:
        UsageError: No layer is out of line (E0177); ``out`` holds something already (E0179).
        EdgekitError: What ``layer_report`` raises.
    """
    from edgekit_converters.layerwise.compare import Room, compare_layers
    from edgekit_converters.layerwise.reduce import narrow, worst_row, write_reduced

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("E0179", f"{out} is not an empty folder", fix="name a new one after --out")
    opened = open_twin(path, lane, bundle=bundle)
    rows, twin = opened.named(feeds), opened.twin
    with scratch() as folder:
        room = Room(ram_bytes=ram_for_pieces(max_ram_mb), disk_bytes=DISK_BYTES, folder=folder)
        layers = compare_layers(twin, rows, room, mask=opened.mask)
        pairs = [(row, unit) for row, unit in zip(layers, twin.units, strict=True) if row.reason is not None]
        if not pairs:
            raise UsageError(
                "E0177",
                f"there is nothing to reduce: no layer of {lane} is out of line on {len(rows)} rows",
                fix="look at `edgekit debug layers`, or give rows that show the fault with --data",
            )
        told, unit = pairs[0]
        unit = narrow(twin, unit, rows, room, mask=opened.mask)
        worst = worst_row(twin, unit, rows, room, mask=opened.mask)
        _make(out)
        return told, write_reduced(twin, unit, told, worst, out, form=opened.form)


def _make(out: Path) -> None:
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        what = f"cannot make the folder '{out}'"
        raise UsageError(
            "E0195", what, why=error.strerror or str(error), fix="give --out a place to write to"
        ) from error
