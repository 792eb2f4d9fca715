"""Telling a safe and whole weights file from a pickle, a pointer and a damaged one, without loading it."""

import json
from pathlib import Path

from edgekit_models.files import near
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["check_safetensors", "refuse_pickle", "require_file", "weight_files"]

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


def require_file(root: Path, names: list[str], name: str, *, title: str, why: str, fix: str = "") -> str:
    """Give the name of a file that a folder must hold.

    Raises:
        MissingError: E0253, it is not among its ``names``.
    """
    if name not in names:
        raise MissingError(
            "E0253",
            f"{title} has no {name}{near(name, names)}",
            why=f"{why}; the folder {root.name!r} holds {', '.join(names[:12]) or 'no files'}",
            fix=fix or "name a complete folder, as save_pretrained(folder) writes it",
        )
    return name


def weight_files(root: Path, names: list[str], *, title: str) -> list[str]:
    """Give the names of the weight files in a transformers folder, whole or the shards that an index names.

    Raises:
        MissingError: A file is not there (E0253).
        UsageError: The index is damaged (E0252), or there are pickled weights alone (E0242).
    """
    if "model.safetensors" in names:
        return ["model.safetensors"]
    index = "model.safetensors.index.json"
    if index in names:
        try:
            shards = sorted(set(json.loads((root / index).read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                "E0252",
                f"{index} of {title} is damaged",
                why=f"{type(error).__name__}: {error}",
                fix="fetch the model again",
            ) from error
        for name in shards:
            if not isinstance(name, str) or Path(name).name != name:
                raise UsageError(
                    "E0252", f"{index} of {title} names the odd file {name!r}", fix="fetch the model again"
                )
            require_file(root, names, name, title=title, why=f"{index} names it")
        return shards
    for name in names:
        refuse_pickle(root / name, title=f"{name} of {title}")
    return [
        require_file(root, names, "model.safetensors", title=title, why="weights are read from safetensors files only")
    ]


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
