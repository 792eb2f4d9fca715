"""Boards behind ssh, by the system's own ``ssh`` and ``scp``: the user's configuration, keys and known hosts hold."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

from edgekit.remote.lane import RemoteLane, remote_lanes
from edgekit.remote.place import SshAddress, parse_ssh
from edgekit.remote.session import last_lines
from edgekit_runtime.errors import DeviceError, MissingError

__all__ = ["SshLink", "open_lanes"]

# Nobody sits before a prompt; a silent network is noticed within a minute; and what the user's configuration does for
# people at a terminal (forwarding of ports, a command of its own) would only disturb.
_OPTIONS: Final = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=4")
_SHELL_OPTIONS: Final = ("ClearAllForwardings=yes", "RemoteCommand=none")
_FAILED: Final = 255  # the exit code of ssh's own failures


@dataclass(frozen=True, slots=True)
class SshLink:
    """A way to a board.

    Attributes:
        address: Where.
    """

    address: SshAddress
    parent: str = "/tmp"  # noqa: S108 - on the device; the folder in it has a name that nobody can guess

    @property
    def place(self) -> str:
        """See ``Link``."""
        return self.address.login

    @property
    def python_fix(self) -> str:
        """See ``Link``."""
        return "install Python 3.11 or newer there, or name one: ssh://...?python=/opt/venv/bin/python"

    def shell(self, words: Sequence[str]) -> list[str]:
        """See ``Link``."""
        port = [] if self.address.port is None else ["-p", str(self.address.port)]
        return ["ssh", "-T", *_options(_OPTIONS, _SHELL_OPTIONS), *port, "--", self.address.login, shlex.join(words)]

    def push(self, files: Sequence[Path], folder: str) -> list[str]:
        """See ``Link``."""
        return [*self._scp(), *map(str, files), f"{self._scp_host}:{folder}/"]

    def pull(self, remote: str, folder: Path) -> list[str]:
        """See ``Link``."""
        return [*self._scp(), f"{self._scp_host}:{remote}", f"{folder}/"]

    def fault(self, done: CompletedProcess[str]) -> DeviceError | None:
        """See ``Link``."""
        said = last_lines(done.stderr)
        if "Host key verification failed" in done.stderr:
            fix = f"connect once by hand and compare the key: {self._by_hand}"
            return DeviceError("E0851", f"ssh does not know {self.place}, or its key has changed", why=said, fix=fix)
        if "Permission denied (" in done.stderr:
            return DeviceError(
                "E0851",
                f"{self.place} let no key of yours in",
                why=f"{said}; passwords are not asked for here, so that nothing waits for one unseen",
                fix=f"ssh-copy-id {shlex.join(self._by_hand.split()[1:])}, or ssh-add for a key with a passphrase",
            )
        if done.returncode == _FAILED:
            fix = f"see that this works: {self._by_hand}"
            return DeviceError("E0850", f"the connection to {self.place} failed", why=said, fix=fix)
        return None

    def _scp(self) -> list[str]:
        port = [] if self.address.port is None else ["-P", str(self.address.port)]
        return ["scp", "-q", *_options(_OPTIONS), *port, "--"]

    @property
    def _scp_host(self) -> str:
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return host if self.address.user is None else f"{self.address.user}@{host}"

    @property
    def _by_hand(self) -> str:
        port = "" if self.address.port is None else f"-p {self.address.port} "
        return f"ssh {port}{self.address.login}"


def _options(*groups: Sequence[str]) -> list[str]:
    return [word for group in groups for option in group for word in ("-o", option)]


def open_lanes(place: str, models: Sequence[str]) -> list[RemoteLane]:
    """Give one lane for each model on a board.

    Args:
        place: ``ssh://[user@]host[:port][?python=PATH][&engine=NAME]``.
        models: Keys of ``edgekit.lanes.models.MODELS``.

    Raises:
        UsageError: The place is none (E0186, E0187).
        MissingError: ssh or scp is not here (E0685).
    """
    address, interpreter = parse_ssh(place)
    absent = [name for name in ("ssh", "scp") if shutil.which(name) is None]
    if absent:
        raise MissingError("E0685", f"{' and '.join(absent)} is not here", fix="install OpenSSH's client")
    return remote_lanes(place, models, SshLink(address), interpreter)
