"""Networks, rows and build folders that take milliseconds."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.pipeline import Artifact, Kind
from edgekit.recipe.spec import ImageSpec, ModelSpec, QuantizeSpec, SourceKind, StudentSpec, Task, TeacherSource
from edgekit_converters.export.contract import contract_of, exportable
from edgekit_converters.quantize.graph import Graph, trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import layer_mode
from edgekit_converters.quantize.planner import Planned, Planner
from edgekit_models.data.dataset import Dataset, Rows, save_dataset
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.preprocess import image_preprocess, text_preprocess, write_preprocess
from edgekit_models.saved import save_model
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig

LENGTH, CLASSES = 12, 3
OPSET = 20
WORDS = (
    *("good", "bad", "dull", "warm", "film", "plot", "scene", "actor"),
    *("lost", "found", "cold", "loud", "soft", "slow", "fast", "real"),
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
IMAGE = ImageSpec(height=8, width=6, channels=1)


def text_classifier(*, seed: int = 0, scale: float = 0.3, **changes) -> TextClassifier:
    """Two layers of unlike size, a dense head, and weights that are all large enough to count."""
    torch.manual_seed(seed)
    sizes = {"hidden": 32, "head_size": 8, "layers": (LayerConfig(heads=4, ffn=48), LayerConfig(heads=2, ffn=40))}
    sizes |= {"vocabulary": len(VOCABULARY), "max_length": LENGTH, "classes": CLASSES, "head": "tanh"}
    model = TextClassifier(TextConfig(**{**sizes, **changes})).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=scale)
    return model


def image_classifier(*, seed: int = 0, widths: tuple[int, ...] = (8, 16), **changes) -> ImageClassifier:
    """Two convolutions per width, with batch norms that have seen something."""
    torch.manual_seed(seed)
    sizes = {"height": IMAGE.height, "width": IMAGE.width, "channels": IMAGE.channels, "classes": CLASSES, **changes}
    model = ImageClassifier(ImageConfig.from_widths(widths, **sizes)).eval()
    for block in model.blocks:
        nn.init.uniform_(block.norm.weight, 0.7, 1.3)
        nn.init.normal_(block.norm.bias, std=0.3)
        nn.init.normal_(block.norm.running_mean, std=0.1)
        nn.init.uniform_(block.norm.running_var, 0.5, 1.5)
    return model


def text_feeds(count: int, *, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Rows of 2 to LENGTH tokens in the form of the model contract."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(2, LENGTH + 1))
        ids, mask = np.zeros((1, LENGTH), np.int32), np.zeros((1, LENGTH), np.int32)
        ids[0, :length] = rng.integers(1, len(VOCABULARY), length)
        mask[0, :length] = 1
        rows.append({"input_ids": ids, "attention_mask": mask})
    return rows


def image_feeds(count: int, *, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shape = (1, IMAGE.height, IMAGE.width, IMAGE.channels)
    return [{"image": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


@torch.no_grad()
def torch_logits(model: nn.Module, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """What PyTorch gives for feeds of the model contract."""
    rows = []
    for row in feeds:
        if "image" in row:
            rows.append(model(torch.from_numpy(row["image"]).permute(0, 3, 1, 2)))
        else:
            rows.append(model(torch.from_numpy(row["input_ids"]), torch.from_numpy(row["attention_mask"])))
    return torch.cat(rows).numpy()


def tokenizer_json() -> bytes:
    ids = {token: place for place, token in enumerate(VOCABULARY)}
    rules = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    model = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids}
    return json.dumps(
        {
            "normalizer": {"type": "BertNormalizer", **rules},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
            "model": {"type": "WordPiece", **model},
        }
    ).encode()


def text_rows(count: int, *, seed: int = 0) -> Rows:
    """Sentences; the class is told by the first word."""
    rng = np.random.default_rng(seed)
    texts, targets = [], []
    for i in range(count):
        rest = rng.choice(WORDS[CLASSES:], int(rng.integers(1, 9)))
        texts.append(" ".join([WORDS[i % CLASSES], *rest]))
        targets.append(i % CLASSES)
    return Rows(inputs=tuple(texts), targets=np.array(targets, np.int64))


def image_rows(count: int, *, seed: int = 0) -> Rows:
    """Noise with a bright stripe; the class is told by its place."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count, dtype=np.int64) % CLASSES
    images = rng.integers(0, 60, (count, IMAGE.height, IMAGE.width, 1)).astype(np.uint8)
    for image, target in zip(images, targets, strict=True):
        image[:, 2 * target : 2 * target + 2] += 180
    return Rows(inputs=images, targets=targets)


def dataset(task: Task, *, train: int = 24, evaluation: int = 9) -> Dataset:
    make = text_rows if task is Task.TEXT_CLASSIFICATION else image_rows
    return Dataset(task=task, labels=("a", "b", "c"), train=make(train, seed=1), evaluation=make(evaluation, seed=2))


def artifact(kind: Kind, folder: Path) -> Artifact:
    return Artifact(kind=kind, path=folder, digest="")


def data_artifact(task: Task, folder: Path) -> dict[Kind, Artifact]:
    save_dataset(dataset(task), folder)
    return {Kind.DATA: artifact(Kind.DATA, folder)}


def write_teacher(folder: Path, *, task: Task) -> Path:
    """A teacher's folder as the adapt stage leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    if task is Task.TEXT_CLASSIFICATION:
        write_preprocess(text_preprocess(LENGTH), folder, tokenizer=tokenizer_json())
        save_model(text_classifier(), folder)
    else:
        write_preprocess(image_preprocess(IMAGE), folder)
        save_model(image_classifier(), folder)
    return folder


def student_artifacts(task: Task, folder: Path) -> dict[Kind, Artifact]:
    """Rows, teacher and student as the stages before quantisation leave them."""
    artifacts = data_artifact(task, folder / "data")
    for kind in (Kind.TEACHER, Kind.STUDENT_PRUNED):
        artifacts[kind] = artifact(kind, write_teacher(folder / kind.value, task=task))
    return artifacts


def model_spec(task: Task, kind: SourceKind, location: str, **config: object) -> ModelSpec:
    source = TeacherSource(kind=kind, location=location, config=config)
    widths = (4,) if task is Task.IMAGE_CLASSIFICATION else ()
    return ModelSpec(task=task, teacher=source, student=StudentSpec(max_length=LENGTH, widths=widths))


def traced(model: nn.Module) -> Graph:
    longest = LENGTH if isinstance(model, TextClassifier) else 0
    return trace(exportable(model), contract_of(model.config).example(), longest=longest)


def planned(model: nn.Module, feeds: list[dict[str, np.ndarray]], how: QuantizeSpec) -> tuple[Graph, Planned]:
    """Plan as the stage does; give the rewritten graph and the plan."""
    text = isinstance(model, TextClassifier)
    task = Task.TEXT_CLASSIFICATION if text else Task.IMAGE_CLASSIFICATION
    graph = traced(model)
    planner = Planner(mode=layer_mode(task, how), whole_network=not text, techniques=how.techniques)
    made = planner.make(graph, as_rows(graph, feeds, trim=text))
    return made.graph, made
