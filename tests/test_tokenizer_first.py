"""The first tokens of a text are those of the whole text, from a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.checkpoint.encoder import Encoder
from gguflike.checkpoint.pretokenizers import SCHEMES
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.evaluate.texts import Protocol, cut
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import SPACE, byte_vocabulary, spm_metadata

DATA = Path(gguflike.__file__).parent / "data"
TEXTS = {
    name: (DATA / "calibration" / f"{name}.txt").read_text(encoding="utf-8")[:6000]
    for name in ("novels", "markup", "languages")
}
WORDS = ("the", "of", "th", "he", f"{SPACE}the", f"{SPACE}th", f"{SPACE}", f"{SPACE}{SPACE}", "t", "h", "e", "o", "f")


def kinds() -> dict[str, dict[str, Any]]:
    austen = metadata_from_folder(DATA / "austen-kjv-6m", {"vocab_size": 4096})
    unigram = spm_metadata(list(WORDS), [-float(i) for i in range(len(WORDS))], **{"tokenizer.ggml.model": "t5"})
    words = [f"{SPACE}{word}" for word in ("the", "of", "a", "in")] + list("abcdefghijklmnopqrstuvwxyz.,")
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    special = {"unknown": 1, "bos": 2, "seperator": 3, "padding": 0}
    wordpiece = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": bert,
        "tokenizer.ggml.token_type": [3] * 4 + [1] * len(words),
        **{f"tokenizer.ggml.{role}_token_id": index for role, index in special.items()},
    }
    schemes = {scheme.names.split()[0]: {**austen, "tokenizer.ggml.pre": scheme.names.split()[0]} for scheme in SCHEMES}
    ends = {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.add_bos_token": True}
    sentencepiece = spm_metadata(list(WORDS))
    return {**schemes, "ends": {**austen, **ends}, "spm": sentencepiece, "unigram": unigram, "wordpiece": wordpiece}


KINDS = kinds()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The characters of each text that is encoded."""
    lengths: list[int] = []
    encode = Encoder.encode

    def watched(self: Encoder, text: str, *others: bool) -> list[int]:
        lengths.append(len(text))
        return encode(self, text, *others)

    monkeypatch.setattr(Encoder, "encode", watched)
    return lengths


@pytest.mark.parametrize("kind", KINDS)
def test_first_tokens_are_those_of_the_whole(kind: str, looked_at: list[int]) -> None:
    tokenizer = Tokenizer(KINDS[kind])
    for name, text in TEXTS.items():
        whole = tokenizer.encode(text)
        for count in (1, 300, len(whole) - 1, len(whole) + 5):
            looked_at.clear()
            assert tokenizer.first(text, count) == whole[:count], (name, count)
            if count <= 300 and name == "novels":
                assert sum(looked_at) < len(text)


@pytest.mark.parametrize("across", ["of the", "öé x"])
def test_tokens_across_words_need_the_whole(across: str, looked_at: list[int]) -> None:
    """A token that the text may end within: nothing is told by a part."""
    spm = spm_metadata([*WORDS, across.replace(" ", SPACE)])
    byte = byte_vocabulary("<s>", "</s>", user_defined=(across,))
    for metadata in (spm, byte):
        tokenizer = Tokenizer(metadata)
        text = f"{across.replace(SPACE, ' ')} and so on, " * 500
        looked_at.clear()
        assert tokenizer.first(text, 20) == tokenizer.encode(text)[:20]
        assert looked_at[0] == len(text)


def test_markup_and_runs_of_spaces_are_nothing_across(looked_at: list[int]) -> None:
    """Nor is what stands between tokens in a file, a length of 32 among them, which is a space."""
    tokenizer = Tokenizer(byte_vocabulary("<s>", "<end of text>", user_defined=("x" * 31 + "a", "ĊĠ", "  ", "éĠ")[:3]))
    text = "so it goes on, " * 500
    assert tokenizer.first(text, 20) == tokenizer.encode(text)[:20]
    assert looked_at[0] < 200


def test_a_measure_of_few_tokens_reads_little_of_a_text(looked_at: list[int]) -> None:
    tokenizer = Tokenizer(KINDS["gpt-2"])
    text = TEXTS["novels"] * 3
    few, whole = (cut("x", text, tokenizer, Protocol(64, tokens)) for tokens in (128, None))
    assert few.chunks == whole.chunks[:2]
    assert looked_at[0] < 1000 < looked_at[1]
