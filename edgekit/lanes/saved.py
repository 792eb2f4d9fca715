"""A lane that has already run: the evidence file that a device wrote."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.lanes.base import Question
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.evidence import FORMAT, SCHEMA, LaneEvidence

__all__ = ["SavedLane", "open_saved", "read_document"]

_WRITE_ONE = (
    "write one: edgekit parity BUNDLE --evidence run.json, "
    "or on a device: python -m edgekit_runtime selftest BUNDLE --evidence device.json"
)


def read_document(path: Path) -> dict[str, Any]:
    """Read an evidence document and check that it is one.

    Raises:
        MissingError: No such file (E0659).
        UsageError: It is something else (E0183).
    """
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingError("E0659", f"there is no evidence file '{path}'", fix="check the path") from None
    except UnicodeDecodeError as error:
        why = "it is no text: a bundle, perhaps?"
        raise UsageError("E0183", f"'{path}' is no evidence file", why=why, fix=_WRITE_ONE) from error
    except (OSError, ValueError) as error:
        raise UsageError("E0183", f"'{path}' is no evidence file", why=str(error), fix=_WRITE_ONE) from error
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise UsageError("E0183", f"'{path}' is no evidence file", fix=_WRITE_ONE)
    if held.get("schema") != SCHEMA:
        raise UsageError(
            "E0183", f"'{path}' has schema {held.get('schema')!r}; this edgekit reads {SCHEMA}", fix=_WRITE_ONE
        )
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLane:
    """One lane of an evidence file.

    Attributes:
        name: File and lane.
        evidence: What it holds.
        bundle_sha256: Of the bundle that answered.
        rows_sha256: Of the rows.
    """

    name: str
    evidence: LaneEvidence
    bundle_sha256: str
    rows_sha256: str

    def answer(self, question: Question) -> LaneEvidence:
        """Give the answers; for the errors see ``check``."""
        self.check(question)
        return self.evidence

    def check(self, question: Question) -> None:
        """See that the answers are to this question.

        Raises:
            UsageError: Another bundle (E0184) or other rows (E0185) were answered.
        """
        if self.bundle_sha256 != question.bundle.digest:
            raise UsageError(
                "E0184",
                f"{self.name} answers for another bundle",
                why=f"sha256 {self.bundle_sha256[:12]}... answered, and this one is {question.bundle.digest[:12]}...",
                fix="run the self-test with this bundle on the device",
            )
        if self.rows_sha256 != question.rows.digest():
            raise UsageError(
                "E0185",
                f"{self.name} answers other rows",
                why="an evidence file of the goldens is compared on the goldens, one of --rows FILE on these rows",
                fix="leave --data and --rows out for goldens, else repeat those of --save-rows or give --data its file",
            )


def open_saved(path: Path) -> list[SavedLane]:
    """Give the lanes of an evidence file.

    Raises:
        MissingError: No such file.
        UsageError: It is something else, or damaged.
    """
    held = read_document(path)
    try:
        lanes = [LaneEvidence.from_json(lane) for lane in held["lanes"]]
        bundle, rows = str(held["bundle"]["sha256"]), str(held["rows"]["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("E0183", f"'{path}' is damaged", why=f"{type(error).__name__}: {error}") from error
    found = []
    for lane in lanes:
        name = f"{path.name}/{lane.lane}"
        evidence = replace(lane, lane=name)
        found.append(SavedLane(name=name, evidence=evidence, bundle_sha256=bundle, rows_sha256=rows))
    return found
