"""The one training loop that adapt, distil and prune share: seeded, bucketed by length, strict about NaN."""

import ctypes
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit_runtime.errors import ConversionError

__all__ = [
    "Batch",
    "ImageRows",
    "Precision",
    "Rows",
    "TextRows",
    "Training",
    "batches",
    "count_steps",
    "keep_freed_memory",
    "mixed_precision",
    "predict",
    "resolve_precision",
    "train",
]

Precision = Literal["float32", "bfloat16"]

WARM_UP = 0.06  # share of the steps; the value of the RoBERTa paper's fine-tuning recipe
MAX_GRADIENT_NORM = 1.0  # BERT's fine-tuning clips here
_BUCKET_BATCHES = 50  # rows are sorted by length within this many batches: little padding, still well mixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows that go through a model together.

    Attributes:
        inputs: What the model's ``forward`` takes, each with N first.
        rows: Index of each row in the data set, shape (N,).
    """

    inputs: tuple[Tensor, ...]
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRows:
    """Tokenised texts, kept without padding.

    Attributes:
        ids: One array of token ids per row.
    """

    ids: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def length(self, row: int) -> int:
        """Tokens of one row; batches group rows of like length."""
        return len(self.ids[row])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Pad the rows to the longest of them: ids and mask, int64, shape (N, T)."""
        longest = max(len(self.ids[row]) for row in rows)
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(self.ids[row])] = self.ids[row]
            mask[i, : len(self.ids[row])] = 1
        return Batch(inputs=(torch.from_numpy(ids), torch.from_numpy(mask)), rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRows:
    """Preprocessed images.

    Attributes:
        images: float32, shape (N, channels, height, width).
    """

    images: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def length(self, row: int) -> int:
        """All images are of one size."""
        del row
        return 1

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Stack the rows: float32, shape (N, channels, height, width)."""
        return Batch(inputs=(torch.from_numpy(self.images[rows]),), rows=rows)


Rows = TextRows | ImageRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the rows; a fraction stops within a pass.
        batch_size: Rows per step.
        learning_rate: Peak of AdamW; linear warm-up, then linear decay to 0.
        seed: Order of the rows.
        precision: Of the matrix products; weights, gradients and the optimiser stay float32.
        weight_decay: Of AdamW, on matrices only.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    seed: int
    precision: Precision = "float32"
    weight_decay: float = 0.01


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], *, matrices: bool) -> Precision:
    """Turn ``auto`` into a precision.

    Args:
        wanted: From the recipe.
        matrices: The model is made of matrix products; bfloat16 halves their time on a CPU that has it, while small
            convolutions get slower.
    """
    if wanted != "auto":
        return wanted
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return "bfloat16" if fast and matrices else "float32"


def mixed_precision(precision: Precision) -> AbstractContextManager[object]:
    """Run matrix products in ``precision`` inside the block."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def keep_freed_memory() -> None:
    """Tell glibc to keep freed tensors instead of giving them back to the system.

    Every step allocates the same activations again; without this a fifth of the time went into page faults.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def count_steps(rows: int, *, batch_size: int, epochs: float) -> int:
    """Give the number of batches in ``epochs`` passes; the last batch of a pass may be smaller."""
    return math.ceil(round(epochs * math.ceil(rows / batch_size), 9))  # 1.1 * 10 is 11.000000000000002 and means 11


def batches(rows: Rows, *, batch_size: int, seed: int, epochs: float) -> Iterator[Batch]:
    """Give seeded random batches of rows of like length; every whole epoch holds each row once."""
    steps = count_steps(len(rows), batch_size=batch_size, epochs=epochs)
    generator = np.random.default_rng(seed)
    while steps > 0:
        order = generator.permutation(len(rows))
        epoch: list[NDArray[np.int64]] = []
        chunk = batch_size * _BUCKET_BATCHES
        for start in range(0, len(order), chunk):
            part = np.array(sorted(order[start : start + chunk], key=lambda row: rows.length(int(row))), np.int64)
            epoch += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        for index in generator.permutation(len(epoch))[:steps]:
            yield rows.batch(epoch[index])
        steps -= len(epoch)


def train(
    modules: Iterable[nn.Module], loss: Callable[[Batch], Tensor], rows: Rows, how: Training, *, stage: str
) -> None:
    """Minimise ``loss`` over seeded batches; leaves the modules in evaluation mode.

    Args:
        modules: Their parameters that require a gradient are trained.
        loss: Gives a scalar for a batch.
        rows: Rows to draw from.
        how: Length and speed.
        stage: Named in the error.

    Raises:
        ConversionError: The loss became NaN or infinite.
    """
    keep_freed_memory()
    held = list(modules)
    parameters = [p for module in held for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": how.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=how.learning_rate,
        foreach=True,
    )
    steps = max(1, count_steps(len(rows), batch_size=how.batch_size, epochs=how.epochs))
    warm_up = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
    )
    torch.manual_seed(how.seed)
    for module in held:
        module.train()
    for step, batch in enumerate(batches(rows, batch_size=how.batch_size, seed=how.seed, epochs=how.epochs)):
        with mixed_precision(how.precision):
            value = loss(batch)
        if not torch.isfinite(value):
            raise ConversionError(
                "E0710",
                f"training diverged in {stage}: the loss is {value.item()} at step {step + 1} of {steps}",
                fix=f"lower {stage}.learning_rate (now {how.learning_rate:g})",
            )
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
    for module in held:
        module.eval()


@torch.no_grad()
def predict(model: nn.Module, rows: Rows, *, batch_size: int = 64) -> NDArray[np.float32]:
    """Give the logits of all rows in their order, float32 (N, classes).

    Args:
        model: In evaluation mode; it is not switched here, for an exported program has no other and refuses the call.
        rows: At least one.
        batch_size: Rows per pass.
    """
    order = np.array(sorted(range(len(rows)), key=rows.length), np.int64)
    parts = [model(*rows.batch(order[i : i + batch_size]).inputs) for i in range(0, len(order), batch_size)]
    logits = np.empty((len(rows), parts[0].shape[1]), np.float32)
    logits[order] = torch.cat(parts).float().numpy()
    return logits
