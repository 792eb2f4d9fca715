"""The stages that train: adapt, record, distil, prune, from folder to folder on tiny rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
import torch
from torch import nn

from edgekit.pipeline import Artifact, Kind, check_order
from edgekit.recipe.spec import AdaptSpec, DistillSpec, PruneSpec, SourceKind, StudentSpec, Task
from edgekit_converters.adapt.stage import AdaptTeacher
from edgekit_converters.distill.stage import DistilStudent
from edgekit_converters.distill.teacher_outputs import RecordTeacher
from edgekit_converters.prune.stage import PruneStudent
from edgekit_converters.rows import training_rows
from edgekit_converters.training import predict
from edgekit_models.data.dataset import read_dataset
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.saved import load_model, save_model
from edgekit_models.teachers import TeacherFiles
from edgekit_models.text_classifier import TextClassifier
from edgekit_runtime.errors import QualityError, UsageError

TEXT, IMAGE = Task.TEXT_CLASSIFICATION, Task.IMAGE_CLASSIFICATION
Artifacts = dict[Kind, Artifact]


def run(stage, artifacts: Artifacts, folder: Path) -> str:
    """Run a stage into a new folder and add what it gives."""
    into = folder / f"{stage.gives.value}-{len(list(folder.iterdir()))}"
    into.mkdir()
    note = stage.run(artifacts, into)
    artifacts[stage.gives] = tiny_networks.artifact(stage.gives, into)
    return note


def adapt(task: Task, folder: Path, made: nn.Module, *, how: AdaptSpec, seed: int = 0) -> AdaptTeacher:
    (folder / "tokenizer.json").write_bytes(tiny_networks.tokenizer_json())
    files = TeacherFiles(
        path=folder if task is TEXT else None, factory=lambda: made, licence="", description="", digest="x"
    )
    model = tiny_networks.model_spec(task, SourceKind.FACTORY, "mine:make")
    image = tiny_networks.IMAGE if task is IMAGE else None
    return AdaptTeacher(files=files, model=model, image=image, how=how, precision="float32", seed=seed)


def taught(task: Task, folder: Path) -> Artifacts:
    """Data, a teacher and its recorded answers."""
    artifacts = tiny_networks.data_artifact(task, folder / "data")
    artifacts[Kind.TEACHER] = tiny_networks.artifact(
        Kind.TEACHER, tiny_networks.write_teacher(folder / "teacher", task=task)
    )
    run(RecordTeacher(precision="float32"), artifacts, folder)
    return artifacts


def own_model(artifacts: Artifacts, kind: Kind) -> TextClassifier | ImageClassifier:
    return load_model(artifacts[kind].path)


def distil(student: StudentSpec | None = None, **how) -> DistilStudent:
    spec = DistillSpec(**{"epochs": 1, "batch_size": 8, **how})
    return DistilStudent(student=student or StudentSpec(), how=spec, precision="float32", seed=3)


def prune(student: StudentSpec | None = None, **how) -> PruneStudent:
    return PruneStudent(
        student=student or StudentSpec(),
        how=PruneSpec(**how),
        distill=DistillSpec(batch_size=8, ce_weight=0.0, learning_rate=2e-3),
        precision="float32",
        seed=3,
    )


def test_teaching_stages_fit_each_other() -> None:
    class Data:
        takes, gives = (), Kind.DATA

    how = AdaptSpec()
    check_order([Data(), adapt_stage(how), RecordTeacher(precision="float32"), distil(), prune()])


def adapt_stage(how: AdaptSpec) -> AdaptTeacher:
    files = TeacherFiles(path=None, factory=None, licence="", description="", digest="x")
    model = tiny_networks.model_spec(IMAGE, SourceKind.ARCHITECTURE, "cnn", widths=[8])
    return AdaptTeacher(files=files, model=model, image=tiny_networks.IMAGE, how=how, precision="float32", seed=0)


@pytest.mark.parametrize("task", [TEXT, IMAGE])
def test_adapting_learns_and_writes_a_whole_teacher(tmp_path, task) -> None:
    artifacts = tiny_networks.data_artifact(task, tmp_path / "data")
    made = tiny_networks.text_classifier() if task is TEXT else tiny_networks.image_classifier()
    note = run(
        adapt(task, tmp_path, made, how=AdaptSpec(epochs=25, batch_size=8, learning_rate=3e-3)), artifacts, tmp_path
    )
    assert "fine-tuned for 25 epochs on 24 rows in float32" in note
    folder = artifacts[Kind.TEACHER].path
    names = {"config.json", "model.safetensors", "preprocess.json"} | ({"tokenizer.json"} if task is TEXT else set())
    assert {path.name for path in folder.iterdir()} == names
    data = read_dataset(artifacts[Kind.DATA].path)
    answers = predict(load_model(folder), training_rows(data.train.inputs, folder)).argmax(1)
    assert (answers == data.train.targets).mean() > 0.9


def test_frozen_layers_and_embeddings_stay(tmp_path) -> None:
    made = tiny_networks.text_classifier()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    artifacts = tiny_networks.data_artifact(TEXT, tmp_path / "data")
    note = run(adapt(TEXT, tmp_path, made, how=AdaptSpec(epochs=1, batch_size=8, frozen_layers=1)), artifacts, tmp_path)
    assert "embeddings and 1 of 2 layers kept" in note
    for name, value in load_model(artifacts[Kind.TEACHER].path).state_dict().items():
        frozen = name.startswith(("words.", "positions", "embedding_norm.", "layers.0."))
        assert torch.equal(value, before[name]) is frozen, name
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_no_epochs_take_the_teacher_as_it_is(tmp_path) -> None:
    made = tiny_networks.image_classifier()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    artifacts = tiny_networks.data_artifact(IMAGE, tmp_path / "data")
    assert "as it is" in run(adapt(IMAGE, tmp_path, made, how=AdaptSpec(epochs=0)), artifacts, tmp_path)
    after = load_model(artifacts[Kind.TEACHER].path).state_dict()
    torch.testing.assert_close(dict(after), before, rtol=0, atol=0)


def test_answers_of_the_teacher_are_recorded_in_order(tmp_path) -> None:
    artifacts = taught(TEXT, tmp_path)
    data = read_dataset(artifacts[Kind.DATA].path)
    teacher = load_model(artifacts[Kind.TEACHER].path)
    rows = training_rows(data.train.inputs, artifacts[Kind.TEACHER].path)
    logits = np.load(artifacts[Kind.TEACHER_OUTPUTS].path / "train.npy")
    with torch.no_grad():
        expected = [teacher(*rows.batch(np.array([i])).inputs)[0].numpy() for i in range(len(rows))]
    np.testing.assert_allclose(logits, np.stack(expected), atol=1e-5)
    assert np.load(artifacts[Kind.TEACHER_OUTPUTS].path / "eval.npy").shape == (9, 3)


def test_teacher_that_gives_nan_is_refused(tmp_path) -> None:
    artifacts = taught(IMAGE, tmp_path)
    broken = tiny_networks.image_classifier()
    broken.classifier.bias.data[1] = torch.nan
    save_model(broken, artifacts[Kind.TEACHER].path)
    with pytest.raises(QualityError) as caught:
        run(RecordTeacher(precision="float32"), artifacts, tmp_path)
    assert caught.value.code == "E0310"


def test_student_starts_from_chosen_layers_and_channels(tmp_path) -> None:
    artifacts = taught(TEXT, tmp_path)
    spec = StudentSpec(layers=(1,), hidden=16)
    note = run(distil(spec, epochs=0), artifacts, tmp_path)
    assert "as initialised" in note
    teacher, student = own_model(artifacts, Kind.TEACHER), own_model(artifacts, Kind.STUDENT)
    assert student.config == replace(teacher.config, hidden=16, layers=teacher.config.layers[1:])
    data = read_dataset(artifacts[Kind.DATA].path)
    rows = training_rows(data.train.inputs, artifacts[Kind.TEACHER].path)
    ids, mask = rows.batch(np.arange(len(rows))).inputs
    with torch.no_grad():
        size = sum(state[mask == 1].abs().mean(0) for state in teacher.hidden_states(ids, mask))
    keep = size.topk(16).indices.sort().values
    torch.testing.assert_close(student.words.weight, teacher.words.weight[:, keep])


def distance(artifacts: Artifacts, kind: Kind) -> float:
    """Mean squared difference of the teacher's answers and a student's on the training rows."""
    data = read_dataset(artifacts[Kind.DATA].path)
    rows = training_rows(data.train.inputs, artifacts[Kind.TEACHER].path)
    wanted = np.load(artifacts[Kind.TEACHER_OUTPUTS].path / "train.npy")
    return float(np.square(predict(own_model(artifacts, kind), rows) - wanted).mean())


@pytest.mark.parametrize("hidden_weight", [0.0, 1.0])
def test_distilling_brings_the_student_to_its_teacher(tmp_path, hidden_weight) -> None:
    artifacts = taught(TEXT, tmp_path)
    spec = StudentSpec(layers=(0,), hidden=24)
    run(distil(spec, epochs=0), artifacts, tmp_path)
    before = distance(artifacts, Kind.STUDENT)
    run(distil(spec, epochs=40, learning_rate=3e-3, ce_weight=0.0, hidden_weight=hidden_weight), artifacts, tmp_path)
    assert distance(artifacts, Kind.STUDENT) < 0.2 * before


def test_image_student_of_own_widths(tmp_path) -> None:
    artifacts = taught(IMAGE, tmp_path)
    run(distil(StudentSpec(widths=(4, 8)), epochs=1), artifacts, tmp_path)
    student = own_model(artifacts, Kind.STUDENT)
    assert [conv.channels for conv in student.config.convs] == [4, 4, 8, 8]
    assert (student.config.height, student.config.width, student.config.classes) == (8, 6, 3)
    run(distil(epochs=0), artifacts, tmp_path)
    assert own_model(artifacts, Kind.STUDENT).config == own_model(artifacts, Kind.TEACHER).config


def test_foreign_teacher_without_a_student_size_is_refused_before_it_trains(tmp_path) -> None:
    artifacts = tiny_networks.data_artifact(IMAGE, tmp_path / "data")
    stage = adapt(IMAGE, tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), how=AdaptSpec(epochs=1e6))
    with pytest.raises(UsageError) as caught:
        run(replace(stage, model=replace(stage.model, student=StudentSpec())), artifacts, tmp_path)
    assert caught.value.code == "E0131"


def test_foreign_teacher_teaches_a_student(tmp_path) -> None:
    artifacts = tiny_networks.data_artifact(IMAGE, tmp_path / "data")
    foreign = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.1), nn.Linear(48, 3))
    run(adapt(IMAGE, tmp_path, foreign, how=AdaptSpec(epochs=2, batch_size=8)), artifacts, tmp_path)
    assert (artifacts[Kind.TEACHER].path / "model.pt2").is_file()
    run(RecordTeacher(precision="float32"), artifacts, tmp_path)
    run(distil(StudentSpec(widths=(4,)), epochs=1), artifacts, tmp_path)
    assert isinstance(own_model(artifacts, Kind.STUDENT), ImageClassifier)
    with pytest.raises(UsageError) as caught:
        run(distil(), artifacts, tmp_path)
    assert caught.value.code == "E0131"


def test_student_wider_than_its_teacher_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        run(distil(StudentSpec(hidden=40)), taught(TEXT, tmp_path), tmp_path)
    assert caught.value.code == "E0132"


@pytest.mark.parametrize("task", [TEXT, IMAGE])
def test_pruning_gives_a_smaller_student_that_recovers(tmp_path, task) -> None:
    artifacts = taught(task, tmp_path)
    run(distil(epochs=0) if task is TEXT else distil(epochs=30, learning_rate=5e-3), artifacts, tmp_path)
    sizes = {"heads": 1, "ffn": 16} if task is TEXT else {"channels": 0.5}
    run(prune(**sizes, recover_epochs=0), artifacts, tmp_path)
    before = distance(artifacts, Kind.STUDENT_PRUNED)
    note = run(prune(**sizes, recover_epochs=30), artifacts, tmp_path)
    assert "recovered for 30 epochs" in note
    assert distance(artifacts, Kind.STUDENT_PRUNED) < before
    config = own_model(artifacts, Kind.STUDENT_PRUNED).config
    if task is TEXT:
        assert [(layer.heads, layer.ffn) for layer in config.layers] == [(1, 16), (1, 16)]
    else:
        assert [conv.channels for conv in config.convs] == [8, 8, 8, 8]


def test_nothing_to_prune_says_so_and_keeps_the_student(tmp_path) -> None:
    artifacts = taught(IMAGE, tmp_path)
    run(distil(epochs=0), artifacts, tmp_path)
    assert "nothing to prune" in run(prune(heads=2, ffn=8, recover_epochs=3), artifacts, tmp_path)
    first, second = (artifacts[kind].path / "model.safetensors" for kind in (Kind.STUDENT, Kind.STUDENT_PRUNED))
    assert first.read_bytes() == second.read_bytes()


def test_results_do_not_hang_on_what_ran_before(tmp_path) -> None:
    """A resumed build starts a stage in a fresh process; a whole one does not."""
    artifacts = taught(TEXT, tmp_path)
    spec = StudentSpec(layers=(0,), hidden=16)
    files = {Kind.STUDENT: set(), Kind.STUDENT_PRUNED: set()}
    for noise in (1, 2):
        for stage in (distil(spec), prune(spec, ffn=16, recover_epochs=1)):
            torch.manual_seed(noise)
            run(stage, artifacts, tmp_path)
            files[stage.gives].add((artifacts[stage.gives].path / "model.safetensors").read_bytes())
    assert [len(found) for found in files.values()] == [1, 1]
