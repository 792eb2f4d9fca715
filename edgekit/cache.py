"""Stage results by content: a build that is run again, or was killed, goes on where it stopped.

The key of a result says everything that it depends on; its value is a folder that is written aside, synced and renamed
into place, and checked byte by byte when it is read. There is no lock on a key: whoever renames first wins, and the
others take the winner's result.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from edgekit.pipeline import Artifact, Artifacts, Kind, Stage, check_order
from edgekit.source import source_digest
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import canonical_json

__all__ = ["Cache", "Progress", "default_root", "file_digest", "run_stages", "stage_key"]

_SCHEMA = 1
_CHUNK_BYTES = 1 << 20


class Progress(Protocol):
    """Where a build tells how far it is."""

    def stage_started(self, name: str, /) -> None:
        """Say that a stage begins."""
        ...

    def stage_done(self, name: str, /, *, seconds: float, note: str, cached: bool) -> None:
        """Say that a stage has ended: its wall time in seconds, its one-line note, and whether it was reused."""
        ...

    def stage_failed(self, name: str, /) -> None:
        """Say that a stage has ended by an error, which is raised next."""
        ...

    def notice(self, text: str, /) -> None:
        """Show one line that the user should see."""
        ...


def file_digest(path: Path) -> str:
    """Give the sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_root() -> Path:
    """Give ``$EDGEKIT_CACHE``, or ``~/.cache/edgekit``."""
    named = os.environ.get("EDGEKIT_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "edgekit"


def stage_key(stage: Stage, artifacts: Artifacts, *, seed: int) -> str:
    """Give the sha256 (hex) of everything that the result of ``stage`` depends on.

    Raises:
        MissingError: A distribution that the stage names is not installed.
        UsageError: The stage has no source file.
    """
    parts = {
        "schema": _SCHEMA,
        "stage": type(stage).__qualname__,
        "source": source_digest(type(stage)),
        "config": dict(stage.config()),
        "inputs": {kind.value: artifacts[kind].digest for kind in stage.takes},
        "versions": {name: _version(name, stage) for name in stage.versions()},
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _version(distribution: str, stage: Stage) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise MissingError(
            "E0610",
            f"stage {type(stage).__name__} needs '{distribution}', which is not installed",
            fix="pip install 'edgekit[build]'",
        ) from None


class _DamagedError(Exception):
    """An entry is not what was written; the text says where."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of finished stage results.

    Attributes:
        root: The folder; made when it is first needed. It must be on a local file system that knows ``flock``.
    """

    root: Path

    def entry(self, kind: Kind, key: str) -> Path:
        """Give the place of a result, whether it exists or not."""
        return self.root / f"{kind.value}-{key}"

    def read(self, kind: Kind, key: str, *, progress: Progress) -> tuple[Artifact, str] | None:
        """Give a finished result and its note after checking every byte of it; None if there is none.

        A damaged one is removed, which the user is told in one line.
        """
        entry = self.entry(kind, key)
        try:
            return _verified(entry, kind, key)
        except FileNotFoundError:
            return None
        except _DamagedError:
            # Under a lock and looked at again: another process may just have put a good one in its place.
            with self._healing():
                try:
                    return _verified(entry, kind, key)
                except FileNotFoundError:
                    return None
                except _DamagedError as damage:
                    progress.notice(f"cache: {kind.value} is damaged ({damage}); removed, it will be made again")
                    with self.writing() as aside:
                        entry.rename(aside / "damaged")
                    return None

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Lend a temporary folder inside the cache; it is gone afterwards unless ``publish`` renamed it.

        A lock beside the folder is held while it is in use. The kernel frees it when the process dies, however it dies,
        so that ``sweep`` can tell a dead folder from a live one, even of another container.
        """
        while True:
            stem = f".tmp-{secrets.token_hex(8)}"
            lock = self.root / f"{stem}.lock"
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if _try_lock(handle) and os.fstat(handle).st_nlink:
                break
            os.close(handle)  # a sweep took the lock in the moment before us
        folder = self.root / stem
        try:
            (folder / "files").mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(handle)

    def publish(self, folder: Path, kind: Kind, key: str, *, stage: str, note: str, progress: Progress) -> Artifact:
        """Describe the files in ``folder``, sync them and rename the folder into place.

        Returns:
            The result that stands in the cache afterwards: this one, or that of a process that was first.

        Raises:
            UsageError: The stage left no file, or something that is neither a file nor a folder.
        """
        files = _listing(folder / "files")
        if not files:
            raise UsageError("E0112", f"stage {stage} wrote no file", fix="this is a fault of the stage; report it")
        record = {"schema": _SCHEMA, "kind": kind.value, "key": key, "stage": stage, "note": note, "files": files}
        (folder / "artifact.json").write_bytes(_sealed(record))
        _sync_tree(folder)
        while True:
            try:
                folder.rename(self.entry(kind, key))
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                winner = self.read(kind, key, progress=progress)
                if winner is not None:
                    return winner[0]
            else:
                _sync_folder(self.root)
                return Artifact(kind=kind, path=self.entry(kind, key) / "files", digest=_files_digest(files))

    def sweep(self) -> int:
        """Remove what killed processes left behind; give the number of folders removed."""
        removed = 0
        for lock in self.root.glob(".tmp-*.lock"):
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _try_lock(handle):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink(missing_ok=True)
                    removed += 1
            finally:
                os.close(handle)
        return removed

    def prepare(self) -> None:
        """Make the folder, and sweep it.

        Raises:
            UsageError: It cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.sweep()
            with self.writing():
                pass
        except OSError as error:
            raise UsageError(
                "E0113",
                f"the cache folder {self.root} cannot be used: {error.strerror or error}",
                fix="set EDGEKIT_CACHE to a folder that you can write to",
            ) from error

    @contextlib.contextmanager
    def _healing(self) -> Iterator[None]:
        handle = os.open(self.root / ".heal.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def run_stages(stages: Sequence[Stage], *, cache: Cache, seed: int, progress: Progress) -> Artifacts:
    """Run the stages in order, taking finished results from the cache.

    Args:
        stages: Each takes kinds that an earlier one gives.
        cache: Where results are kept.
        seed: Seed of every random choice; part of each key.
        progress: Told of each stage.

    Returns:
        The artifact of each stage, by kind.

    Raises:
        UsageError: The order is wrong (found before anything runs), or the cache cannot be written to.
        EdgekitError: Whatever a stage raises; nothing of that stage is left in the cache.
    """
    check_order(stages)
    cache.prepare()
    done: dict[Kind, Artifact] = {}
    for stage in stages:
        name = type(stage).__name__
        progress.stage_started(name)
        start = time.monotonic()
        try:
            artifact, note, cached = _result(stage, MappingProxyType(done), cache=cache, seed=seed, progress=progress)
        except BaseException:
            progress.stage_failed(name)
            raise
        done[stage.gives] = artifact
        progress.stage_done(name, seconds=time.monotonic() - start, note=note, cached=cached)
    return MappingProxyType(done)


def _result(
    stage: Stage, artifacts: Artifacts, *, cache: Cache, seed: int, progress: Progress
) -> tuple[Artifact, str, bool]:
    """Give the artifact of a stage, its note, and whether it was in the cache."""
    key = stage_key(stage, artifacts, seed=seed)
    found = cache.read(stage.gives, key, progress=progress)
    if found is not None:
        return *found, True
    with cache.writing() as folder:
        note = stage.run(artifacts, folder / "files")
        name = type(stage).__name__
        artifact = cache.publish(folder, stage.gives, key, stage=name, note=note, progress=progress)
    return artifact, note, False


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listing(folder: Path) -> list[dict[str, object]]:
    """Describe each file under ``folder`` by name (with ``/``), size in bytes and sha256, sorted by name."""
    files = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(
                "E0114",
                f"a stage left '{path.relative_to(folder)}', which is neither a file nor a folder",
                fix="this is a fault of the stage; report it",
            )
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files.append({"name": name, "size": path.stat().st_size, "sha256": file_digest(path)})
    return sorted(files, key=lambda file: str(file["name"]))


def _files_digest(files: object) -> str:
    return hashlib.sha256(canonical_json(files)).hexdigest()


def _sealed(record: Mapping[str, object]) -> bytes:
    """Write a record with the digest of itself, so that a flipped bit in it shows."""
    return canonical_json({**record, "seal": hashlib.sha256(canonical_json(record)).hexdigest()})


def _verified(entry: Path, kind: Kind, key: str) -> tuple[Artifact, str]:
    """Read an entry and check it against its own record.

    Raises:
        FileNotFoundError: There is none.
        _DamagedError: It is not what was written.
    """
    if not entry.is_dir():
        raise FileNotFoundError(entry)
    try:
        raw = (entry / "artifact.json").read_bytes()
        record = json.loads(raw)
        sealed = _sealed({name: value for name, value in record.items() if name != "seal"})
    except (OSError, ValueError, AttributeError) as error:
        raise _DamagedError("artifact.json cannot be read") from error
    if raw != sealed or record["kind"] != kind.value or record["key"] != key:
        raise _DamagedError("artifact.json was changed")
    wanted = {str(file["name"]): file for file in record["files"]}
    present = {
        path.relative_to(entry / "files").as_posix() for path in (entry / "files").rglob("*") if not path.is_dir()
    }
    if present != set(wanted):
        raise _DamagedError(f"'{min(present ^ set(wanted))}' is missing or too much")
    for name, file in wanted.items():
        path = entry / "files" / name
        try:
            if path.is_symlink() or path.stat().st_size != file["size"] or file_digest(path) != file["sha256"]:
                raise _DamagedError(f"'{name}' was changed")
        except OSError as error:
            raise _DamagedError(f"'{name}' cannot be read") from error
    return Artifact(kind=kind, path=entry / "files", digest=_files_digest(record["files"])), str(record["note"])


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
