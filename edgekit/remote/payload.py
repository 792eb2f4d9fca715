"""What a device is sent: the runtime as one zip, a bundle that holds the wanted model, and the rows."""

import hashlib
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import edgekit_runtime
from edgekit.cache import file_digest
from edgekit.lanes.base import Question
from edgekit.lanes.models import model_bundle

__all__ = ["EVIDENCE", "Payload", "staged"]

EVIDENCE: Final = "evidence.json"
_BUNDLE: Final = "bundle.edge"
_RUNTIME: Final = "runtime.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Files in a folder of their own on this machine, under the names that they keep on the device.

    Attributes:
        folder: Holds them, and later the evidence; it goes when the run ends.
        bundle: The bundle.
        rows: The rows.
        runtime: The package ``edgekit_runtime`` as it is installed here, ready for PYTHONPATH.
        bundle_sha256: Of the bundle that the device must say it answered with.
        rows_sha256: Of the content of the rows, likewise.
    """

    folder: Path
    bundle: Path
    rows: Path
    runtime: Path
    bundle_sha256: str
    rows_sha256: str

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is sent."""
        return (self.runtime, self.bundle, self.rows)

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """Name and sha256 (hex) of each file."""
        return tuple((path.name, file_digest(path)) for path in self.files)


@contextmanager
def staged(question: Question, model: str) -> Iterator[Payload]:
    """Lay out what is sent, in a new folder whose name nobody can guess, and remove it at the end.

    Args:
        question: Bundle and rows.
        model: Key of ``edgekit.lanes.models.MODELS``.

    Raises:
        MissingError: A float model that the build did not keep.
        UsageError: The bundle has no such model.
    """
    other = model_bundle(question.bundle, question.path, model)
    folder = Path(tempfile.gettempdir()).absolute() / f"edgekit-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        bundle, rows, runtime = folder / _BUNDLE, folder / f"rows{question.rows.suffix}", folder / _RUNTIME
        if other is None:
            shutil.copyfile(question.path, bundle)
        else:
            bundle.write_bytes(other)
        question.rows.write(rows)
        _zip_runtime(runtime)
        digest = question.bundle.digest if other is None else hashlib.sha256(other).hexdigest()
        yield Payload(
            folder=folder,
            bundle=bundle,
            rows=rows,
            runtime=runtime,
            bundle_sha256=digest,
            rows_sha256=question.rows.digest(),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _zip_runtime(path: Path) -> None:
    package = Path(edgekit_runtime.__file__).parent
    # Stored: a device's Python may have been built without zlib, and the text is small.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for source in sorted(package.rglob("*.py")):
            info = zipfile.ZipInfo(f"{package.name}/{source.relative_to(package).as_posix()}")
            target.writestr(info, source.read_bytes())
