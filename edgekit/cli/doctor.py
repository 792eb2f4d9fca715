"""``edgekit doctor``: what is installed here, what is missing, and how to mend it."""

import dataclasses

import click

from edgekit.cli.output import json_option, print_json, print_table
from edgekit.doctor import examine
from edgekit_runtime.errors import MissingError

__all__ = ["command"]


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what is installed here, what is missing and how to get it; exit code 6 if a build cannot run."""
    report = examine()
    if as_json:
        checks = [dataclasses.asdict(check) for check in report.checks]
        print_json("doctor", {"can_build": report.can_build, "checks": checks})
    else:
        rows = [(check.status, check.group, check.name, check.detail) for check in report.checks]
        print_table(("status", "group", "name", "detail"), rows)
        fixes = dict.fromkeys(check.fix for check in report.checks if check.fix)
        if fixes:
            print("\nTo mend it:")
            for fix in fixes:
                names = ", ".join(check.name for check in report.checks if check.fix == fix)
                print(f"  {fix}\n      ({names})")
        print("\nA build can run here." if report.can_build else "\nA build cannot run here.")
    if not report.can_build:
        names = ", ".join(check.name for check in report.checks if check.blocks_build)
        fixes = dict.fromkeys(check.fix for check in report.checks if check.blocks_build)
        raise MissingError("E0613", f"a build cannot run here: {names}", fix="; ".join(fixes))
