"""Every source of a teacher becomes a module, or a clear error."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from edgekit.recipe.spec import ImageSpec, ModelSpec, SourceKind, StudentSpec, Task, TeacherSource
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.saved import load_model, save_foreign_model
from edgekit_models.teacher_modules import Teacher, build_teacher
from edgekit_models.teachers import TeacherFiles, resolve_teacher
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import EdgekitError, MissingError, UsageError

CLASSES, LENGTH = 3, 12
IMAGE = ImageSpec(height=8, width=6, channels=1)
TEXT, PICTURE = Task.TEXT_CLASSIFICATION, Task.IMAGE_CLASSIFICATION
TEXT_CONFIG = {
    "model_type": "edgekit-text-classifier",
    "vocabulary": 20,
    "hidden": 8,
    "head_size": 4,
    "layers": [{"heads": 2, "ffn": 8}],
    "max_length": LENGTH,
    "classes": CLASSES,
}
IMAGE_CONFIG = {
    "model_type": "edgekit-image-classifier",
    "height": 8,
    "width": 6,
    "channels": 1,
    "convs": [{"channels": 4, "stride": 1}],
    "classes": CLASSES,
}


def own_text(**changes) -> TextClassifier:
    sizes = {"vocabulary": 20, "hidden": 8, "head_size": 4, "max_length": LENGTH, "classes": CLASSES, **changes}
    return TextClassifier(TextConfig(layers=(LayerConfig(heads=2, ffn=8),), **sizes))


def own_image(**changes) -> ImageClassifier:
    sizes = {"height": 8, "width": 6, "channels": 1, "classes": CLASSES, **changes}
    return ImageClassifier(ImageConfig.from_widths((4,), **sizes))


def bert(cls=transformers.BertForSequenceClassification):
    torch.manual_seed(0)
    return cls(
        transformers.BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=CLASSES,
        )
    ).eval()


def spec(task: Task, kind: SourceKind, location: str, **config: object) -> ModelSpec:
    source = TeacherSource(kind=kind, location=location, config=config)
    return ModelSpec(task=task, teacher=source, student=StudentSpec(max_length=LENGTH))


def build(model: ModelSpec, folder: Path) -> Teacher:
    files = resolve_teacher(model.teacher, folder=folder, trust_code=True, offline=True)
    return build_teacher(files, model, image=IMAGE if model.task is PICTURE else None, classes=CLASSES)


def build_made(made: object, task: Task, folder: Path | None = None) -> Teacher:
    files = TeacherFiles(path=folder, factory=lambda: made, licence="", description="", digest="")
    model = spec(task, SourceKind.FACTORY, "mine:make")
    return build_teacher(files, model, image=IMAGE if task is PICTURE else None, classes=CLASSES)


def refused(code: str, call, *arguments, error: type[EdgekitError] = UsageError) -> EdgekitError:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert caught.value.code == code, str(caught.value)
    return caught.value


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    """A folder with a tokenizer; its content is only handed on here."""
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_transformers_folder(tokenizer) -> None:
    bert().save_pretrained(tokenizer)
    teacher = build(spec(TEXT, SourceKind.FOLDER, "."), tokenizer)
    assert isinstance(teacher.module, TextClassifier)
    assert (teacher.module.config.pooling, teacher.module.config.max_length) == ("first", LENGTH)
    assert teacher.tokenizer == b"{}"


@pytest.mark.parametrize("kind", [SourceKind.HUB, SourceKind.PACKAGE])
def test_hub_and_package_are_folders_by_then(tokenizer, kind) -> None:
    bert().save_pretrained(tokenizer)
    files = TeacherFiles(path=tokenizer, factory=None, licence="", description="", digest="")
    teacher = build_teacher(files, spec(TEXT, kind, "someone/bert"), image=None, classes=CLASSES)
    assert isinstance(teacher.module, TextClassifier)
    assert teacher.tokenizer == b"{}"
    (tokenizer / "tokenizer.json").unlink()
    missing = refused(
        "E0640",
        lambda: build_teacher(files, spec(TEXT, kind, "someone/bert"), image=None, classes=CLASSES),
        error=MissingError,
    )
    assert "save_pretrained" in missing.fix


def test_text_weights(tokenizer) -> None:
    model = own_text()
    save_file(dict(model.state_dict()), tokenizer / "w.safetensors")
    teacher = build(spec(TEXT, SourceKind.WEIGHTS, "w.safetensors", **TEXT_CONFIG), tokenizer)
    torch.testing.assert_close(teacher.module.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert teacher.tokenizer == b"{}"
    (tokenizer / "tokenizer.json").unlink()
    refused(
        "E0640", build, spec(TEXT, SourceKind.WEIGHTS, "w.safetensors", **TEXT_CONFIG), tokenizer, error=MissingError
    )


def test_image_weights(tmp_path) -> None:
    model = ImageClassifier(ImageConfig.from_widths((4,), height=8, width=6, channels=1, classes=CLASSES))
    config = {**IMAGE_CONFIG, "convs": [{"channels": 4, "stride": 1}] * 2}
    save_file(dict(model.state_dict()), tmp_path / "w.safetensors")
    teacher = build(spec(PICTURE, SourceKind.WEIGHTS, "w.safetensors", **config), tmp_path)
    torch.testing.assert_close(teacher.module.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert teacher.tokenizer is None


@pytest.mark.parametrize(
    ("task", "config", "model", "code"),
    [
        (TEXT, IMAGE_CONFIG, own_image, "E0271"),
        (PICTURE, TEXT_CONFIG, own_text, "E0271"),
        (TEXT, {**TEXT_CONFIG, "classes": 2}, lambda: own_text(classes=2), "E0277"),
        (TEXT, {**TEXT_CONFIG, "max_length": 9}, lambda: own_text(max_length=9), "E0272"),
        (
            PICTURE,
            {**IMAGE_CONFIG, "classes": 2, "convs": [{"channels": 4, "stride": 1}] * 2},
            lambda: own_image(classes=2),
            "E0277",
        ),
        (
            PICTURE,
            {**IMAGE_CONFIG, "height": 6, "convs": [{"channels": 4, "stride": 1}] * 2},
            lambda: own_image(height=6),
            "E0278",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tokenizer, task, config, model, code) -> None:
    save_file(dict(model().state_dict()), tokenizer / "w.safetensors")
    refused(code, build, spec(task, SourceKind.WEIGHTS, "w.safetensors", **config), tokenizer)


def test_own_architecture_takes_its_size_from_the_recipe(tmp_path) -> None:
    module = build(spec(PICTURE, SourceKind.ARCHITECTURE, "cnn", widths=(8, 16)), tmp_path).module
    assert isinstance(module, ImageClassifier)
    assert [conv.channels for conv in module.config.convs] == [8, 8, 16, 16]
    assert (module.config.height, module.config.width, module.config.classes) == (8, 6, CLASSES)
    for widths in (None, [], [8, 0], [8.0], "8", 8):
        refused("E0276", build, spec(PICTURE, SourceKind.ARCHITECTURE, "cnn", widths=widths), tmp_path)


def test_sources_of_the_other_task_are_refused(tokenizer) -> None:
    refused("E0273", build, spec(PICTURE, SourceKind.ARCHITECTURE, "transformer"), tokenizer)
    refused("E0273", build, spec(TEXT, SourceKind.ARCHITECTURE, "cnn", widths=[8]), tokenizer)
    bert().save_pretrained(tokenizer)
    refused("E0273", build, spec(PICTURE, SourceKind.FOLDER, "."), tokenizer)


@torch.no_grad()
def test_factory_may_return_a_transformers_model(tokenizer) -> None:
    made = bert()
    teacher = build_made(made, TEXT, tokenizer)
    ids = torch.randint(1, 30, (2, LENGTH))
    mask = torch.ones_like(ids)
    assert isinstance(teacher.module, TextClassifier)
    torch.testing.assert_close(teacher.module(ids, mask), made(ids, mask).logits, rtol=0, atol=1e-5)
    headless = build_made(bert(transformers.BertModel), TEXT, tokenizer).module
    assert headless.config.pooling == "mean"


def test_factory_may_return_our_own_text_module(tokenizer) -> None:
    made = own_text().train()
    teacher = build_made(made, TEXT, tokenizer)
    assert teacher.module is made
    assert not made.training
    refused("E0277", build_made, own_text(classes=5), TEXT, tokenizer)
    refused("E0272", build_made, own_text(max_length=9), TEXT, tokenizer)


def test_text_factory_names_its_tokenizer(tokenizer) -> None:
    assert "tokenizer" in refused("E0274", build_made, own_text(), TEXT, None).fix
    for made in (nn.Linear(2, 2), "a string", None):
        refused("E0275", build_made, made, TEXT, tokenizer)


def test_tokenizer_of_a_factory_is_found_from_the_recipe_and_is_part_of_the_digest(tmp_path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    source = TeacherSource(kind=SourceKind.FACTORY, location="math:sqrt", config={"tokenizer": "words"})
    files = resolve_teacher(source, folder=tmp_path, trust_code=True, offline=True)
    assert files.path == tmp_path / "words"
    (tmp_path / "words" / "tokenizer.json").write_text("[]")
    assert resolve_teacher(source, folder=tmp_path, trust_code=True, offline=True).digest != files.digest


def test_tokenizer_beside_weights_is_part_of_their_digest(tokenizer) -> None:
    save_file(dict(own_text().state_dict()), tokenizer / "w.safetensors")
    source = spec(TEXT, SourceKind.WEIGHTS, "w.safetensors", **TEXT_CONFIG).teacher
    before = resolve_teacher(source, folder=tokenizer, trust_code=False, offline=True).digest
    (tokenizer / "tokenizer.json").write_text("[]")
    assert resolve_teacher(source, folder=tokenizer, trust_code=False, offline=True).digest != before


class Foreign(nn.Module):
    def __init__(self, answer: int = CLASSES) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(48), nn.Linear(48, answer)

    def forward(self, x):
        return self.out(self.norm(x.flatten(1)))


@torch.no_grad()
def test_factory_may_return_any_image_module(tmp_path) -> None:
    made = Foreign()
    before = made.norm.running_mean.clone()
    teacher = build_made(made, PICTURE)
    assert teacher.module is made
    torch.testing.assert_close(made.norm.running_mean, before)  # the trial run leaves no trace
    save_foreign_model(made, (torch.zeros(2, 1, 8, 6),), tmp_path)
    images = torch.randn(5, 1, 8, 6)
    torch.testing.assert_close(load_model(tmp_path)(images), made(images), rtol=0, atol=1e-6)


class Unpooled(nn.Module):
    def forward(self, x):
        return x


class Named(nn.Module):
    def forward(self, x):
        return {"logits": x}


@pytest.mark.parametrize(
    ("made", "code"),
    [
        ("a string", "E0275"),
        (Foreign, "E0275"),
        (Foreign(answer=4), "E0277"),
        (nn.Linear(7, CLASSES), "E0279"),
        (Unpooled(), "E0280"),
        (Named(), "E0280"),
        (own_image(height=6), "E0278"),
        (own_image(classes=4), "E0277"),
    ],
)
def test_image_factory_that_does_not_fit_is_refused_at_once(made, code) -> None:
    refused(code, build_made, made, PICTURE)
