"""Distillation losses: soft targets on logits, mean squared error on hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HiddenProjection", "hidden_loss", "soft_target_loss"]


def soft_target_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Give ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over rows.

    Args:
        student: Logits, shape (N, C).
        teacher: Logits, shape (N, C); no gradient flows into them.
        temperature: T, above 0; T^2 keeps the gradient's size when T changes.

    Source:
        Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", section 2.
    """
    log_student = functional.log_softmax(student / temperature, -1)
    target = functional.softmax(teacher.detach() / temperature, -1)
    return functional.kl_div(log_student, target, reduction="batchmean") * temperature**2


class HiddenProjection(nn.Module):
    """A learned linear map from the student's width to the teacher's; nothing where the widths are equal.

    Source:
        Jiao et al. 2020, "TinyBERT", eq. 8: ``MSE(H_student @ W, H_teacher)``.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        same = student_width == teacher_width
        self.map: nn.Module = nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., student width) to (..., teacher width)."""
        return self.map(x)  # type: ignore[no-any-return]


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, projection: HiddenProjection
) -> Tensor:
    """Give the mean squared error of paired hidden states over real tokens, divided by the teacher's mean square.

    The division makes the loss a share of the teacher's energy, so that one weight serves every width and depth.

    Args:
        student: Hidden states, each (N, T, student width).
        teacher: As many hidden states, each (N, T, teacher width); no gradient flows into them.
        mask: 1 for tokens and 0 for padding, shape (N, T).
        projection: From the student's width to the teacher's.

    Raises:
        ValueError: The two lists are not of the same length.
    """
    real = mask.bool()
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        target = theirs[real].detach()
        losses.append(functional.mse_loss(projection(ours[real]), target) / target.square().mean())
    return torch.stack(losses).mean()
