"""What a bundle of each task must hold: its preprocessing, the tensors of its models, and its labels."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import Manifest, ModelEntry, TaskName
from edgekit_runtime.preprocess.image import ImagePreprocess
from edgekit_runtime.preprocess.text import TextPreprocess

__all__ = ["CLASSIFIERS", "TEXT_TASKS", "check_contract"]

CLASSIFIERS: Final[frozenset[TaskName]] = frozenset({"text-classification", "image-classification"})
TEXT_TASKS: Final[frozenset[TaskName]] = frozenset({"text-classification", "text-embedding"})

# Kind of preprocessing, and the output that answers; a bundle of tensors has neither.
_PARTS: Final[Mapping[TaskName, tuple[type[TextPreprocess | ImagePreprocess], str]]] = MappingProxyType(
    {
        "text-classification": (TextPreprocess, "logits"),
        "image-classification": (ImagePreprocess, "logits"),
        "text-embedding": (TextPreprocess, "vector"),
    }
)


def check_contract(
    manifest: Manifest, entry: ModelEntry, preprocess: TextPreprocess | ImagePreprocess | None, classes: int
) -> None:
    """Refuse a bundle whose parts cannot work together before the first input comes.

    Args:
        manifest: Of the bundle.
        entry: The model that is to run.
        preprocess: From ``preprocess.json``; None for ``tensors``.
        classes: Number of labels; 0 unless the task classifies.

    Raises:
        BundleError: They do not fit together (E0517).
    """
    if manifest.task == "tensors":
        return
    kind, answer = _PARTS[manifest.task]
    wanted: dict[str, tuple[str, tuple[int, ...]]]
    if isinstance(preprocess, TextPreprocess):
        row = ("int32", (1, preprocess.max_length))
        wanted = {"input_ids": row, "attention_mask": row}
    else:
        assert preprocess is not None
        wanted = {"image": ("float32", (1, preprocess.height, preprocess.width, preprocess.channels))}
    found = {spec.name: (spec.dtype, spec.shape) for spec in entry.inputs}
    answers = {spec.name: (spec.dtype, spec.shape) for spec in entry.outputs}
    dtype, shape = answers.get(answer, ("none", ()))
    width = (1, classes) if classes else (1, *shape[1:2])  # a vector may have any width
    if not isinstance(preprocess, kind) or found != wanted or (dtype, shape) != ("float32", width):
        raise BundleError(
            "E0517",
            "the parts of the bundle do not fit together",
            why=f"{manifest.task}: preprocessing gives {wanted}, the model takes {found} and gives {answers}, "
            f"and there are {classes} labels",
            fix="build the bundle again",
        )
