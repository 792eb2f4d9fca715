"""The table of commands; a command's module is imported when it is called, not for ``--help``."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import click

from edgekit import __version__

__all__ = ["COMMANDS", "app"]


@dataclass(frozen=True, slots=True)
class Row:
    """A command.

    Attributes:
        module: Module under ``edgekit.cli`` that holds a click command called ``command``.
        help: One line for ``edgekit --help``.
    """

    module: str
    help: str


# In the order in which a user meets them.
COMMANDS: Mapping[str, Row] = MappingProxyType(
    {
        "doctor": Row("doctor", "Say what is installed here, what is missing and how to get it."),
        "targets": Row("targets", "List the boards that a build can aim at."),
        "init": Row("init", "Write a commented recipe to start from."),
        "build": Row("build", "Build a recipe into a verified bundle."),
        "run": Row("run", "Run a bundle on texts or images."),
        "parity": Row("parity", "Compare the lanes of a bundle on the same rows."),
        "report": Row("report", "Write a run as one HTML file that anybody can open."),
        "debug": Row("debug", "Find the layer where int8 parts from float."),
        "diff": Row("diff", "Say what differs between two runs or two bundles."),
        "bench": Row("bench", "Measure the CPU time per inference of a bundle."),
        "emulator": Row("emulator", "Prepare emulated ARM cores, on which parity can run a bundle."),
        "inspect": Row("inspect", "Show what is inside a bundle."),
        "keygen": Row("keygen", "Make a pair of keys to sign bundles with."),
        "sign": Row("sign", "Sign a bundle with a key."),
        "verify": Row("verify", "Check every byte of a bundle, and who signed it."),
        "explain": Row("explain", "Say what an error code means and what to do."),
    }
)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        found = importlib.import_module(f"edgekit.cli.{row.module}").command
        if not isinstance(found, click.Command):
            raise TypeError(f"edgekit.cli.{row.module}.command is not a click command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 ok, 2 usage, 3 quality bound missed, 4 target not reached, 5 verification failed, "
    "6 something is missing here, 7 conversion failed, 8 device unreachable. "
    "`edgekit --debug COMMAND ...` shows where an error comes from.",
)
@click.version_option(__version__, prog_name="edgekit")
def app() -> None:
    """Turn a trained PyTorch model into a small int8 bundle for an edge device, with proof that int8 is still right."""
