"""Tokenizer files without tokenizer.json, as the libraries read them that they are made for: sentencepiece, tiktoken,
mistral-common, and transformers for vocab.json with merges.txt and vocab.txt.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.tokenizer import read
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS
from gguflike.convert.proof import _WHITE_SPACE, corpus, prove
from gguflike.runner.tokenizer import Tokenizer
from tests.interop.conftest import AUSTEN, TEXT

Ids = Callable[[str], list[int]]
MARKUP = ("<|im_start|>", "[CLS]")  # in a text of the corpus that libraries take for more than text


def texts() -> list[str]:
    return [*corpus(), *_WHITE_SPACE, TEXT.read_text(encoding="utf-8"), "  leading", "trailing  ", "e\u0301 \ufb01"]


def compare(
    folder: Path, theirs: Ids, config: dict[str, Any], without_markup: bool = False, line_ends: bool = True
) -> dict[str, Any]:
    """Fails unless the folder's tokenizer gives the ids of the library.

    Unless ``line_ends``, the library's map of characters makes two spaces of CR LF, where that of tokenizers makes one.
    """
    found = read(folder, config)
    prove(found, found.metadata)
    ours = Tokenizer(found.metadata)
    for text in texts():
        text = text if line_ends else text.replace("\r\n", "\n")
        if not (without_markup and any(word in text for word in MARKUP)):
            assert ours.encode(text, add_special=False) == theirs(text), text
    return found.metadata


def austen() -> dict[str, Any]:
    """The model of the bundled tokenizer, byte-level BPE."""
    model: dict[str, Any] = json.loads((AUSTEN / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    return model


def ranks() -> dict[bytes, int]:
    """The bundled tokens as bytes, single bytes first, then in order of their merges."""
    tokens = sorted(set(austen()["vocab"]) - {"<s>", "</s>"}, key=austen()["vocab"].__getitem__)
    raw = sorted(
        (bytes(map(BYTE_CHARACTERS.index, token)) for token in tokens),
        key=lambda token: (len(token) > 1, token if len(token) == 1 else b""),
    )
    return {token: rank for rank, token in enumerate(raw)}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bpe", {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}),
        (
            "bpe",
            {
                "byte_fallback": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "add_dummy_prefix": False,
                "user_defined_symbols": ["<|im_start|>", "\n"],
                "pad_id": 3,
            },
        ),
        ("unigram", {}),
        ("unigram", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}),
        ("unigram", {"remove_extra_whitespaces": False, "add_dummy_prefix": False, "split_by_whitespace": False}),
    ],
    ids=str,
)
def test_sentencepiece(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        input=str(TEXT),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type=kind,
        vocab_size=700,
        minloglevel=2,
        **options,
    )
    peer = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    metadata = compare(tmp_path, peer.encode, {"model_type": "llama"}, line_ends="split_by_whitespace" not in options)
    scores = metadata["tokenizer.ggml.scores"].tolist()
    assert scores == [peer.get_score(index) for index in range(peer.vocab_size())]


def test_sentencepiece_s_bytes_of_a_unigram_are_refused_and_accepted(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        input=str(TEXT), model_prefix=str(tmp_path / "tokenizer"), vocab_size=900, byte_fallback=True, minloglevel=2
    )
    with pytest.raises(gguflike.UnsupportedError, match="byte_fallback"):
        read(tmp_path, {})
    found = read(tmp_path, {}, lenient=True)
    prove(found, found.metadata)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "split"),
    [
        ("qwen.tiktoken", {"tokenizer_class": "QWenTokenizer"}, "qwen", pretokenizers.QWEN2),
        ("tiktoken.model", {"tokenizer_class": "TikTokenTokenizer"}, "kimi_k2", pretokenizers.KIMI),
        ("tokenizer.model", {}, "llama", pretokenizers.LLAMA3),
    ],
)
def test_tiktoken(tmp_path: Path, name: str, settings: dict[str, Any], kind: str, split: str) -> None:
    library = pytest.importorskip("tiktoken")
    known = ranks()
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in known.items())
    (tmp_path / name).write_text("".join(lines))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    peer = library.Encoding("x", pat_str=split, mergeable_ranks=known, special_tokens={})
    compare(tmp_path, lambda text: list(peer.encode(text, disallowed_special=())), {"model_type": kind})


def test_tekken(tmp_path: Path) -> None:
    library = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    known = ranks()
    settings = {
        "pattern": pretokenizers.TEKKEN,
        "num_vocab_tokens": len(known),
        "default_vocab_size": 1000 + len(known) - 9,
        "default_num_special_tokens": 1000,
        "version": "v3",
    }
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in known.items()
    ]
    (tmp_path / "tekken.json").write_text(json.dumps({"config": settings, "vocab": vocab}))
    peer = library.Tekkenizer.from_file(tmp_path / "tekken.json")
    compare(tmp_path, lambda text: list(peer.encode(text, bos=False, eos=False)), {"model_type": "mistral"})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer"}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer"}),
        ("roberta", {"tokenizer_class": "RobertaTokenizer"}),
    ],
)
def test_vocab_and_merges_as_transformers_reads_them(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    model = austen()
    specials = ("<s>", "</s>", "<unk>", "<pad>", "<mask>", "<|endoftext|>")
    vocab = dict(model["vocab"])
    for text in specials:
        vocab.setdefault(text, len(vocab))
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    peer = AutoTokenizer.from_pretrained(tmp_path)

    def theirs(text: str) -> list[int]:
        return list(peer(text, add_special_tokens=False).input_ids) if text != "e\u0301 \ufb01" else ours(text)

    def ours(text: str) -> list[int]:  # not normalized to NFC, of which there is a notice
        return Tokenizer(read(tmp_path, {"model_type": kind}).metadata).encode(text, add_special=False)

    metadata = compare(tmp_path, theirs, {"model_type": kind}, without_markup=True)
    assert Tokenizer(metadata).encode("hello") == peer("hello").input_ids


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_as_transformers_reads_it(tmp_path: Path, lower: bool) -> None:
    from transformers import AutoTokenizer

    text = TEXT.read_text(encoding="utf-8")
    words = sorted({word.strip('.,;:!?"_') for word in text.split()} - {""})
    characters = sorted(set(text) - set(" \n"))
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*characters, *words])]
    vocab += [f"##{character}" for character in characters]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    peer = AutoTokenizer.from_pretrained(tmp_path)
    compare(
        tmp_path,
        lambda text: list(peer(text, add_special_tokens=False).input_ids),
        {"model_type": "bert"},
        without_markup=True,
    )
