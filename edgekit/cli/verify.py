"""``edgekit verify``: every byte of a bundle is checked, and on request who signed it."""

from pathlib import Path

import click

from edgekit.cli.output import bundle_argument, json_option, print_json
from edgekit_runtime.signature import check

__all__ = ["command"]


@click.command("verify")
@bundle_argument
@click.option("--key", multiple=True, metavar="KEY.pub", help="A key that must have signed it; any of several will do.")
@click.option("--min-release-counter", type=click.IntRange(0), default=0, help="Refuse older releases; needs --key.")
@json_option
def command(bundle: str, key: tuple[str, ...], min_release_counter: int, as_json: bool) -> None:
    """Check every byte of BUNDLE, and with --key its signature; exit code 5 if something is wrong."""
    checked = check(bundle, key or None, min_release_counter=min_release_counter)
    manifest, digest, release = checked.bundle.manifest, checked.bundle.digest, checked.release
    if as_json:
        parts = {"name": manifest.name, "version": manifest.version, "members": len(manifest.members)}
        counter = release.release_counter if release else None
        who = {"signed_by": checked.key, "release_counter": counter}
        print_json("verify", {"bundle": bundle, "intact": True, "sha256": digest, **parts, **who})
        return
    print(f"intact: {manifest.name} {manifest.version}, {len(manifest.members)} members, sha256 {digest}")
    if release:
        print(f"signed by {checked.key}, release counter {release.release_counter}")
    elif Path(f"{bundle}.sig").exists():
        print("its signature was not checked: give --key")
