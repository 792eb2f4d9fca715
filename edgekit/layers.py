"""A bundle's int8 model against the float network it was made from, layer by layer: where do they part, and why?"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.kept import KEPT, kept_lane
from edgekit.lanes.local import MODEL_FILES, engine_of
from edgekit_converters.layerwise.places import PLACES_FILE, Form, float_file, read_places
from edgekit_converters.layerwise.result import LayerRow
from edgekit_converters.quantize.plan import PLAN_FILE, QuantPlan
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.errors import MissingError, UsageError

if TYPE_CHECKING:
    from edgekit_converters.layerwise.network import Network
    from edgekit_converters.layerwise.units import Twin

__all__ = [
    "DISK_BYTES",
    "LANES",
    "Feeds",
    "LayerReport",
    "Opened",
    "layer_report",
    "open_twin",
    "ram_for_pieces",
    "scratch",
]

LANES = ("onnx-int8", "tflite-int8")
_SCHEMA = 1
_MASK = "attention_mask"
DISK_BYTES = 4_000_000_000  # of captured tensors; more rows than fit are done in turns
_LEAST_BYTES = 16_000_000  # a piece that may take less could not hold one layer of a small network
_SHARE = 0.8  # of what is left of the RAM; engines and the allocator take the rest

Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """All layers of one lane.

    Attributes:
        bundle: Name of the file.
        lane: ``onnx-int8`` or ``tflite-int8``.
        rows: Rows that every figure is over.
        kernels: What computed the int8 layers.
        layers: In order of execution, with what stands between the layers.
        cpu_s: CPU time that it took, in seconds.
        peak_rss_mb: Most memory of the process so far, in MB (1e6 bytes).
    """

    bundle: str
    lane: str
    rows: int
    kernels: str
    layers: tuple[LayerRow, ...]
    cpu_s: float
    peak_rss_mb: float

    @property
    def first(self) -> LayerRow | None:
        """The first layer that is out of line; all later ones may have inherited from it."""
        return next((row for row in self.layers if row.reason is not None), None)

    @property
    def words(self) -> str:
        """What was found, in a sentence."""
        first = self.first
        if first is None:
            return f"no layer of {self.lane} is out of line; what is lost adds up over the layers"
        return f"{self.lane} first parts from float at {first.module} ({first.reason}): {first.note}"

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form; numbers that are not finite are strings."""
        plain = {name: getattr(self, name) for name in ("bundle", "lane", "rows", "kernels", "cpu_s", "peak_rss_mb")}
        first = None if self.first is None else self.first.module
        layers = [row.as_json() for row in self.layers]
        return {"schema": _SCHEMA, **plain, "first_divergence": first, "words": self.words, "layers": layers}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "LayerReport":
        """Read what ``as_json`` gave.

        Raises:
            ValueError: It is of another schema (or KeyError, TypeError).
        """
        if raw["schema"] != _SCHEMA:
            raise ValueError(f"a layer report of schema {raw['schema']}, not {_SCHEMA}")
        plain = {name: raw[name] for name in ("bundle", "lane", "rows", "kernels", "cpu_s", "peak_rss_mb")}
        return cls(layers=tuple(map(LayerRow.from_json, raw["layers"])), **plain)


@dataclass(frozen=True, slots=True)
class Opened:
    """A lane with its float twin.

    Attributes:
        twin: Both networks.
        form: Their format.
        logical: Name in the model contract by input tensor of the float file.
    """

    twin: "Twin"
    form: Form
    logical: Mapping[str, str]

    @property
    def mask(self) -> str | None:
        """The input that tells padding; None for networks that have none."""
        return next((tensor for tensor, name in self.logical.items() if name == _MASK), None)

    def named(self, feeds: Sequence[Feeds]) -> list[dict[str, NDArray[np.generic]]]:
        """Give rows by the tensors of the float file.

        Raises:
            UsageError: A row lacks an input (E0175).
        """
        lacking = [name for row in feeds for name in self.logical.values() if name not in row]
        if lacking:
            raise UsageError("E0175", f"a row has no input {lacking[0]!r}", fix=f"give {sorted(self.logical.values())}")
        return [{tensor: row[name] for tensor, name in self.logical.items()} for row in feeds]


def open_twin(path: Path, lane: str, *, bundle: Bundle | None = None) -> Opened:
    """Open the int8 model of a bundle, and the float network that the build kept beside it.

    Args:
        path: The ``.edge`` file.
        lane: One of ``LANES``.
        bundle: The same, verified; None = verify it here.

    Raises:
        BundleError: The bundle is damaged.
        UsageError: No such lane (E0176).
        MissingError: The float network is not here (E0641, E0680).
        ConversionError: The files do not belong together (E0724, E0726), or cannot be cut (E0725).
    """
    from edgekit_converters.layerwise.units import Twin

    if lane not in LANES:
        raise UsageError("E0176", f"layers of lane {lane!r} cannot be compared", fix=f"take one of {', '.join(LANES)}")
    bundle = bundle or verify(path)
    form: Form = "onnx" if lane == "onnx-int8" else "tflite"
    folder = kept_lane(path, lane)
    if not (folder / PLACES_FILE).is_file():
        raise MissingError(
            "E0680",
            f"the float network that {lane} of {path.name} was made from is not here",
            why=f"{PLACES_FILE} and {float_file(form)} are looked for in {folder.parent.name}/{KEPT[lane].folder}",
            fix="build again: builds keep it since layers can be compared. quantize.whole_network has none",
        )
    reference = _network(form, folder / float_file(form))
    twin = Twin.of(reference, _network(form, _model(bundle, folder, lane)), read_places(folder), _plan(bundle, form))
    names = [spec.name for spec in next(iter(bundle.manifest.models.values())).inputs]
    return Opened(twin, form, {tensor: _logical(tensor, names) for tensor in reference.inputs})


def _network(form: Form, source: "Path | bytes") -> "Network":
    if form == "onnx":
        from edgekit_converters.layerwise.onnx_network import OnnxNetwork

        return OnnxNetwork(source)
    from edgekit_converters.layerwise.tflite_network import TfliteNetwork

    return TfliteNetwork(source)


def _model(bundle: Bundle, folder: Path, lane: str) -> "Path | bytes":
    """Give the int8 model: the bundle's own, or the kept one where the bundle ships float for this engine."""
    engine = engine_of(lane)
    entry = bundle.manifest.models.get(engine)
    if entry is not None and entry.precision == "int8":
        return bundle.read(entry.member)
    return folder / MODEL_FILES[engine]


def _plan(bundle: Bundle, form: Form) -> QuantPlan:
    name = PLAN_FILE if PLAN_FILE in bundle.names else f"plan-{form}.json"
    if name not in bundle.names:
        raise MissingError("E0681", "the bundle holds no plan.json", fix="build again")
    return QuantPlan.from_json(bundle.read(name).decode())


def _logical(tensor: str, names: Sequence[str]) -> str:
    """Find an input of the contract again under the name that a converter gave it."""
    bare = tensor.partition(":")[2] if tensor.partition(":")[0].isdigit() else tensor
    bare = bare.removeprefix("serving_default_").partition(":")[0]
    if bare not in names:
        raise MissingError("E0681", f"the float network has an input {bare!r}; the bundle has {', '.join(names)}")
    return bare


def layer_report(
    path: Path, lane: str, feeds: Sequence[Feeds], *, max_ram_mb: int = 1500, bundle: Bundle | None = None
) -> LayerReport:
    """Compare every layer of a lane with float.

    Args:
        path: The ``.edge`` file, with the folder ``NAME.lanes`` beside it.
        lane: One of ``LANES``.
        feeds: Rows, tensors by name of the model contract.
        max_ram_mb: Memory that this process may take, in MB (1e6 bytes).
        bundle: The same, verified; None = verify it here.

    Raises:
        EdgekitError: What ``open_twin`` raises; no rows (E0175); too little RAM (E0178).
    """
    from edgekit_converters.layerwise.compare import Room, compare_layers

    start = time.process_time()
    opened = open_twin(path, lane, bundle=bundle)
    rows = opened.named(feeds)
    with scratch() as folder:
        room = Room(ram_bytes=ram_for_pieces(max_ram_mb), disk_bytes=DISK_BYTES, folder=folder)
        layers = compare_layers(opened.twin, rows, room, mask=opened.mask)
    return LayerReport(
        bundle=path.name,
        lane=lane,
        rows=len(rows),
        kernels=_kernels(opened.form),
        layers=layers,
        cpu_s=round(time.process_time() - start, 2),
        peak_rss_mb=round(_peak_rss_bytes() / 1e6, 1),
    )


def _kernels(form: Form) -> str:
    from importlib.metadata import version

    if form == "onnx":
        return f"ONNX Runtime {version('onnxruntime')}, pieces of the file, one thread"
    return f"LiteRT {version('ai-edge-litert')} with XNNPACK, pieces of the file, one thread"


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgekit-layers-") as folder:
        yield Path(folder)


def ram_for_pieces(max_ram_mb: int) -> int:
    """Give the bytes that a piece of a network may take beside what this process holds already.

    Raises:
        UsageError: Next to nothing is left (E0178).
    """
    held = _rss_bytes()
    left = int((max_ram_mb * 1e6 - held) * _SHARE)
    if left < _LEAST_BYTES:
        raise UsageError(
            "E0178",
            f"--max-ram {max_ram_mb} leaves no room: the models and the libraries take {held / 1e6:.0f} MB",
            fix=f"allow at least {int((held + _LEAST_BYTES / _SHARE) / 1e6) + 1}",
        )
    return left


def _rss_bytes() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_rss_bytes() -> int:
    """Give the most memory that this process has held; ``ru_maxrss`` would count what its parent held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
