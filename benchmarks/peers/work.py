"""The work folder that every peer reads and writes: rows, models, records, embeddings. Numpy alone: each peer's
environment imports it.

    model/                        the Hugging Face folder of all-MiniLM-L6-v2
    s64/, s128/                   calibration.npz and eval.npz (input_ids, attention_mask), reference.npy, fp32.onnx,
                                  fp32.tflite
    s64/models/<peer>-<variant>   model file, and beside it .json: size, seconds and CPU seconds it took, or the error
    s64/<peer>-<variant>.npy      embeddings of the eval rows
    venvs/<peer>                  the peer's environment
"""

import contextlib
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEFAULT_WORK",
    "HIDDEN",
    "SEQUENCES",
    "Quantise",
    "Record",
    "Rows",
    "Variant",
    "finish",
    "make_models",
    "model_path",
    "read_record",
]

DEFAULT_WORK = Path("runs") / "peers"
SEQUENCES = (64, 128)
HIDDEN = 384

Engine = Literal["onnxruntime", "litert", "executorch"]
_SUFFIX: Mapping[Engine, str] = {"onnxruntime": ".onnx", "litert": ".tflite", "executorch": ".pte"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Tokenised texts of one length.

    Attributes:
        input_ids: int64, (N, L), padded on the right.
        attention_mask: int64, (N, L), 1 where a token stands.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> "Rows":
        with np.load(path, allow_pickle=False) as archive:
            return cls(input_ids=archive["input_ids"], attention_mask=archive["attention_mask"])

    def save(self, path: Path) -> None:
        np.savez(path, input_ids=self.input_ids, attention_mask=self.attention_mask)

    def each(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Give ids and mask of one row after the other, both (1, L)."""
        for index in range(len(self.input_ids)):
            yield self.input_ids[index : index + 1], self.attention_mask[index : index + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to quantise with one peer.

    Attributes:
        peer: Tool.
        name: Unique within the peer.
        engine: That runs the file.
        mode: Float, or how activations are quantised.
        tuned: False for what the tool's first example does, true for settings that its documentation offers.
        how: The settings in words.
        page: Documentation that offers them.
    """

    peer: str
    name: str
    engine: Engine
    mode: Literal["float", "static", "dynamic", "mixed"]
    tuned: bool
    how: str
    page: str

    @property
    def title(self) -> str:
        return f"{self.peer}-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What came of one variant.

    Attributes:
        size_bytes: Of the model file; 0 if there is none.
        wall_s: Seconds that it took; the machine may have been busy.
        cpu_s: CPU seconds of the process in that time. The first variant of a run also pays for the imports.
        error: Why there is no model; empty if there is one.
    """

    size_bytes: int
    wall_s: float
    cpu_s: float
    error: str


Quantise = Callable[[Path, int, Path], None]  # work folder, sequence length, file to write


def model_path(work: Path, sequence: int, variant: Variant) -> Path:
    return work / f"s{sequence}" / "models" / f"{variant.title}{_SUFFIX[variant.engine]}"


def read_record(work: Path, sequence: int, variant: Variant) -> Record | None:
    path = model_path(work, sequence, variant).with_suffix(".json")
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def make_models(
    rows: Mapping[Variant, Quantise], *, work: Path, sequence: int, names: tuple[str, ...], again: bool
) -> None:
    """Make the model files of a peer; a variant that fails is recorded as failed and the others go on.

    Args:
        rows: The peer's variants and the function that makes each.
        work: Work folder.
        sequence: Tokens per row.
        names: Variants wanted; all if empty.
        again: Make what is there already, or failed before, once more.
    """
    for variant, quantise in rows.items():
        if (names and variant.name not in names) or (not again and read_record(work, sequence, variant)):
            continue
        path = model_path(work.resolve(), sequence, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        wall, cpu, error = time.perf_counter(), time.process_time(), ""
        try:
            # Some peers leave files in the current directory (augmented_model.onnx, nc_workspace): they end here.
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                quantise(work.resolve(), sequence, path)
        except Exception as failure:  # noqa: BLE001 - whatever a peer raises is its result
            traceback.print_exc()
            error = f"{type(failure).__name__}: {str(failure).strip()[:600]}"
            path.unlink(missing_ok=True)
        if not error and not path.is_file():
            error = "the tool reported success and wrote no file"
        record = Record(
            size_bytes=path.stat().st_size if path.is_file() else 0,
            wall_s=round(time.perf_counter() - wall, 1),
            cpu_s=round(time.process_time() - cpu, 1),
            error=error,
        )
        path.with_suffix(".json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        print(f"s{sequence} {variant.title}: {record}", flush=True)


def finish(output: NDArray[np.floating], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Turn what a model gives for one row into a unit vector, (1, 384).

    Args:
        output: Hidden states (1, L, 384), whose masked mean is taken, or an embedding (1, 384).
        mask: (1, L).

    Source:
        Mean pooling and normalisation as in the model card of sentence-transformers/all-MiniLM-L6-v2.
    """
    values = np.asarray(output, np.float64)
    if values.ndim == 3:
        weights = mask[..., None].astype(np.float64)
        values = (values * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)
    if values.shape != (1, HIDDEN):
        raise ValueError(f"the model gives shape {np.shape(output)}; wanted (1, L, {HIDDEN}) or (1, {HIDDEN})")
    unit = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return np.asarray(unit, np.float32)
