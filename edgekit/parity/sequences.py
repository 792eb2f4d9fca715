"""Answers that are spans, tokens or text: the same span, the first token that differs, character and word errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "best_spans",
    "ctc_texts",
    "edit_distance",
    "first_divergence",
    "greedy_tokens",
    "span_overlap",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def best_spans(logits: Floats) -> Ints:
    """Give first and last place of the best span of each row, (N, 2): the largest sum with first <= last.

    Args:
        logits: (N, 2L): L start logits, then L end logits.

    Source: Devlin et al. 2019, section 4.2. A row with NaN has the span (-1, -1).
    """
    length = logits.shape[1] // 2
    start, end = logits[:, :length], logits[:, length:]
    last = (np.maximum.accumulate(start, axis=1) + end).argmax(1)
    first = np.where(np.arange(length) <= last[:, None], start, -np.inf).argmax(1)
    spans = np.stack([first, last], 1)
    spans[~np.isfinite(logits).all(1)] = -1
    return spans


def span_overlap(reference: Ints, spans: Ints) -> Floats:
    """Give the F1 of the places of two spans a row, (N,): 1 for the same, 0 for none in common.

    Source: Rajpurkar et al. 2016, section 6.1, over places instead of words.
    """
    shared = np.minimum(reference[:, 1], spans[:, 1]) - np.maximum(reference[:, 0], spans[:, 0]) + 1
    total = (reference[:, 1] - reference[:, 0]) + (spans[:, 1] - spans[:, 0]) + 2
    known = (reference[:, 0] >= 0) & (spans[:, 0] >= 0)
    return np.asarray(np.where(known, 2.0 * np.maximum(shared, 0) / total, 0.0), np.float64)


def greedy_tokens(logits: Floats, vocabulary: int) -> Ints:
    """Give the likeliest token of each place, (N, T); -1 where a place has NaN.

    Args:
        logits: (N, T * vocabulary), place by place.
        vocabulary: Number of tokens.
    """
    places = logits.reshape(len(logits), -1, vocabulary)
    return np.asarray(np.where(np.isnan(places).any(2), -1, places.argmax(2)), np.int64)


def first_divergence(reference: Ints, tokens: Ints) -> Ints:
    """Give the first place at which (N, T) tokens differ, from 0; T where none does. No token (-1) differs always."""
    differs = (reference != tokens) | (reference < 0) | (tokens < 0)
    return np.asarray(np.where(differs.any(1), differs.argmax(1), tokens.shape[1]), np.int64)


def ctc_texts(tokens: Ints, alphabet: Sequence[str]) -> list[str]:
    """Give the text of each row: repeats are one symbol, and the first symbol of the alphabet is the blank.

    Source: Graves et al. 2006, section 3.1.
    """
    texts = []
    for row in tokens:
        kept = [int(token) for place, token in enumerate(row) if place == 0 or token != row[place - 1]]
        texts.append("".join("\N{REPLACEMENT CHARACTER}" if token < 0 else alphabet[token] for token in kept if token))
    return texts


def edit_distance(reference: Sequence[object], given: Sequence[object]) -> int:
    """Give the fewest insertions, deletions and substitutions that turn ``reference`` into ``given``.

    Source: Wagner, Fischer 1974.
    """
    row = list(range(len(given) + 1))
    for place, wanted in enumerate(reference, 1):
        corner, row[0] = row[0], place
        for other, symbol in enumerate(given, 1):
            corner, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, corner + (wanted != symbol))
    return row[-1]
