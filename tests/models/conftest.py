"""Recipes' files, made on the spot."""

import importlib
import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Install = Callable[[str, str, Mapping[str, bytes]], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with the given files where importlib.metadata finds it, as pip would."""

    def put(name: str, version: str, files: Mapping[str, bytes]) -> Path:
        site = tmp_path / f"site-{name}"
        stem = name.replace("-", "_")
        meta = f"{stem}-{version}.dist-info"
        record = "".join(f"{path},,\n" for path in [*files, f"{meta}/METADATA", f"{meta}/RECORD"])
        texts = {
            f"{meta}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{meta}/RECORD": record,
        }
        for path, data in {**files, **{path: text.encode() for path, text in texts.items()}}.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(data)
        monkeypatch.setattr(sys, "path", [str(site), *sys.path])
        importlib.invalidate_caches()
        return site

    return put


@pytest.fixture(scope="session")
def safetensors_bytes() -> bytes:
    """One float32 tensor of shape (2,), written by hand from the format's specification."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, -2.0)


@pytest.fixture
def transformers_folder(tmp_path: Path, safetensors_bytes: bytes) -> Path:
    """The files of a transformers folder; small, but each is of its own kind."""
    folder = tmp_path / "my-bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors_bytes)
    return folder
