"""What every lane is asked, and what it must be able to do: answer raw rows and hand back evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.bundle import Bundle
from edgekit_runtime.evidence import LaneEvidence
from edgekit_runtime.model import open_preprocess
from edgekit_runtime.rows import IMAGES, RawRows

__all__ = ["Checks", "Feeds", "ParityLane", "PlansCommands", "Question"]

Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What all lanes of a comparison answer.

    Attributes:
        path: The ``.edge`` file.
        bundle: The same, verified.
        rows: Inputs before preprocessing.
    """

    path: Path
    bundle: Bundle
    rows: RawRows

    @cached_property
    def feeds(self) -> Sequence[Feeds]:
        """The tensors of the model contract, one mapping a row, for lanes that have no preprocessing of their own."""
        if self.bundle.manifest.task == "tensors":
            arrays = self.rows.arrays
            return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(self.rows))]
        preprocess = open_preprocess(self.bundle)
        raw = self.rows.texts or tuple(self.rows.arrays[IMAGES])
        return [preprocess(row) for row in raw]


class ParityLane(Protocol):
    """One model in one place."""

    @property
    def name(self) -> str:
        """As the user typed it, with the model at its end where a place runs several: ``arm:cortex-a72/onnx-int8``."""
        ...

    def answer(self, question: Question) -> LaneEvidence:
        """Answer every row; the evidence carries this lane's name.

        Raises:
            MissingError: Something that the lane needs is not here.
            DeviceError: The device could not be reached, or died.
            BundleError: The engine refused the model.
        """
        ...


@runtime_checkable
class Checks(Protocol):
    """A lane that can say at once whether it could answer at all, so that no other lane works in vain."""

    def check(self, question: Question) -> None:
        """Raise what ``answer`` would."""
        ...


@runtime_checkable
class PlansCommands(Protocol):
    """A lane that runs other programs, and can say which."""

    def plan(self, question: Question) -> list[list[str]]:
        """Give each command that ``answer`` would run, in order; nothing is run."""
        ...
