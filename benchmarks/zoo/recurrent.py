"""The zoo's recurrent networks; few time steps, because a TFLite export writes each step out."""

import torch
from torch import Tensor, nn

__all__ = ["ConvGru", "FrameGru", "FrameLstm", "conv_gru", "gru", "lstm"]


class FrameLstm(nn.Module):
    """40 frames of 32 bands, taken in pairs, through an LSTM; the last state decides."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Map float32 (N, 40, 32) to logits (N, classes)."""
        states, _ = self.lstm(frames.reshape(frames.shape[0], 20, 64))
        return self.classifier(states[:, -1])  # type: ignore[no-any-return]


class FrameGru(nn.Module):
    """14 steps of two image rows through a GRU; the last state decides."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(56, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Map float32 (N, 14, 56) to logits (N, classes)."""
        states, _ = self.gru(rows)
        return self.classifier(states[:, -1])  # type: ignore[no-any-return]


class ConvGru(nn.Module):
    """Two convolutions over time and frequency, then a GRU over the 10 steps that are left."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
        )
        self.gru = nn.GRU(24 * 8, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Map float32 (N, 1, 40, 32) to logits (N, classes)."""
        steps = self.features(frames).permute(0, 2, 1, 3).reshape(frames.shape[0], 10, 24 * 8)
        states, _ = self.gru(steps)
        return self.classifier(states[:, -1])  # type: ignore[no-any-return]


def lstm(seed: int) -> FrameLstm:
    """Give an untrained LSTM for keywords."""
    torch.manual_seed(seed)
    return FrameLstm(64, 10)


def gru(seed: int) -> FrameGru:
    """Give an untrained GRU for Fashion-MNIST."""
    torch.manual_seed(seed)
    return FrameGru(64, 10)


def conv_gru(seed: int) -> ConvGru:
    """Give an untrained convolutional GRU for keywords."""
    torch.manual_seed(seed)
    return ConvGru(64, 10)
