"""``edgekit verify``: every byte of a bundle is checked."""

import click

from edgekit.cli.output import bundle_argument, json_option, print_json
from edgekit_runtime.bundle import verify

__all__ = ["command"]


@click.command("verify")
@bundle_argument
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check every byte of BUNDLE; exit code 5 if one is wrong."""
    checked = verify(bundle)
    manifest = checked.manifest
    if as_json:
        parts = {"name": manifest.name, "version": manifest.version, "members": len(manifest.members)}
        print_json("verify", {"bundle": bundle, "intact": True, "sha256": checked.digest, **parts})
    else:
        print(f"intact: {manifest.name} {manifest.version}, {len(manifest.members)} members, sha256 {checked.digest}")
