"""Command line of the device: ``python -m edgekit_runtime verify | run | selftest | bench | doctor``."""

import argparse
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgekit_runtime import __version__
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.engines.registry import ENGINES
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.model import Input, Model
from edgekit_runtime.signature import Checked, check

__all__ = ["main"]

_Result = tuple[dict[str, object], list[str], int]
_QUALITY, _MISSING = 3, 6  # exit codes


def _describe(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "target": manifest.target,
        "digest": bundle.digest,
        "models": {runtime: entry.precision for runtime, entry in manifest.models.items()},
        "members": {member.name: member.size for member in manifest.members},
    }


def _verify(arguments: argparse.Namespace) -> _Result:
    checked = _check(arguments)
    counter = checked.release.release_counter if checked.release else None
    facts = {**_describe(checked.bundle), "signed_by": checked.key, "release_counter": counter}
    lines = [f"{arguments.file}: intact, {facts['name']} {facts['version']}, sha256 {facts['digest']}"]
    if checked.release:
        lines.append(f"signed by {checked.key}, release counter {counter}")
    return facts, lines, 0


def _check(arguments: argparse.Namespace) -> Checked:
    return check(arguments.file, arguments.key, min_release_counter=arguments.min_release_counter)


def _open(arguments: argparse.Namespace) -> Model:
    return Model(_check(arguments).bundle, engine=arguments.engine, threads=arguments.threads)


def _run(arguments: argparse.Namespace) -> _Result:
    with _open(arguments) as model:
        inputs: Sequence[Input] = arguments.input
        if model.bundle.manifest.task == "text-embedding":
            vectors = [{"input": x, "vector": model.embed(x).tolist()} for x in arguments.input]
            shown = [f"{json.dumps(row['vector'])}\t{row['input']}" for row in vectors]
            return {"engine": model.engine_name, "vectors": vectors}, shown, 0
        answers = model.predict_batch(inputs)
        labels, engine = model.labels, model.engine_name
    rows = [{"input": x, **asdict(answer)} for x, answer in zip(arguments.input, answers, strict=True)]
    lines = [f"{answer.label}\t{answer.score:.4f}\t{x}" for x, answer in zip(arguments.input, answers, strict=True)]
    return {"engine": engine, "labels": labels, "predictions": rows}, lines, 0


def _selftest(arguments: argparse.Namespace) -> _Result:
    if arguments.evidence:
        return _gather(arguments)
    if arguments.rows:
        raise UsageError("E0918", "--rows is for --evidence", fix="add --evidence out.json")
    with _open(arguments) as model:
        result = model.selftest()
    lines = [f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}" for check in result.checks]
    lines.append(f"self-test {'passed' if result.passed else 'FAILED'} on {result.engine}, {result.rows} rows")
    return {**asdict(result), "passed": result.passed}, lines, 0 if result.passed else _QUALITY


def _gather(arguments: argparse.Namespace) -> _Result:
    from edgekit_runtime.evidence import collect, document
    from edgekit_runtime.rows import golden_rows, read_rows

    out = Path(arguments.evidence)
    if out.is_dir() or not out.parent.is_dir():  # told before the rows are answered, which may take an hour
        raise _unwritable(out, "it is a folder" if out.is_dir() else f"there is no folder '{out.parent}'")
    bundle = _check(arguments).bundle
    rows = read_rows(arguments.rows) if arguments.rows else golden_rows(bundle)
    # An engine that is known for wrong answers is run all the same: whoever reads the evidence must see them.
    with Model(bundle, engine=arguments.engine, threads=arguments.threads, prove=False) as model:
        lane = collect(model, rows)
        content = document(model, rows, [lane], source="a file" if arguments.rows else "goldens of the bundle")
    try:
        out.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from error
    faults = lane.selftest or ()
    lines = [f"FAIL {fault}" for fault in faults]
    lines.append(f"{len(rows)} rows answered by {lane.engine} {lane.engine_version}, written to {arguments.evidence}")
    return {"evidence": arguments.evidence, "rows": len(rows), "faults": list(faults)}, lines, _QUALITY if faults else 0


def _unwritable(out: Path, why: str) -> UsageError:
    return UsageError("E0195", f"--evidence {out} cannot be written", why=why, fix="name a file in another folder")


def _bench(arguments: argparse.Namespace) -> _Result:
    with _open(arguments) as model:
        result = model.benchmark(runs=arguments.runs)
    line = (
        f"{result.engine}, {result.threads} thread(s), {result.runs} runs: CPU {result.cpu_ms_min:.3f} ms least, "
        f"{result.cpu_ms_median:.3f} ms median; clock {result.wall_ms_median:.3f} ms median"
    )
    return asdict(result), [line], 0


def _doctor(arguments: argparse.Namespace) -> _Result:
    engines, lines = {}, [f"edgekit-runtime {__version__}, Python {platform.python_version()}, numpy {np.__version__}"]
    for row in ENGINES.values():
        state = "missing"
        if row.installed:
            # In a process of its own: a build for another CPU dies with SIGILL instead of raising.
            command = [sys.executable, "-c", f"import {row.module}"]
            child = subprocess.run(command, capture_output=True, check=False)
            state = "ok" if child.returncode == 0 else f"broken (exit {child.returncode})"
        engines[row.name] = {"state": state, "version": row.version if row.installed else "", "fix": row.install}
        lines.append(f"{row.name}: {state}" + ("" if state == "ok" else f"; {row.install}"))
    facts = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    usable = {ENGINES[name].runtime for name, fields in engines.items() if fields["state"] == "ok"}
    wanted = set(verify(arguments.file).manifest.models) if arguments.file else usable
    good = bool(usable & wanted)
    lines.append("ready" if good else "no engine here can run it")
    return {**facts, "engines": engines, "ready": good}, lines, 0 if good else _MISSING


_COMMANDS: Mapping[str, tuple[Callable[[argparse.Namespace], _Result], str]] = {
    "verify": (_verify, "check every byte of a bundle, and with --key who signed it"),
    "run": (_run, "answer texts or image files"),
    "selftest": (_selftest, "compare this machine with the build machine"),
    "bench": (_bench, "time the engine"),
    "doctor": (_doctor, "say what is installed and what is missing"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgekit_runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        command.add_argument("file", nargs="?" if name == "doctor" else None, help="the .edge bundle")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
        if name != "doctor":
            command.add_argument("--key", action="append", help="public key that must have signed it; any of several")
            command.add_argument(
                "--min-release-counter", type=int, default=0, help="refuse older releases; needs --key"
            )
        if name in {"run", "selftest", "bench"}:
            command.add_argument("--engine", choices=list(ENGINES))
            command.add_argument("--threads", type=int, default=1)
        if name == "selftest":
            command.add_argument("--evidence", help="write what another machine needs to judge this one, as JSON")
            command.add_argument("--rows", help="with --evidence: rows to answer instead of the goldens, .json or .npz")
        if name == "run":
            command.add_argument("input", nargs="+", help="texts, or paths of images and .npy arrays")
        if name == "bench":
            command.add_argument("--runs", type=int, default=50)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        facts, lines, code = _COMMANDS[arguments.command][0](arguments)
    except EdgekitError as error:
        return _report(error, arguments)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last place that can turn a fault into a message
        unforeseen = EdgekitError(
            "E0001",
            f"unforeseen: {type(error).__name__}: {error}",
            why="a fault of edgekit, not of yours",
            fix="run it again with --debug and report what it prints",
        )
        return _report(unforeseen, arguments)
    if arguments.json:
        print(json.dumps({"schema": 1, "command": arguments.command, **facts}))
    else:
        print("\n".join(lines))
    return code


def _report(error: EdgekitError, arguments: argparse.Namespace) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(error, file=sys.stderr)
    if arguments.json:
        fault = {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix}
        print(json.dumps({"schema": 1, "command": arguments.command, "error": fault}))
    return error.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(0)  # the reader of a pipe left early, as `head` does; there is nobody to tell
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it
