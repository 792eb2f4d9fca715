"""Students: copied layers, narrower streams, fewer heads and neurons."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.recipe.spec import StudentSpec
from edgekit_models.image_classifier import ImageClassifier, ImageConfig
from edgekit_models.students import check_student, keep_channels, keep_ffn, keep_heads, paired_layers, text_student
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.errors import UsageError

LENGTH = 8


@pytest.fixture
def teacher() -> TextClassifier:
    torch.manual_seed(2)
    config = TextConfig(
        vocabulary=30,
        hidden=16,
        head_size=4,
        layers=tuple(LayerConfig(heads=4, ffn=ffn) for ffn in (24, 20, 28)),
        max_length=LENGTH,
        classes=2,
        head="tanh",
    )
    model = TextClassifier(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(3, LENGTH, dtype=torch.int64)
    mask[1, 5:] = 0
    return torch.randint(1, 30, (3, LENGTH), generator=torch.Generator().manual_seed(1)), mask


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(left: nn.Module, right: nn.Module) -> None:
    torch.testing.assert_close(state(left), state(right), rtol=0, atol=0)


def assert_fits_config(model: TextClassifier) -> None:
    """A fresh model of the same config takes the weights: nothing of the old shape is left."""
    TextClassifier(model.config).load_state_dict(model.state_dict())


def test_layers_are_copied_in_order(teacher) -> None:
    before = state(teacher)
    student = text_student(teacher, layers=(2, 0))
    assert [layer.ffn for layer in student.config.layers] == [28, 24]
    assert_same(student.layers[0], teacher.layers[2])
    assert_same(student.layers[1], teacher.layers[0])
    assert_same(student.words, teacher.words)
    assert_same(student.classifier, teacher.classifier)
    assert_fits_config(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    torch.testing.assert_close(state(teacher), before, rtol=0, atol=0)


def test_no_layers_named_means_all(teacher, batch) -> None:
    with torch.no_grad():
        torch.testing.assert_close(text_student(teacher, layers=())(*batch), teacher(*batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        (StudentSpec(layers=(0, 3)), "E0130", "names layer 3"),
        (StudentSpec(hidden=24), "E0132", "teacher's 16"),
    ],
)
def test_more_than_the_teacher_has_is_refused(teacher, spec, code, words) -> None:
    with pytest.raises(UsageError) as caught:
        check_student(teacher, spec)
    assert caught.value.code == code
    assert words in caught.value.what
    check_student(teacher, StudentSpec(layers=(0, 2), hidden=16))


def test_image_student_of_a_foreign_teacher_needs_widths() -> None:
    with pytest.raises(UsageError) as caught:
        check_student(nn.Linear(2, 2), StudentSpec())
    assert caught.value.code == "E0131"
    check_student(nn.Linear(2, 2), StudentSpec(widths=(8,)))
    own = ImageClassifier(ImageConfig.from_widths((4,), height=8, width=8, channels=1, classes=2))
    check_student(own, StudentSpec())


@pytest.mark.parametrize(
    ("layers", "teacher_layers", "pairs"),
    [
        ((), 3, [0, 1, 2, 3]),
        ((0, 2, 4), 6, [0, 2, 4, 6]),
        ((1, 3, 5), 6, [0, 3, 5, 6]),
        ((0,), 12, [0, 12]),
        ((2, 3), 4, [0, 3, 4]),
    ],
)
def test_a_copied_layer_imitates_all_up_to_the_next(layers, teacher_layers, pairs) -> None:
    assert paired_layers(layers, teacher_layers) == pairs


def test_keep_channels_narrows_everything(teacher, batch) -> None:
    keep = torch.tensor([1, 2, 5, 8, 9, 12, 13, 15])
    student = text_student(teacher, layers=(0, 2), hidden_order=keep)
    assert student.config.hidden == 8
    assert_fits_config(student)
    assert student(*batch).shape == (3, 2)
    torch.testing.assert_close(student.words.weight, teacher.words.weight[:, keep])
    torch.testing.assert_close(student.positions, teacher.positions[:, keep])
    torch.testing.assert_close(student.layers[1].ffn_in.weight, teacher.layers[2].ffn_in.weight[:, keep])
    torch.testing.assert_close(student.layers[1].ffn_out.weight, teacher.layers[2].ffn_out.weight[keep])
    torch.testing.assert_close(student.layers[1].attention_norm.bias, teacher.layers[2].attention_norm.bias[keep])
    torch.testing.assert_close(student.head_dense.weight, teacher.head_dense.weight[keep][:, keep])


def test_keep_channels_in_another_order_changes_no_result(teacher, batch) -> None:
    shuffled = copy.deepcopy(teacher)
    keep_channels(shuffled, torch.randperm(16, generator=torch.Generator().manual_seed(4)))
    with torch.no_grad():
        torch.testing.assert_close(shuffled(*batch), teacher(*batch), rtol=0, atol=1e-5)


@torch.no_grad()
def test_removing_a_head_without_output_changes_nothing(teacher, batch) -> None:
    teacher.layers[1].attention.output.weight[:, 4:8] = 0.0
    student = copy.deepcopy(teacher)
    keep_heads(student, 1, torch.tensor([0, 2, 3]))
    assert [layer.heads for layer in student.config.layers] == [4, 3, 4]
    assert student.layers[1].attention.query.weight.shape == (12, 16)
    assert student.layers[1].attention.output.weight.shape == (16, 12)
    assert_fits_config(student)
    torch.testing.assert_close(student(*batch), teacher(*batch), rtol=0, atol=1e-6)
    wrong = copy.deepcopy(teacher)
    keep_heads(wrong, 1, torch.tensor([0, 1, 3]))
    assert (wrong(*batch) - teacher(*batch)).abs().max() > 1e-3


@torch.no_grad()
def test_removing_neurons_without_output_changes_nothing(teacher, batch) -> None:
    gone = torch.tensor([0, 7, 19])
    teacher.layers[1].ffn_out.weight[:, gone] = 0.0
    student = copy.deepcopy(teacher)
    keep = torch.tensor([i for i in range(20) if i not in gone])
    keep_ffn(student, 1, keep)
    assert [layer.ffn for layer in student.config.layers] == [24, 17, 28]
    assert_fits_config(student)
    torch.testing.assert_close(student(*batch), teacher(*batch), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_bias_makes_up_for_constant_neurons_exactly(teacher, batch) -> None:
    gone = torch.tensor([2, 3])
    layer = teacher.layers[0]
    layer.ffn_in.weight[gone] = 0.0
    layer.ffn_in.bias[gone] = torch.tensor([1.5, -0.7])
    mean = torch.full((24,), 9.0)  # of the neurons that stay; must not be used
    mean[gone] = functional.gelu(layer.ffn_in.bias[gone])
    keep = torch.tensor([i for i in range(24) if i not in gone])
    with_mean, without = copy.deepcopy(teacher), copy.deepcopy(teacher)
    keep_ffn(with_mean, 0, keep, mean=mean)
    keep_ffn(without, 0, keep)
    torch.testing.assert_close(with_mean(*batch), teacher(*batch), rtol=0, atol=1e-5)
    assert (without(*batch) - teacher(*batch)).abs().max() > 1e-3
