"""Carries out the steps of a run on a device: what each failure means, and removal of the folder whatever happened."""

import json
import shlex
import subprocess
from typing import Any, Final

from edgekit.remote.payload import EVIDENCE, Payload
from edgekit.remote.steps import INTACT, Command, Link, Steps
from edgekit_runtime.engines.registry import get_engine
from edgekit_runtime.errors import DeviceError, EdgekitError
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["ask_device", "last_lines"]

_Done = subprocess.CompletedProcess[str]
_OLDEST_PYTHON: Final = (3, 11)
_FAULTS_OF_GOLDENS: Final = 3  # the exit code of a self-test that failed, and wrote its evidence
_NO_SUCH_COMMAND: Final = (126, 127)


def ask_device(link: Link, steps: Steps, payload: Payload, *, python: str, engine: str) -> LaneEvidence:
    """Carry out all steps.

    Args:
        link: To the device.
        steps: From ``plan_steps``.
        payload: What is sent; the evidence is fetched into its folder.
        python: Command or path on the device, for messages.
        engine: Key of ``ENGINES``.

    Returns:
        The answers, under the lane name that the device gave them.

    Raises:
        DeviceError: The device cannot be reached or refuses the login (E0850, E0851), lacks something (E0852), got
            damaged copies (E0853), failed (E0854), took too long (E0855), wrote no evidence for this question (E0856),
            or cannot make or remove a folder (E0857).
    """
    _see_that_it_has(_run(steps.probe, link), link, python=python, engine=engine)
    try:
        _succeed(_run(steps.make, link), "E0857", f"{link.place} cannot make a folder in {link.parent}")
        _copied(_run(steps.copy, link), link)
        _intact(_run(steps.check, link), link)
        _answered(_run(steps.answer, link), link)
        _copied(_run(steps.fetch, link), link)
        found = _read(payload, link)
    except EdgekitError as error:
        trouble = _remove(steps, link)
        if trouble is not None:
            error.fix = "; ".join(filter(None, (error.fix, trouble.fix)))
        raise
    except BaseException as ending:  # an interrupt too
        trouble = _remove(steps, link)
        if trouble is not None:
            ending.add_note(str(trouble))
        raise
    trouble = _remove(steps, link)
    if trouble is not None:
        raise trouble
    return found


def last_lines(text: str, count: int = 4) -> str:
    """Give the end of what a program said, on one line and without characters that could steer a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-count:]
    return "".join(char if char.isprintable() else "?" for char in " | ".join(lines))[:1000]


def _run(command: Command, link: Link) -> _Done:
    """Run a command; ``subprocess.run`` ends it when it is interrupted."""
    try:
        done = subprocess.run(
            command.argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=command.limit_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            "E0855",
            f"{link.place} did not end within {command.limit_seconds} s",
            why=f"the command was: {shlex.join(command.argv)}",
            fix="ask fewer rows, or look at what else the device does",
        ) from error
    fault = link.fault(done) if done.returncode else None
    if fault is not None:
        raise fault
    return done


def _succeed(done: _Done, code: str, what: str, fix: str = "") -> None:
    if done.returncode:
        raise DeviceError(code, what, why=last_lines(done.stderr) or f"exit code {done.returncode}", fix=fix)


def _see_that_it_has(done: _Done, link: Link, *, python: str, engine: str) -> None:
    if done.returncode in _NO_SUCH_COMMAND:
        raise DeviceError("E0852", f"{link.place} has no {python}", why=last_lines(done.stderr), fix=link.python_fix)
    facts = _facts(done.stdout)
    if facts is None:
        why = last_lines(done.stderr) or last_lines(done.stdout)
        raise DeviceError("E0852", f"{python} of {link.place} does not run", why=why, fix=link.python_fix)
    version, found = tuple(map(int, facts["python"])), set(facts["found"])
    if version < _OLDEST_PYTHON:
        what = f"{link.place} has Python {'.'.join(map(str, version))}; edgekit_runtime needs 3.11 or newer"
        raise DeviceError("E0852", what, fix=link.python_fix)
    row, has = get_engine(engine), ", ".join(sorted(found)) or "neither numpy nor an engine"
    lacking = [] if "numpy" in found else ["numpy"]
    lacking += [] if row.module.partition(".")[0] in found else [row.distributions[0]]
    if lacking:
        raise DeviceError(
            "E0852",
            f"{python} of {link.place} lacks {' and '.join(lacking)}",
            why=f"on {last_lines(str(facts['machine']))} it has {has}",
            fix=f"on the device: {shlex.quote(python)} -m pip install {' '.join(lacking)}; "
            "a virtual environment is named with ?python=PATH, another engine with ?engine=NAME",
        )


def _facts(stdout: str) -> dict[str, Any] | None:
    """Read the probe's last line: a login script may have said something before."""
    try:
        held = json.loads((stdout.strip().splitlines() or [""])[-1])
        well = all(isinstance(held[key], list) for key in ("python", "found")) and "machine" in held
    except (ValueError, KeyError, TypeError):
        return None
    return held if well else None


def _copied(done: _Done, link: Link) -> None:
    _succeed(done, "E0853", f"copying to or from {link.place} failed", "see that the device has room, and try again")


def _intact(done: _Done, link: Link) -> None:
    if done.returncode or INTACT not in done.stdout.splitlines():
        raise DeviceError(
            "E0853",
            f"a copy on {link.place} differs from what was sent",
            why=last_lines(done.stderr) or f"exit code {done.returncode}",
            fix="try again; if it repeats, see whether the device's memory card is worn out or full",
        )


def _answered(done: _Done, link: Link) -> None:
    if done.returncode in {0, _FAULTS_OF_GOLDENS}:
        return
    killed = done.returncode > 128
    raise DeviceError(
        "E0854",
        f"the self-test failed on {link.place} with exit code {done.returncode}",
        why=last_lines(done.stderr) or last_lines(done.stdout),
        fix="above 128 the device's system killed it, most often for want of memory" if killed else "",
    )


def _read(payload: Payload, link: Link) -> LaneEvidence:
    """Read the evidence, and see that it is for what was sent."""
    try:
        held = json.loads((payload.folder / EVIDENCE).read_bytes())
        lane = LaneEvidence.from_json(held["lanes"][0])
        bundle, rows = held["bundle"]["sha256"], held["rows"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DeviceError("E0856", f"{link.place} sent no evidence that can be read", why=why) from error
    if (bundle, rows) != (payload.bundle_sha256, payload.rows_sha256):
        raise DeviceError(
            "E0856",
            f"{link.place} answered another bundle or other rows",
            why="the sha256 in its evidence is not that of what was sent",
        )
    return lane


def _remove(steps: Steps, link: Link) -> DeviceError | None:
    """Remove the folder; give the reason if that failed."""
    try:
        done = _run(steps.remove, link)
    except DeviceError as error:
        why = error.why or error.what
    else:
        if not done.returncode:
            return None
        why = last_lines(done.stderr)
    fix = f"remove what may be left on it: {shlex.join(steps.remove.argv)}"
    return DeviceError("E0857", f"the folder on {link.place} could not be removed", why=why, fix=fix)
