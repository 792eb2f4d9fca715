"""The gates of a recipe, judged at the end of its build as every later comparison will judge them."""

from edgekit.parity.agreement import Fault
from edgekit.parity.compare import Asked, compare
from edgekit.parity.gates import GATES, make_gate
from edgekit.parity.verdict import judge
from edgekit.pipeline import Artifacts, Kind
from edgekit.recipe.spec import Recipe
from edgekit.stages import read_logits
from edgekit_models.data.dataset import read_dataset

__all__ = ["gate_faults"]


def gate_faults(recipe: Recipe, artifacts: Artifacts) -> list[Fault]:
    """Give the recipe's gates that a lane of the build misses on the evaluation rows.

    Raises:
        UsageError: A gate bounds what such answers do not have (E0167).
    """
    gates = [make_gate(name, written) for name, written in recipe.parity.gates.items()]
    if not gates:
        return []
    data = read_dataset(artifacts[Kind.DATA].path)
    asked = Asked(task=recipe.model.task.value, targets=data.evaluation.targets, names=data.labels)
    verdict = judge(compare(read_logits(artifacts), asked, reference="torch"), gates)
    return [
        Fault(lane=each.lane, metric=GATES[each.gate].meaning, measured=str(each.measure), limit=str(each.limit))
        for each in verdict.failed
        if each.gate in recipe.parity.gates
    ]
