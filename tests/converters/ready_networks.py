"""Foreign networks as users bring them: a BERT with its huge mask, a CNN with SE and hard-swish, matrix products."""

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as f

WORDS, LENGTH, HIDDEN = 50, 16, 32


class Bert(nn.Module):
    """Two layers, three inputs, a mask of -3.4e38."""

    inputs = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(WORDS, HIDDEN), nn.Embedding(2, HIDDEN)
        self.places, self.norm = nn.Embedding(LENGTH, HIDDEN), nn.LayerNorm(HIDDEN)
        sizes = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "o": (32, 32), "up": (32, 64), "down": (64, 32)}
        self.layer = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(*size) for name, size in sizes.items()},
                    "norm1": nn.LayerNorm(HIDDEN),
                    "norm2": nn.LayerNorm(HIDDEN),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, input_ids, attention_mask, token_type_ids):
        rows, length = input_ids.shape
        places = self.places(torch.arange(length)[None])
        x = self.norm(self.words(input_ids) + places + self.types(token_type_ids))
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
        for layer in self.layer:
            q, k, v = (layer[name](x).view(rows, length, 4, 8).transpose(1, 2) for name in "qkv")
            seen = (q @ k.transpose(-1, -2) / 8**0.5 + mask).softmax(-1) @ v
            x = layer["norm1"](x + layer["o"](seen.transpose(1, 2).reshape(rows, length, HIDDEN)))
            x = layer["norm2"](x + layer["down"](f.gelu(layer["up"](x))))
        return self.head(x[:, 0])

    def example(self):
        ids = torch.arange(LENGTH)[None] % WORDS
        return ids, torch.ones_like(ids), torch.zeros_like(ids)


def block(inputs: int, outputs: int, size: int, groups: int = 1, step: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, step, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.Hardswish())


class Cnn(nn.Module):
    """Convolutions without bias, depthwise and in groups; squeeze and excite; concatenation; channels first."""

    inputs = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = block(3, 16, 3, step=2), block(16, 16, 3, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.pointwise, self.grouped, self.head = block(16, 24, 1), block(24, 24, 3, groups=4), nn.Linear(48, 5)

    def forward(self, image):
        x = self.depthwise(self.stem(image))
        x = x * f.hardsigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = self.pointwise(x)
        return self.head(torch.cat([x, self.grouped(x)], 1).mean((2, 3)))

    def example(self):
        return (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)


class Products(nn.Module):
    """Constants on both sides of products, and a convolution over one dimension."""

    inputs = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(5, 4))
        self.conv, self.head = nn.Conv1d(6, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x):
        y = torch.relu(self.left @ (x @ self.right))
        return self.head(torch.relu(self.conv(y.transpose(1, 2))).mean(2))

    def example(self):
        return (torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)),)


NETWORKS = {"bert": Bert, "cnn": Cnn, "products": Products}


def network(name: str) -> nn.Module:
    """A seeded network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return model


def write_onnx(model: nn.Module, path: Path, *, opset: int = 14, free: dict | None = None) -> Path:
    """The exporter of old, which takes layer norms and GELUs apart, keeps batch norms and gives no bias to products."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = list(model.inputs)
        torch.onnx.export(
            model,
            model.example(),
            str(path),
            input_names=names,
            output_names=["logits"],
            opset_version=opset,
            dynamo=False,
            do_constant_folding=False,
            dynamic_axes=free or {name: {0: "batch"} for name in names},
        )
    return path


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program of core operators: addmm, convolution, native norms; torch warns of its own deprecations on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.run_decompositions()
