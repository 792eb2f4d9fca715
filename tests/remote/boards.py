"""A board for the tests: a real sshd on the loopback, the system's own ssh in front of it, and Pythons to run on it."""

import contextlib
import getpass
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from debian_tools import SSHD, tool

_SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorised
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""
_CLIENT = """
Host board
    HostName 127.0.0.1
    Port {port}
    User {user}
Host *
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    GlobalKnownHostsFile /dev/null
    KexAlgorithms curve25519-sha256
"""
# The root user's sshd wants a user of its own and a folder; a private view of the file system gives it both.
_VIEW = (
    "mount -t tmpfs none /run && mkdir /run/sshd && mount --bind {folder}/passwd /etc/passwd && "
    "exec {sshd} -D -e -f {folder}/sshd_config"
)


@dataclass(frozen=True, slots=True)
class Board:
    """A running sshd.

    Attributes:
        folder: Holds keys and configurations.
        port: Where it listens.
        user: Who may log in.
        bin: Holds ``ssh`` and ``scp`` that take the tests' configuration; to be put before PATH.
        log: Every call of them: its words, each ended by a NUL, and a line end.
    """

    folder: Path
    port: int
    user: str
    bin: Path
    log: Path

    def calls(self) -> list[list[str]]:
        return [call.split("\0")[:-1] for call in self.log.read_text().split("\0\n")[:-1] for call in [call + "\0"]]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def bare_python(path: Path, *, packages: bool = True, first: str = "") -> Path:
    """Make a Python that sees this environment's packages, or none, but no edgekit: that must have been copied."""
    site = f'export PYTHONPATH="$PYTHONPATH:{sysconfig.get_path("purelib")}"\n' if packages else ""
    return script(path, f'{first}\n{site}exec {sys.executable} -S "$@"')


def hasty(folder: Path, evidence: dict[str, object], first: str = "") -> Path:
    """Make a Python that hands out evidence made before, instead of an engine's long start."""
    (folder / "evidence.json").write_text(json.dumps(evidence))
    handing = f'for last; do :; done; case "$*" in *selftest*) cp {folder}/evidence.json "$last"; exit;; esac'
    return bare_python(folder / "python", first=f"{first}\n{handing}")


@contextlib.contextmanager
def running_board(folder: Path):
    sshd, libraries = tool("sshd", SSHD)
    for name in ("ssh", "scp", "ssh-keygen"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorised").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(_SERVER.format(port=port, folder=folder))
    user = getpass.getuser()
    (folder / "config").write_text(_CLIENT.format(port=port, folder=folder, user=user))
    board = Board(folder, port, user, folder / "bin", folder / "calls")
    board.bin.mkdir()
    board.log.touch()
    for name in ("ssh", "scp"):
        logged = f'{{ printf "%s\\0" {name} "$@"; echo; }} >>{board.log}'
        script(board.bin / name, f'{logged}\nexec {shutil.which(name)} -F {folder}/config "$@"')
    command = [sshd, "-D", "-e", "-f", f"{folder}/sshd_config"]
    if os.getuid() == 0:
        command = _as_root(command, folder)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stderr=log, env={**os.environ, "LD_LIBRARY_PATH": libraries})
    try:
        _wait(server, port, folder / "log")
        greeting = subprocess.run([board.bin / "ssh", "board", "echo hello"], capture_output=True, check=False)
        if greeting.stdout != b"hello\n":
            pytest.skip(f"no login by ssh here: {(folder / 'log').read_text()[-300:]}")
        yield board
    finally:
        server.terminate()
        server.wait()


def _as_root(command, folder):
    if any(user.pw_name == "sshd" for user in pwd.getpwall()):
        Path("/run/sshd").mkdir(exist_ok=True)
        return command
    (folder / "passwd").write_text(
        Path("/etc/passwd").read_text() + "sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    view = _VIEW.format(folder=shlex.quote(str(folder)), sshd=shlex.quote(command[0]))
    return ["unshare", "-m", "sh", "-c", view]


def _wait(server, port, log):
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    pytest.skip(f"sshd does not run here: {log.read_text()[-300:]}")
