"""Three small real bundles that faults are planted into: photographs, digits through a depthwise layer, and texts."""

import contextlib
import io
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli import main

PHOTOS = """\
name: photos
version: 0.1.0
model:
  task: image-classification
  teacher: {architecture: cnn, config: {widths: [12, 24]}, licence: Apache-2.0}
  student: {widths: [8, 12]}
data:
  train: {npz: photos.npz}
  eval_rows: 200
  labels: {0: sky, 1: temple, 2: leaf, 3: petal}
  image: {height: 12, width: 12, channels: 3, scale: 0.00392157, mean: [0.45, 0.4, 0.4], std: [0.25, 0.25, 0.25]}
adapt: {epochs: 6, learning_rate: 4e-3}
distill: {epochs: 6, learning_rate: 4e-3}
quantize: {calibration_rows: 64}
export: {keep_int8: true}
targets: [x86-64]
"""
LABELS = ("sky", "temple", "leaf", "petal")
WORDS = ("the", "film", "story", "is", "and", "warm", "dull", "funny", "cold", "music", "cast", "bright", "slow")


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def edgekit(*arguments: object, cwd: Path, own_cache: bool = True) -> Answer:
    """Run the command line in this process, which has PyTorch loaded already.

    Args:
        arguments: Of the command.
        cwd: Where it runs.
        own_cache: Keep stages below ``cwd``; off where what the user's cache holds is needed.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setenv("HF_HUB_OFFLINE", "1")
        if own_cache:
            patch.setenv("EDGEKIT_CACHE", str(cwd / "cache"))
        warnings.simplefilter("ignore")  # as in a process of its own, where no test turns warnings into errors
        code = main([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


def parity(bundle: Path, *arguments: object) -> Answer:
    return edgekit("parity", bundle, "--json", *arguments, cwd=bundle.parent)


def built(folder: Path, *arguments: object) -> Path:
    run = edgekit("build", *arguments, "-o", "out", cwd=folder)
    assert run.code == 0, run.err
    (bundle,) = (folder / "out").glob("*.edge")
    return bundle


def build_photos(folder: Path) -> Path:
    """Patches of the two photographs of scikit-learn, 24 x 24 pixels in colour, resized to 12 x 12 on the device."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    places = ((china, (0, 90), (0, 616)), (china, (200, 300), (150, 450)), (flower, (0, 403), (0, 60)))
    draw = np.random.default_rng(0)
    patches, classes = [], []
    for kind, (photo, ys, xs) in enumerate((*places, (flower, (130, 250), (230, 380)))):
        for _ in range(250):
            y, x = int(draw.integers(*ys)), int(draw.integers(*xs))
            patches.append(photo[y : y + 24, x : x + 24])
            classes.append(kind)
    np.savez(folder / "photos.npz", x=np.array(patches, np.uint8), y=np.array(classes))
    (folder / "photos.yaml").write_text(PHOTOS)
    return built(folder, "photos.yaml")


def build_digits(folder: Path) -> Path:
    """Handwritten digits through a depthwise layer with one channel whose weights are 100 times larger than others."""
    import torch
    from depthwise_digits import trained
    from sklearn.datasets import load_digits

    data = load_digits()
    light = np.where(np.arange(len(data.images)) % 10 == 0, 1.0, 0.3)  # one picture in ten is well exposed
    images = (light[:, None, None] * data.images / 16).astype(np.float32)[:, None]
    torch.export.save(
        torch.export.export(trained(images[400:], data.target[400:]), (torch.ones(1, 1, 8, 8),)), folder / "digits.pt2"
    )
    np.savez(folder / "rows.npz", picture=images[400:528])
    np.savez(folder / "eval.npz", picture=images[:200])
    given = ("--quantize-only", "--calibration", "rows.npz", "--eval", "eval.npz", "--keep-int8")
    return built(folder, "digits.pt2", *given)


def build_texts(folder: Path) -> Path:
    """Vectors of sentences, by a BERT-like folder."""
    from text_teacher import write_teacher

    write_teacher(folder / "texts", words=WORDS, layers=1, spread=0.3)
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))).capitalize() + "." for _ in range(96)]
    # Every fourth line is judged by: three has no divisor with four.
    lines = [line.replace("film", "fïlm") if place % 3 == 0 else line for place, line in enumerate(lines)]
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n")
    given = ("--quantize-only", "--calibration", "sentences.txt", "--max-length", "16", "--all-int8", "--keep-int8")
    return built(folder, "texts", *given)


def layers(bundle: Path, lane: str) -> dict[str, object]:
    """Give what ``edgekit debug layers`` says."""
    answer = edgekit("debug", "layers", bundle, "--on", lane, "--json", cwd=bundle.parent)
    assert answer.code == 0, answer.err
    return answer.json


def failed(answer: Answer) -> set[tuple[str, str]]:
    """Give lane and gate of every gate that was missed."""
    results = answer.json["verdict"]["results"]
    return {(each["lane"], each["gate"]) for each in results if each["outcome"] == "failed"}
