"""Text to token ids: BERT's WordPiece in plain Python, equal to the ``tokenizers`` library token by token.

A ``tokenizer.json`` with BertNormalizer, BertPreTokenizer and WordPiece needs nothing but this module; any other
kind is handed to the ``tokenizers`` package.
"""

import importlib.util
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.manifest import strict_json
from edgekit_runtime.preprocess import unicode_tables as tables

__all__ = ["TextPreprocess", "WordPiece"]

_CACHE_LIMIT = 20_000  # words or characters; bounds the memory that hostile input can take
_Json = Mapping[str, object]


class _CharacterMap(dict[int, str]):
    """What ``str.translate`` looks up: filled on demand, because most texts use few characters."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        text = self[code] = self.map(code)
        return text

    def map(self, code: int) -> str:
        raise NotImplementedError


class _Clean(_CharacterMap):
    """Drop control characters, unify spaces, set ideographs apart. Runs before decomposition."""

    def __init__(self, *, clean_text: bool, ideographs: bool) -> None:
        self._clean, self._ideographs = clean_text, ideographs

    def map(self, code: int) -> str:
        if self._clean and code in tables.REMOVED:
            return ""
        if self._clean and code in tables.SPACES:
            return " "
        return f" {chr(code)} " if self._ideographs and code in tables.IDEOGRAPHS else chr(code)


class _Split(_CharacterMap):
    """Strip accents, lower, and put spaces around punctuation. Runs after decomposition."""

    def __init__(self, *, strip_accents: bool, lowercase: bool) -> None:
        self._strip, self._lower = strip_accents, lowercase

    def map(self, code: int) -> str:
        if self._strip and code in tables.MARKS:
            return ""
        # One character at a time: on a whole word str.lower gives a final sigma, and the library does not.
        text = tables.LOWERCASE.get(code) or chr(code).lower() if self._lower else chr(code)
        return "".join(self._apart(ord(character)) for character in text)

    @staticmethod
    def _apart(code: int) -> str:
        if code in tables.PUNCTUATION:
            return f" {chr(code)} "
        return " " if code in tables.WHITESPACE else chr(code)


class WordPiece:
    """BERT's tokenizer.

    Attributes:
        pad_id: Id that fills up to the length of the model.
        special: Ids before and after the text, e.g. ``((101,), (102,))``.
    """

    def __init__(self, config: _Json) -> None:
        normalizer = _part(config, "normalizer")
        lowercase = bool(normalizer["lowercase"])
        accents = normalizer["strip_accents"]
        self._strip: Final = lowercase if accents is None else bool(accents)
        self._clean: Final = _Clean(
            clean_text=bool(normalizer["clean_text"]), ideographs=bool(normalizer["handle_chinese_chars"])
        )
        self._split: Final = _Split(strip_accents=self._strip, lowercase=lowercase)
        inert = "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(tables.INERT.starts, tables.INERT.ends, strict=True))
        self._inert: Final = re.compile(f"([{inert}])")
        model = _part(config, "model")
        self._vocabulary: Final = cast("dict[str, int]", _part(model, "vocab"))
        self._unknown: Final = (self._vocabulary[str(model["unk_token"])],)
        self._prefix: Final = str(model["continuing_subword_prefix"])
        self._longest_word: Final = int(cast("int", model["max_input_chars_per_word"]))
        self._longest_piece: Final = max(map(len, self._vocabulary))
        added = cast("list[_Json]", config.get("added_tokens") or [])
        self._added: Final = {str(token["content"]): int(cast("int", token["id"])) for token in added}
        # Longest first: the library takes the longest of the tokens that begin at one place.
        names = sorted(self._added, key=len, reverse=True)
        self._added_pattern: Final = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        self.special: Final = _template(config.get("post_processor"))
        self.pad_id: Final = _pad_id(config, self._vocabulary)
        self._words: Final[dict[str, tuple[int, ...]]] = {}

    @staticmethod
    def reads(config: _Json) -> bool:
        """Say whether this class does exactly what ``config`` asks for."""
        kinds = [cast("_Json", config.get(key) or {}).get("type") for key in ("normalizer", "pre_tokenizer", "model")]
        after = cast("_Json", config.get("post_processor") or {}).get("type", "TemplateProcessing")
        added = cast("list[_Json]", config.get("added_tokens") or [])
        odd = any(token.get(key) for token in added for key in ("single_word", "lstrip", "rstrip", "normalized"))
        known = kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
        return known and after in {"TemplateProcessing", "BertProcessing"} and not odd

    def encode(self, text: str, limit: int) -> list[int]:
        """Give the ids of ``text`` with the special tokens, at most ``limit`` of them."""
        before, after = self.special
        room = limit - len(before) - len(after)
        ids: list[int] = []
        for piece in self._pieces(text):
            ids.extend(piece)
            if len(ids) >= room:
                break
        return [*before, *ids[:room], *after]

    def _pieces(self, text: str) -> Iterator[tuple[int, ...]]:
        parts = self._added_pattern.split(text) if self._added_pattern else [text]
        for place, part in enumerate(parts):
            if place % 2:
                yield (self._added[part],)
                continue
            for word in self._normalize(part).split(" "):
                if word:
                    yield self._words.get(word) or self._word(word)

    def _normalize(self, text: str) -> str:
        text = text.translate(self._clean)
        if self._strip and not text.isascii():
            parts = self._inert.split(text)
            text = "".join(p if place % 2 else unicodedata.normalize("NFD", p) for place, p in enumerate(parts))
        return text.translate(self._split)

    def _word(self, word: str) -> tuple[int, ...]:
        ids = self._spell(word)
        if len(self._words) >= _CACHE_LIMIT:
            self._words.clear()
        self._words[word] = ids
        return ids

    def _spell(self, word: str) -> tuple[int, ...]:
        """Take the longest piece that fits, again and again; a word with no way to go on is one unknown token."""
        if len(word) > self._longest_word:
            return self._unknown
        ids, start = [], 0
        while start < len(word):
            head = self._prefix if start else ""
            for end in range(min(len(word), start + self._longest_piece), start, -1):
                found = self._vocabulary.get(head + word[start:end])
                if found is not None:
                    break
            else:
                return self._unknown
            ids.append(found)
            start = end
        return tuple(ids)


class _Tokenizer(Protocol):
    @property
    def pad_id(self) -> int: ...
    @property
    def special(self) -> tuple[tuple[int, ...], tuple[int, ...]]: ...
    def encode(self, text: str, limit: int) -> list[int]: ...


class _LibraryTokenizer:
    """Any other kind of ``tokenizer.json``, by the ``tokenizers`` package."""

    def __init__(self, data: bytes, config: _Json) -> None:
        if importlib.util.find_spec("tokenizers") is None:
            kind = cast("_Json", config.get("model") or {}).get("type")
            raise MissingError(
                "E0655",
                f"the tokenizer of this bundle ({kind}) needs the package tokenizers",
                why="only BERT's WordPiece is built in",
                fix="pip install tokenizers",
            )
        import tokenizers

        try:
            self._tokenizer: Final = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises no narrower class
            raise ValueError(str(error)) from error
        self._tokenizer.no_padding()
        self.special: Final = (tuple(self._tokenizer.encode("").ids), ())
        self.pad_id: Final = _pad_id(config, self._tokenizer.get_vocab())

    def encode(self, text: str, limit: int) -> list[int]:
        self._tokenizer.enable_truncation(limit)
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


class TextPreprocess:
    """A text as the two tensors of the model contract. Safe to share between threads.

    Attributes:
        max_length: Tokens per text, special ones included; longer texts lose their end, shorter ones are padded there.
            What ``tokenizer.json`` says on truncation and padding is not used.
    """

    def __init__(self, tokenizer_json: bytes, *, max_length: int) -> None:
        """Read a tokenizer.

        Raises:
            BundleError: ``tokenizer_json`` is damaged, or ``max_length`` leaves no room for text.
            MissingError: The kind needs the ``tokenizers`` package.
        """
        try:
            config = cast("_Json", strict_json(tokenizer_json, floats=True))
            self._tokenizer: Final[_Tokenizer] = (
                WordPiece(config) if WordPiece.reads(config) else _LibraryTokenizer(tokenizer_json, config)
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError("E0514", "tokenizer.json is damaged", why=f"{type(error).__name__}: {error}") from error
        if max_length <= sum(map(len, self._tokenizer.special)):
            raise BundleError("E0514", f"max_length {max_length} leaves no room for text")
        self.max_length: Final = max_length

    def __call__(self, text: str) -> dict[str, NDArray[np.generic]]:
        """Give ``input_ids`` and ``attention_mask``, int32 (1, max_length).

        Raises:
            UsageError: ``text`` is not a str, or holds half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise UsageError("E0909", f"the model takes a text, not {type(text).__name__}")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError("E0909", "the text is not valid Unicode: it holds half of a surrogate pair")
        ids = self._tokenizer.encode(text, self.max_length)
        input_ids = np.full((1, self.max_length), self._tokenizer.pad_id, np.int32)
        input_ids[0, : len(ids)] = ids
        attention_mask = np.zeros((1, self.max_length), np.int32)
        attention_mask[0, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _part(config: _Json, key: str) -> _Json:
    return cast("_Json", config[key])


def _template(processor: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read which special ids stand before and after a single text."""
    if processor is None:
        return (), ()
    rules = cast("_Json", processor)
    if rules["type"] == "BertProcessing":
        first, last = (cast("list[object]", rules[key])[1] for key in ("cls", "sep"))
        return (cast("int", first),), (cast("int", last),)
    special = cast("Mapping[str, Mapping[str, list[int]]]", rules["special_tokens"])
    sides: tuple[list[int], list[int]] = ([], [])
    place = 0
    for step in cast("list[Mapping[str, Mapping[str, str]]]", rules["single"]):
        if "Sequence" in step:
            place += 1
        else:
            sides[place].extend(special[step["SpecialToken"]["id"]]["ids"])
    if place != 1:
        raise ValueError("the template must hold the text once")
    return tuple(sides[0]), tuple(sides[1])


def _pad_id(config: _Json, vocabulary: Mapping[str, int]) -> int:
    padding = cast("_Json", config.get("padding") or {})
    return int(cast("int", padding["pad_id"])) if "pad_id" in padding else vocabulary["[PAD]"]
