"""A device whose copy of the runtime has one line changed, and the evidence that it writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import edgekit_runtime

__all__ = ["changed_runtime", "evidence_of"]


def changed_runtime(folder: Path, file: str, old: str, new: str) -> Path:
    """Copy the runtime and replace one piece of text, which must stand there once."""
    shutil.copytree(Path(edgekit_runtime.__file__).parent, folder / "edgekit_runtime")
    path = folder / "edgekit_runtime" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file} holds {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def evidence_of(bundle: Path, runtime: Path | None, *arguments: object) -> tuple[Path, int]:
    """Run the self-test as a device does, with a runtime of its own; give the evidence and the exit code."""
    out = bundle.parent / f"{'device' if runtime is None else runtime.name}.json"
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    if runtime is not None:
        kept["PYTHONPATH"] = str(runtime)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edgekit_runtime",
            "selftest",
            str(bundle),
            *map(str, arguments),
            "--evidence",
            str(out),
        ],
        cwd=bundle.parent,
        env=kept,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert out.is_file(), done.stderr
    return out, done.returncode
