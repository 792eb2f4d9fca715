"""Distillation losses against other people's code and against values by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from edgekit_converters.distill.losses import HiddenProjection, hidden_loss, soft_target_loss


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_soft_target_loss_by_hand() -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_target_loss(student, teacher, temperature=1.0).item() == pytest.approx(expected, abs=1e-6)
    hot = soft_target_loss(student, teacher * 4, temperature=4.0).item()
    assert hot == pytest.approx(16 * expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_soft_target_loss_is_scipys_entropy(temperature) -> None:
    student, teacher = logits(1), logits(2)
    p, q = (softmax(x.numpy() / temperature, axis=1) for x in (teacher, student))
    expected = entropy(p, q, axis=1).mean() * temperature**2
    assert soft_target_loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equal_logits_cost_nothing(temperature) -> None:
    student = logits(1).requires_grad_()
    loss = soft_target_loss(student, student.detach() + 3.0, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


def test_temperature_leaves_the_size_of_the_gradient() -> None:
    """Hinton 2015, eq. 4: for a high T the gradient is (z - v) / N per row, whatever T is; logits have mean zero."""
    teacher = logits(2)
    teacher -= teacher.mean(1, keepdim=True)
    start = logits(1)
    start -= start.mean(1, keepdim=True)
    for temperature in (200.0, 1000.0):
        student = start.clone().requires_grad_()
        soft_target_loss(student, teacher, temperature=temperature).backward()
        expected = (start - teacher) / 4 / len(start)
        torch.testing.assert_close(student.grad, expected, rtol=0.05, atol=1e-3)


def test_no_gradient_flows_to_the_teacher() -> None:
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    soft_target_loss(student, teacher, temperature=2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None


def states(width: int, *, seed: int, count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, width, generator=generator) for _ in range(count)]


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_hidden_loss_is_a_share_of_the_teachers_energy() -> None:
    ours, theirs = states(6, seed=1), states(6, seed=2)
    loss = hidden_loss(ours, theirs, MASK, HiddenProjection(6, 6))
    keep = MASK.numpy().astype(bool)
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        x, y = a.numpy()[keep], b.numpy()[keep]
        shares.append(np.square(x - y).mean() / np.square(y).mean())
    assert loss.item() == pytest.approx(np.mean(shares), rel=1e-5)
    scaled = hidden_loss([x * 10 for x in ours], [y * 10 for y in theirs], MASK, HiddenProjection(6, 6))
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-5)


def test_equal_widths_learn_no_projection() -> None:
    projection = HiddenProjection(6, 6)
    assert not list(projection.parameters())
    ours = states(6, seed=1)
    assert hidden_loss(ours, ours, MASK, projection).item() == 0.0


def test_projection_maps_the_student_to_the_teachers_width() -> None:
    projection = HiddenProjection(3, 6)
    ours = states(3, seed=1)
    matrix = projection.map.weight
    assert matrix.shape == (6, 3)
    theirs = [x @ matrix.T for x in ours]
    assert hidden_loss(ours, theirs, MASK, projection).item() == pytest.approx(0.0, abs=1e-12)
    loss = hidden_loss(ours, states(6, seed=2), MASK, projection)
    loss.backward()
    assert matrix.grad is not None
    assert loss.item() > 0.1


@pytest.mark.parametrize("widths", [(6, 6), (3, 6)])
def test_padding_does_not_count(widths) -> None:
    ours, theirs = states(widths[0], seed=1), states(widths[1], seed=2)
    projection = HiddenProjection(*widths)
    before = hidden_loss(ours, theirs, MASK, projection).item()
    for side in (ours, theirs):
        for state in side:
            state[1, 2:] = 1e6
    assert hidden_loss(ours, theirs, MASK, projection).item() == before


def test_unpaired_states_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        hidden_loss(states(6, seed=1), states(6, seed=2, count=3), MASK, HiddenProjection(6, 6))
