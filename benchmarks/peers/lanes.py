"""The lanes of a comparison: each model that a peer made or failed to make, and models of one's own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peers.work import Variant, model_path, read_record

__all__ = ["Lane", "extra_lanes", "peer_lanes"]

_YARDSTICKS = frozenset({"ort-fp32", "aeq-fp32", "executorch-fp32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One model file in one engine.

    Attributes:
        title: Unique per sequence length.
        engine: Key of ``peers.lane.ENGINES``.
        sequence: Tokens per row.
        model: File.
        facts: What the table says beside the figures, as pairs.
        error: Why there is no file; empty if there is one.
    """

    title: str
    engine: str
    sequence: int
    model: Path
    facts: tuple[tuple[str, object], ...] = ()
    error: str = ""

    @property
    def is_yardstick(self) -> bool:
        """Tell whether this is the float32 model that the engine's other lanes are measured by."""
        return self.title in _YARDSTICKS

    def embeddings(self, work: Path) -> Path:
        return work / f"s{self.sequence}" / f"{self.title}.npy"


def peer_lanes(work: Path, sequence: int, variants: Iterable[Variant]) -> list[Lane]:
    return [_of(work, sequence, variant) for variant in variants]


def _of(work: Path, sequence: int, variant: Variant) -> Lane:
    record = read_record(work, sequence, variant)
    facts: dict[str, object] = {
        "peer": variant.peer,
        "variant": variant.name,
        "mode": variant.mode,
        "tuned": variant.tuned,
        "how": variant.how,
        "documentation": variant.page,
    }
    if record and not record.error:
        facts |= {"quantise_cpu_s": record.cpu_s}
    return Lane(
        title=variant.title,
        engine=variant.engine,
        sequence=sequence,
        model=model_path(work, sequence, variant),
        facts=tuple(facts.items()),
        error=record.error if record else "the peer did not get to this variant",
    )


def extra_lanes(path: Path) -> list[Lane]:
    """Read lanes of one's own; without a ``mode``, it is what the name ends in.

    Raises:
        ValueError: Two have the same name and sequence, or a file is missing.
    """
    lanes = [
        Lane(
            title=f"extra-{row['name']}",
            engine=row["engine"],
            sequence=row["sequence"],
            model=Path(row["model"]),
            facts=(
                ("peer", "extra"),
                ("variant", row["name"]),
                ("mode", row.get("mode") or row["name"].rpartition("-")[2]),
                ("how", row.get("how", "")),
            ),
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
    if len({(lane.title, lane.sequence) for lane in lanes}) != len(lanes):
        raise ValueError(f"{path} names a lane twice")
    for lane in lanes:
        if not lane.model.is_file():
            raise ValueError(f"{path}: no file {lane.model}")
    return lanes
