"""Telling a safe and whole weights file from a pickle, a pointer and a damaged one, without loading it."""

import json
from pathlib import Path

from edgekit_runtime.errors import UsageError

__all__ = ["check_safetensors", "refuse_pickle"]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors library


def refuse_pickle(path: Path, *, title: str) -> None:
    """Refuse a checkpoint that only unpickling could read.

    Raises:
        UsageError: E0242, the name is that of a pickled checkpoint.
    """
    if path.suffix.lower() in _PICKLES:
        raise UsageError(
            "E0242",
            f"{title} is a pickled checkpoint, which is never loaded",
            why="unpickling runs whatever code the file holds",
            fix="convert it where you trust it: model.save_pretrained(folder, safe_serialization=True), or "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')",
        )


def check_safetensors(path: Path, *, title: str) -> None:
    """Check the header of a safetensors file and that the file is as long as the header says.

    Raises:
        UsageError: E0243, it is something else or it is damaged.

    Source:
        The safetensors format: 8 bytes little-endian header length, JSON header, tensor bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            raise _bad(title, "it is a Git LFS pointer; the file itself was not fetched ('git lfs pull')")
        if len(start) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise _bad(title, "it does not start with the length of a header")
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _bad(title, f"its header cannot be read: {type(error).__name__}: {error}") from error
    wanted = 8 + length + max(ends, default=0)
    if not ends:
        raise _bad(title, "it holds no tensors")
    if size != wanted:
        raise _bad(title, f"it has {size} bytes; its header says {wanted}")


def _bad(title: str, why: str) -> UsageError:
    return UsageError("E0243", f"{title} is no whole safetensors file", why=why, fix="fetch or save the file again")
