"""The command line: arguments in, exit code out. Nothing heavy is imported before a command needs it."""

import os
import sys
import traceback
from collections.abc import Sequence

from edgekit.extras import missing_module
from edgekit_runtime.errors import EdgekitError

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        The exit code: 0, that of an ``EdgekitError``, 2 for wrong arguments, 130 for Ctrl-C, 141 when the
        reader of the output has gone, 1 for a fault of edgekit.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given[:1]
    try:
        return _run(given[1:] if debug else given)
    except EdgekitError as error:
        return _report(error, debug=debug)
    except KeyboardInterrupt:
        more = "; finished stages are kept, run the same command to go on" if "build" in given[:2] else ""
        print(f"interrupted{more}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain once more when it flushes at the end.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return _BROKEN_PIPE
    except ModuleNotFoundError as error:
        return _report(missing_module(error.name or "") or _unforeseen(error), debug=debug)
    except Exception as error:  # noqa: BLE001 - the last place that can turn a fault into a message
        return _report(_unforeseen(error), debug=debug)


def _run(arguments: list[str]) -> int:
    try:
        import click
    except ModuleNotFoundError:
        error = missing_module("click")
        assert error is not None
        raise error from None
    from edgekit.cli.app import app
    from edgekit.cli.output import error_json

    context: click.Context | None = None
    try:
        context = app.make_context("edgekit", arguments)
        with context:
            app.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as wrong:
        wrong.show()
        return 2
    except EdgekitError as fault:
        if context is not None:
            error_json(context, fault)
        raise
    return 0


def _unforeseen(error: Exception) -> EdgekitError:
    return EdgekitError(
        "E0001",
        f"unforeseen: {type(error).__name__}: {error}",
        why="a fault of edgekit, not of yours",
        fix="run it again as `edgekit --debug ...` and report what it prints",
    )


def _report(error: EdgekitError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(error, file=sys.stderr)
    # A person can ask on where the error itself does not say everything; a log or a script gets the error alone.
    if sys.stderr.isatty() and not (error.why and error.fix):
        print(f"  more: edgekit explain {error.code}", file=sys.stderr)
    return error.exit_code
