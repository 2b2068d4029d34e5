"""Encoding with an excerpt of the vocabulary gives what encoding with all of it gives."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HF

import gguflike
from gguflike.checkpoint import encoder, pretokenizers
from gguflike.checkpoint.excerpt import MAX_BYTES, excerpt
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.checkpoint.tokenizer_json import document
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import SPACE, XLMR_NAMES, byte_level, spm_metadata, write_folder, xlmr

AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"


def same(vocabulary: Vocabulary, whole: HF, text: str) -> None:
    """Fails unless an excerpt is made and encodes as ``whole``, with markup as markup and as text."""
    part = excerpt(vocabulary, text)
    assert part is not None
    few = HF.from_str(json.dumps(document(vocabulary, part)))
    for few.encode_special_tokens in (True, False):
        whole.encode_special_tokens = few.encode_special_tokens
        assert few.encode(text).ids == whole.encode(text).ids


def both(metadata: dict[str, Any]) -> tuple[Vocabulary, HF]:
    vocabulary = Vocabulary.from_metadata(metadata)
    return vocabulary, HF.from_str(json.dumps(document(vocabulary)))


@lru_cache
def austen() -> dict[str, Any]:
    return metadata_from_folder(AUSTEN, {"vocab_size": 4096})


@lru_cache
def english(pre: str, prefix: bool) -> tuple[Vocabulary, HF]:
    """The bundled vocabulary under any splitting scheme, with some of its tokens made markup."""
    metadata = dict(austen())
    types = metadata["tokenizer.ggml.token_type"].copy()
    tokens = metadata["tokenizer.ggml.tokens"]
    types[[tokens.index(word) for word in ("Ġthe", "ing", "Mr", "en")]] = [3, 4, 4, 3]
    changes = {"pre": pre, "add_space_prefix": prefix, "token_type": types, "add_bos_token": True}
    return both(metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})


PAGE = (AUSTEN.parent / "page.txt").read_text(encoding="utf-8")
ENGLISH = st.one_of(
    st.integers(0, len(PAGE) - 60).flatmap(lambda at: st.integers(0, 60).map(lambda n: PAGE[at : at + n])),
    st.text(max_size=12),
    st.sampled_from(["Ġthe", "ing", "Mr", "</s>", "  ", "\n\n", "'ll", "1234567", "é", "🦙"]),
)
SCHEMES = [scheme.name for scheme in pretokenizers.SCHEMES]


@settings(deadline=None, max_examples=200)
@given(st.lists(ENGLISH, max_size=5).map("".join), st.sampled_from([*SCHEMES, *["gpt-2"] * 9]), st.booleans())
def test_byte_level(text: str, pre: str, prefix: bool) -> None:
    if prefix and pre != "gpt-2":  # a space before every word
        assert excerpt(english(pre, prefix)[0], text) is None
    else:
        same(*english(pre, prefix), text)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text("abc" + SPACE, min_size=2, max_size=4), unique=True, max_size=12),
    st.lists(st.sampled_from([*"abc ", "<x>", "<yy>", "é", "▁"]), max_size=14).map("".join),
    st.booleans(),
)
def test_sentencepiece(words: list[str], text: str, prefix: bool) -> None:
    metadata = spm_metadata([*words, *"abc", SPACE, "<x>", "<yy>"], **{"tokenizer.ggml.add_space_prefix": prefix})
    metadata["tokenizer.ggml.token_type"][-2:] = [3, 4]
    same(*both(metadata), text)


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("abc h\ne\u2581\u00e9<>t"), max_size=30))
def test_merges_on_characters(text: str) -> None:
    """A SentencePiece vocabulary with merges of its own, which scores could not say."""
    words = [SPACE, *"abche\n<>", "ab", "bc", "abc", "he", SPACE + "he", "\n\n", "<t>"]
    merges = ["a b", "b c", "h e", f"{SPACE} he", "\n \n", "a bc"]
    changes = {"model": "gemma4", "merges": merges, "add_bos_token": True, "bos_token_id": 1}
    metadata = spm_metadata(words, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    metadata["tokenizer.ggml.token_type"][-1] = 4
    vocabulary, whole = both(metadata)
    same(vocabulary, whole, text)
    assert vocabulary.model == "gemma4"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["hello", "worlds", "s", "he", " ", "  ", "\u00e9", "\u2603", "<s>", "<mask>", "q"])).map(
        "".join
    ),
    st.booleans(),
    st.booleans(),
)
def test_unigram(text: str, merged: bool, markup: bool) -> None:
    vocabulary = Vocabulary.from_metadata(xlmr_metadata() | {"tokenizer.ggml.remove_extra_whitespaces": merged})
    part = excerpt(vocabulary, text)
    assert part is not None
    few, whole = encoder.Part(vocabulary, part, markup), encoder.Part(vocabulary, None, markup)
    for special in (True, False):
        assert few([text], special, markup) == whole([text], special, markup)


@lru_cache
def xlmr_metadata() -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return metadata_from_folder(write_folder(Path(folder) / "x", xlmr(), tokenizer_config=XLMR_NAMES), {})


def test_odd_merges(tmp_path: Path) -> None:
    """Merges that are there twice, of no tokens, or with a space in a part: what the whole makes of them."""
    metadata = metadata_from_folder(write_folder(tmp_path, byte_level()), {})
    odd = ["h e", "l l", "o r", "he llo", "h e l", "no such", "x", "Ġw or", "Ġ w", "hell o", "he ll", "h e", b"\xff o"]
    vocabulary, whole = both(metadata | {"tokenizer.ggml.merges": odd})
    for text in ("hello world", "hell", " worlds", "hhee llo", "12"):
        same(vocabulary, whole, text)


def test_where_the_whole_is_better(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_metadata(metadata_from_folder(write_folder(tmp_path, byte_level()), {}))
    assert excerpt(vocabulary, "x" * MAX_BYTES) is not None
    assert excerpt(vocabulary, "x" * (MAX_BYTES + 1)) is None
    assert excerpt(vocabulary, "é" * (MAX_BYTES // 2)) is None  # four bytes each, as tokens write it
    phi = spm_metadata(["a"], **{"general.name": "Phi-3 mini"})
    assert excerpt(Vocabulary.from_metadata(phi), "a") is None


def test_the_whole_is_made_after_a_few_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(encoder, "document", lambda *args: made.append(args[1] is None) or document(*args))
    tokenizer = Tokenizer(metadata_from_folder(write_folder(tmp_path, byte_level()), {}))
    first = tokenizer.encode("hello world")
    assert made == [False]
    assert all(tokenizer.encode("hello world") == first for _ in range(20))
    assert made == [False] * (len(made) - 1) + [True]
    assert 3 < len(made) < 12
