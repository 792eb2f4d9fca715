"""Servers and clients for the tests: the machine's own, else Debian's packages, unpacked into the cache."""

import os
import shutil
import subprocess

import pytest

from edgekit.cache import default_root

SSHD = ("openssh-server", "libwrap0")
ADB = ("adb", "android-libbase", "android-libboringssl", "android-libcutils", "android-liblog", "libusb-1.0-0")


def tool(name: str, packages: tuple[str, ...]) -> tuple[str, str]:
    """Give a program and the LD_LIBRARY_PATH that it needs; skip the test where it cannot be had."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found:
        return found, ""
    root = default_root() / "test-tools" / packages[0]
    if not root.is_dir():
        _unpack(packages, root)
    program = next(path for path in root.rglob(name) if path.is_file() and os.access(path, os.X_OK))
    folders = {str(path.parent) for path in root.rglob("lib*.so*")}
    return str(program), os.pathsep.join(sorted(folders))


def _unpack(packages, root):
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        pytest.skip(f"{packages[0]} is not installed, and there is no apt-get to fetch it")
    aside = root.with_name(f"{root.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "deb").mkdir(parents=True)
    download = ["apt-get", "download", *packages]
    done = subprocess.run(download, cwd=aside / "deb", capture_output=True, check=False)
    if done.returncode and os.getuid() == 0:  # a fresh container has no lists of packages
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        done = subprocess.run(download, cwd=aside / "deb", capture_output=True, check=False)
    if done.returncode:
        shutil.rmtree(aside)
        pytest.skip(f"{packages[0]} is not installed, and cannot be fetched: {done.stderr.decode()[-200:]}")
    for package in (aside / "deb").iterdir():
        subprocess.run(["dpkg-deb", "-x", package, aside / "root"], check=True)
    (aside / "root").rename(root)
    shutil.rmtree(aside)
