"""The commands of a run on a device, as one list: a dry run prints it, a real run carries it out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final, Protocol

from edgekit.remote.payload import EVIDENCE, Payload
from edgekit_runtime.engines.registry import ENGINES
from edgekit_runtime.errors import DeviceError

__all__ = ["INTACT", "Command", "Link", "Steps", "plan_steps"]

INTACT: Final = "edgekit: intact"
_SHORT: Final = 120
_COPY: Final = 1800
_RUN: Final = 3600

# One line each, without single quotes or backslashes, so that every login shell hands them on unchanged. Only the
# device's packages are looked for: the empty entry of sys.path is the folder that the shell happens to start in.
_PROBE: Final = (
    "import importlib.util as u, json, platform, sys; sys.path[:] = [p for p in sys.path if p]; "
    'print(json.dumps({"python": list(sys.version_info[:3]), "machine": platform.machine(), '
    '"found": [m for m in sys.argv[1:] if u.find_spec(m)]}))'
)
_CHECK: Final = (
    "import hashlib, sys; pairs = zip(sys.argv[1::2], sys.argv[2::2]); "
    'bad = [p for d, p in pairs if hashlib.sha256(open(p, "rb").read()).hexdigest() != d]; '
    f'print("{INTACT}") if not bad else sys.exit("differs: " + ", ".join(bad))'
)
# The number of the process is kept while it runs, so that removing the folder can end what an interrupt left running.
_ANSWER: Final = (
    'env PYTHONPATH="$1/runtime.zip" "$2" -B -P -m edgekit_runtime selftest "$1/bundle.edge" --rows "$1/$3" '
    '--engine "$4" --evidence "$1/evidence.json" & '
    'echo $! >"$1/pid"; wait $!; code=$?; rm -f "$1/pid"; exit $code'
)
_REMOVE: Final = 'if [ -f "$1/pid" ]; then kill "$(cat "$1/pid")"; fi; rm -rf "$1"'


class Link(Protocol):
    """A way to a device, by a client program of this system."""

    @property
    def place(self) -> str:
        """Name of the device, for messages."""
        ...

    @property
    def parent(self) -> str:
        """Folder of the device in which a temporary one may be made."""
        ...

    @property
    def python_fix(self) -> str:
        """What to do where the device has no Python that serves."""
        ...

    def fault(self, done: CompletedProcess[str]) -> DeviceError | None:
        """Give the error if a command failed because of the link, not of what ran on the device."""
        ...

    def shell(self, words: Sequence[str]) -> list[str]:
        """Give the command that runs ``words``, each as one argument whatever it holds, on the device."""
        ...

    def push(self, files: Sequence[Path], folder: str) -> list[str]:
        """Give the command that copies files into a folder of the device."""
        ...

    def pull(self, remote: str, folder: Path) -> list[str]:
        """Give the command that copies a file of the device into a folder here."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """One program run on this machine.

    Attributes:
        argv: Its words.
        limit_seconds: It is stopped after that.
    """

    argv: list[str]
    limit_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """All commands of a run, in order.

    Attributes:
        probe: Says what the device has.
        make: Makes a private folder.
        copy: Fills it.
        check: Compares every copy with the original's sha256.
        answer: Runs the self-test with the rows.
        fetch: Brings the evidence.
        remove: Ends what still runs there, and removes the folder; carried out whatever failed after ``make`` began.
    """

    probe: Command
    make: Command
    copy: Command
    check: Command
    answer: Command
    fetch: Command
    remove: Command

    def __iter__(self) -> Iterator[Command]:
        return (getattr(self, field.name) for field in fields(self))


def plan_steps(link: Link, payload: Payload, *, python: str, engine: str) -> Steps:
    """Give the commands of a run.

    Args:
        link: To the device.
        payload: What is sent.
        python: Command or path on the device.
        engine: Key of ``ENGINES``.
    """
    # The device may be this very machine: its folder must not be the one in which the files were laid out.
    folder = f"{link.parent}/{payload.folder.name}.device"
    modules = sorted({"numpy", *(row.module.partition(".")[0] for row in ENGINES.values())})
    digests = [word for name, digest in payload.digests for word in (digest, f"{folder}/{name}")]
    answer = ["sh", "-c", _ANSWER, "edgekit", folder, python, payload.rows.name, engine]
    return Steps(
        probe=Command(link.shell([python, "-c", _PROBE, *modules]), _SHORT),
        make=Command(link.shell(["mkdir", "-m", "700", folder]), _SHORT),
        copy=Command(link.push(payload.files, folder), _COPY),
        check=Command(link.shell([python, "-c", _CHECK, *digests]), _SHORT),
        answer=Command(link.shell(answer), _RUN),
        fetch=Command(link.pull(f"{folder}/{EVIDENCE}", payload.folder), _COPY),
        remove=Command(link.shell(["sh", "-c", _REMOVE, "edgekit", folder]), _SHORT),
    )
