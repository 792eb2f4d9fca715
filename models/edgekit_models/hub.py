"""The one place that fetches a model over the network, and only because the recipe names a hub id."""

from pathlib import Path

from edgekit.recipe.spec import TeacherSource
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError

__all__ = ["download_snapshot"]

_PATTERNS = ("*.json", "*.txt", "*.safetensors")  # never code, never pickles


def download_snapshot(source: TeacherSource, *, offline: bool) -> Path:
    """Fetch the data files of a hub model into the hub library's cache, or find them there.

    Returns:
        The snapshot folder, named as the commit.

    Raises:
        MissingError: The library is not installed, the hub is out of reach, or the model is not in the cache.
        UsageError: The hub refuses: no such model or revision, no access, no valid id.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingError(
            "E0260",
            "the library 'huggingface_hub' is not installed",
            why=f"the recipe names the hub model {source.location!r}",
            fix="pip install 'edgekit[build]'",
        ) from error
    prefix = f"{source.subfolder.strip('/')}/" if source.subfolder else ""
    try:
        snapshot = snapshot_download(
            source.location,
            revision=source.revision or None,
            allow_patterns=[prefix + pattern for pattern in _PATTERNS],
            ignore_patterns=[prefix + "*/*"],  # folders beside the model: other formats and precisions of it
            local_files_only=offline,
        )
    except Exception as error:
        raise _translated(error, source, offline=offline) from error
    return Path(snapshot)


def _translated(error: Exception, source: TeacherSource, *, offline: bool) -> EdgekitError:
    from huggingface_hub import errors

    title, why = (
        f"the hub model {source.location!r}",
        f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
    )
    # The order matters: a gated repository is a kind of missing one, and many of these are HTTP errors.
    if isinstance(error, errors.HFValidationError):
        return UsageError("E0261", f"{title} is no valid hub id", why=why, fix="write it as 'organisation/name'")
    if isinstance(error, errors.GatedRepoError):
        return UsageError(
            "E0262", f"{title} asks for a licence to be accepted", why=why, fix="accept it on its page; 'hf auth login'"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(
            "E0263", f"{title} has no revision {source.revision!r}", why=why, fix="name a branch, a tag or a commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(
            "E0264",
            f"{title} does not exist, or it is private",
            why=why,
            fix="check the id; 'hf auth login' if private",
        )
    if offline:
        return MissingError(
            "E0265",
            f"{title} is not in the local cache",
            why="--offline forbids fetching it",
            fix="run once without --offline, or name a local folder as the teacher",
        )
    return MissingError(
        "E0266",
        f"{title} could not be fetched",
        why=why,
        fix="check the network (HF_ENDPOINT, HF_HUB_OFFLINE, proxy), or name a local folder as the teacher",
    )
