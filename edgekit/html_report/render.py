"""Turns a report into HTML, and writes it: every text is made visible, cut to size and escaped in one place."""

import os
import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgekit import __version__
from edgekit.evidence_document import read_run
from edgekit.html_report.build_page import build_page
from edgekit.html_report.evidence_page import evidence_page
from edgekit.html_report.page import Page
from edgekit.html_report.text import clip, visible
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["MOST_BYTES", "page_of", "render", "write_report"]

MOST_BYTES: Final = 1_000_000
_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


def page_of(run: Path) -> Page:
    """Give the report of an evidence file or of a build's folder.

    Raises:
        MissingError: It is not there (E0689), or holds no build (E0688).
        UsageError: It is neither, or damaged.
    """
    if not run.exists():
        fix = "write one: edgekit parity BUNDLE --evidence run.json"
        raise MissingError("E0689", f"there is no '{run}'", why="a report is made of a run that was kept", fix=fix)
    return build_page(run) if run.is_dir() else evidence_page(read_run(run))


def render(page: Page) -> str:
    """Give the HTML of a report.

    Raises:
        UsageError: It would be larger than 1 MB (E0192).
    """
    environment = Environment(
        loader=PackageLoader("edgekit.html_report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = _address
    html = environment.get_template("report.html").render(page=page, version=__version__)
    size = len(html.encode("utf-8"))
    if size > MOST_BYTES:
        why = f"it would be {size / 1e6:.1f} MB, and a report stays below {MOST_BYTES / 1e6:.0f} MB"
        raise UsageError("E0192", "the run is too large for a report", why=why, fix="compare fewer lanes at once")
    return html


def _safe(value: object) -> object:
    """Make a text visible and short before the template escapes it."""
    return visible(clip(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _address(uri: str) -> Markup:
    """Let the address of a picture through whole; it holds nothing that would need escaping."""
    if not _PNG.fullmatch(uri):
        raise ValueError("no picture")
    return Markup(uri)  # noqa: S704 - letters, digits, +, / and = alone


def write_report(run: Path, out: Path) -> tuple[Page, int]:
    """Write the report of a run; ``out`` holds the old file or the whole new one at any moment.

    Returns:
        What was written, and the size of the file in bytes.

    Raises:
        MissingError: There is no run.
        UsageError: It is damaged, or ``out`` cannot be written (E0193).
    """
    page = page_of(run)
    data = render(page).encode("utf-8")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = error.strerror or str(error)
        raise UsageError("E0193", f"'{out}' cannot be written", why=why, fix="name another file with --out") from error
    return page, len(data)
