"""Reads what a user types for a device, ``ssh://pi@board:22?python=/opt/venv/bin/python``, and refuses all else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from edgekit.lanes.local import engine_of
from edgekit_runtime.engines.registry import ENGINES
from edgekit_runtime.errors import UsageError
from edgekit_runtime.manifest import Runtime

__all__ = ["Interpreter", "SshAddress", "parse_adb", "parse_ssh"]

_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_HOST: Final = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.\-]+)?\]"
_SSH: Final = re.compile(rf"(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\[\]\-]*")
_PYTHON: Final = re.compile(r"/[^\0-\x1f\x7f]*|[A-Za-z0-9_][A-Za-z0-9_.+\-]*")
_SSH_FORM: Final = "write ssh://[user@]host[:port], with an alias of ~/.ssh/config or an IPv6 address in [ ] as host"
_QUERY_FORM: Final = f"python= takes a command or an absolute path on the device, engine= one of {', '.join(ENGINES)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What runs the device's code.

    Attributes:
        python: A command on the device's PATH, or an absolute path.
        engines: By runtime the engine that the user asked for; the usual one runs where it has no entry.
    """

    python: str = "python3"
    engines: Mapping[Runtime, str] = field(default_factory=lambda: MappingProxyType({}))

    def engine(self, model: str) -> str:
        """Give the engine for a key of ``edgekit.lanes.models.MODELS``."""
        runtime = engine_of(model)
        return self.engines.get(runtime, runtime)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAddress:
    """Where ssh goes.

    Attributes:
        host: Name, alias or address, without brackets.
        user: None leaves the choice to ssh's own configuration.
        port: Likewise.
    """

    host: str
    user: str | None
    port: int | None

    @property
    def login(self) -> str:
        """As ssh takes it."""
        return self.host if self.user is None else f"{self.user}@{self.host}"


def parse_ssh(place: str) -> tuple[SshAddress, Interpreter]:
    """Read ``ssh://[user@]host[:port][?python=PATH][&engine=NAME]``.

    Raises:
        UsageError: It is something else, or would not reach ssh as one plain word (E0186); the query is wrong (E0187).
    """
    address, _, query = place.removeprefix("ssh://").partition("?")
    match = _SSH.fullmatch(address)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or port == 0 or (port or 0) > 65535:
        raise UsageError("E0186", f"{place!r} names no device", why=_why_no_address(address), fix=_SSH_FORM)
    found = SshAddress(host=match["host"].strip("[]"), user=match["user"], port=port)
    return found, _interpreter(query, place)


def parse_adb(place: str) -> tuple[str, Interpreter]:
    """Read ``adb:[SERIAL][?python=PATH][&engine=NAME]``; an empty serial stands for the only device.

    Raises:
        UsageError: It is something else (E0186); the query is wrong (E0187).
    """
    serial, _, query = place.removeprefix("adb:").partition("?")
    if serial and _SERIAL.fullmatch(serial) is None:
        raise UsageError(
            "E0186", f"{place!r} names no device", fix="write adb: or adb:SERIAL, as `adb devices` lists it"
        )
    return serial, _interpreter(query, place)


def _why_no_address(address: str) -> str:
    login, at, _ = address.rpartition("@")
    if at and ":" in login:
        return "a password has no place in it: the whole system could read it; use a key"
    if "/" in address:
        return "after the host may come /MODEL (onnx-int8, tflite-int8, onnx-fp32, tflite-fp32) and no other path"
    return ""


def _interpreter(query: str, place: str) -> Interpreter:
    python, engines = Interpreter().python, dict[Runtime, str]()
    for pair in query.split("&") if query else ():
        key, _, raw = pair.partition("=")
        value = unquote(raw)
        if key == "python" and _PYTHON.fullmatch(value):
            python = value
        elif key == "engine" and value in ENGINES:
            engines[ENGINES[value].runtime] = value
        else:
            raise UsageError("E0187", f"{pair!r} of {place!r} is not understood", fix=_QUERY_FORM)
    return Interpreter(python=python, engines=MappingProxyType(engines))
