"""One model on a device behind a link, as a lane: the same commands are shown by a dry run and carried out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.lanes.base import Question
from edgekit.remote.endings import endings_raise
from edgekit.remote.payload import Payload, staged
from edgekit.remote.place import Interpreter
from edgekit.remote.session import ask_device
from edgekit.remote.steps import Link, Steps, plan_steps
from edgekit_runtime.evidence import LaneEvidence

__all__ = ["RemoteLane", "remote_lanes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLane:
    """A lane that is answered on a device.

    Attributes:
        name: As the user typed the place, with the model at its end.
        model: Key of ``edgekit.lanes.models.MODELS``; a float one that the bundle does not hold is what the build kept.
        link: To the device.
        interpreter: What runs there.
    """

    name: str
    model: str
    link: Link
    interpreter: Interpreter

    def answer(self, question: Question) -> LaneEvidence:
        """Answer the rows of a question on the device; for the errors see ``ask_device`` and ``staged``."""
        with endings_raise(), staged(question, self.model) as payload:
            steps, engine = self._steps(payload), self.interpreter.engine(self.model)
            found = ask_device(self.link, steps, payload, python=self.interpreter.python, engine=engine)
        return dataclasses.replace(found, lane=self.name)

    def plan(self, question: Question) -> list[list[str]]:
        """Give the commands that ``answer`` runs, in order, and run none; the folders' name is new each time."""
        with staged(question, self.model) as payload:
            return [command.argv for command in self._steps(payload)]

    def _steps(self, payload: Payload) -> Steps:
        engine = self.interpreter.engine(self.model)
        return plan_steps(self.link, payload, python=self.interpreter.python, engine=engine)


def remote_lanes(place: str, models: Sequence[str], link: Link, interpreter: Interpreter) -> list[RemoteLane]:
    """Give a lane for each model."""
    return [RemoteLane(name=f"{place}/{model}", model=model, link=link, interpreter=interpreter) for model in models]
