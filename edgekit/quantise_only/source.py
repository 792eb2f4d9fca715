"""The model that is to be quantised as it is, from a transformers folder or a file of another framework."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from edgekit.quantise_only.rows import row_shapes
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.ready.load import load_ready, model_kind
from edgekit_converters.ready.model import ReadyModel, ReadyOnnx
from edgekit_models.preprocess import PREPROCESS, TOKENIZER, text_preprocess
from edgekit_models.sentence_folder import read_sentence_folder
from edgekit_runtime.errors import ConversionError, MissingError, UsageError
from edgekit_runtime.manifest import TaskName, TensorSpec
from edgekit_runtime.preprocess.text import TextPreprocess

__all__ = ["Source", "open_source"]

_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "modules.json", TOKENIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A float model in PyTorch and what belongs to it.

    Attributes:
        module: In evaluation mode; takes its inputs by position in the order of the contract.
        contract: Names, types and fixed shapes of inputs and outputs.
        longest: Above 2, dimension 1 of every input counts tokens and may be shorter; 0 = fixed shapes.
        task: What a bundle of it answers.
        description: One line for reports and provenance.
        digest: sha256 (hex) of the source's content.
        members: Files of the bundle that come with the model: preprocessing, tokenizer, labels.
    """

    module: nn.Module
    contract: ModelContract
    longest: int
    task: TaskName
    description: str
    digest: str
    members: Mapping[str, bytes] = field(default_factory=dict)

    def preprocess(self) -> TextPreprocess | None:
        """Open the preprocessing that runs on the device; None where the model takes bare tensors."""
        if TOKENIZER not in self.members:
            return None
        length = json.loads(self.members[PREPROCESS])["max_length"]
        return TextPreprocess(self.members[TOKENIZER], max_length=length)


def open_source(path: Path, *, max_length: int, work: Path, rows: Path) -> Source:
    """Open a model.

    Args:
        path: A folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``, or what ``load_ready`` takes.
        max_length: Tokens a text, for a folder.
        work: Scratch folder.
        rows: To calibrate on; the shapes of an ``.npz`` stand for dimensions that the model leaves open.

    Raises:
        MissingError: It is not there.
        ConversionError: It cannot be read.
        UsageError: It is a recipe (E0142), or has no PyTorch form that a plan can be made for (E0146).
    """
    if not path.exists():
        raise MissingError("E0614", f"there is no model '{path}'", fix="check the path")
    if path.suffix in (".yaml", ".yml"):
        fix = "leave --quantize-only out, or give a model folder or file"
        raise UsageError("E0142", f"'{path.name}' is a recipe, not a model", fix=fix)
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        return _text_source(path, max_length)
    if model_kind(path) in ("keras", "tflite", "saved model"):  # before TensorFlow is asked for
        raise _no_plan(
            path, call="tflite_only.quantize_ready_tflite", why="it holds operators of TensorFlow, not of PyTorch"
        )
    try:
        found = load_ready(path, work=work)
    except ConversionError as error:
        if error.code != "E0786" or rows.suffix != ".npz" or not rows.is_file():
            raise
        found = load_ready(path, work=work, shape=row_shapes(rows))
    if not isinstance(found, ReadyModel):
        assert isinstance(found, ReadyOnnx)
        raise _no_plan(path, call="onnx_only.quantize_ready_onnx", why=found.why_no_tflite)
    return Source(
        module=found.module,
        contract=found.contract,
        longest=found.dynamic_length,
        task="tensors",
        description=found.description,
        digest=found.digest,
    )


def _no_plan(path: Path, *, call: str, why: str) -> UsageError:
    return UsageError(
        "E0146",
        f"'{path.name}' has no PyTorch form that a plan can be made for",
        why=why,
        fix=f"quantise it without a plan from Python: edgekit_converters.ready.{call}, see docs/import.md; "
        "or export it from PyTorch as .pt2",
    )


def _text_source(folder: Path, max_length: int) -> Source:
    read = read_sentence_folder(folder, max_length=max_length)
    tokens = tuple(
        TensorSpec(name=name, tensor=name, dtype="int32", shape=(1, max_length))
        for name in ("input_ids", "attention_mask")
    )
    name = "logits" if read.labels else "vector"
    answer = TensorSpec(name=name, tensor=name, dtype="float32", shape=(1, read.width))
    members = {
        PREPROCESS: (json.dumps(text_preprocess(max_length), sort_keys=True, indent=1) + "\n").encode(),
        TOKENIZER: (folder / TOKENIZER).read_bytes(),
    }
    if read.labels:
        members["labels.json"] = json.dumps(list(read.labels), ensure_ascii=False).encode()
    return Source(
        module=read.module.eval(),
        contract=ModelContract(inputs=tokens, outputs=(answer,)),
        longest=max_length,
        task="text-classification" if read.labels else "text-embedding",
        description=f"folder {folder.name}, {read.description}",
        digest=_folder_digest(folder),
        members=members,
    )


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    pooling = [path.relative_to(folder).as_posix() for path in folder.glob("*/config.json")]
    shards = [path.name for path in folder.glob("model-*.safetensors")]
    for name in sorted({*_FILES, *pooling, *shards}):
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                digest.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
