"""Vocabularies other than BPE with bytes or scores: WordPiece, Unigram, and merges on plain characters.

Oracles: the ``tokenizers`` package on the tokenizer.json that the metadata were made from, and the definitions,
written plainly here. tests/interop asks llama.cpp about real vocabularies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Original

from gguflike.checkpoint import unigram, wordpiece
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.checkpoint.tokenizer_json import tokenizer_config_from_metadata, tokenizer_json_from_metadata
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.errors import CheckpointError, GGUFError, UnsupportedError
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import (
    BERT_NAMES,
    PIECES,
    SPACE,
    WORDS,
    XLMR_NAMES,
    added,
    bert,
    charsmap,
    template,
    tokenizer_json,
    with_ids,
    write_folder,
    xlmr,
)

PREFIX = "tokenizer.ggml."
TEXTS = (
    "Hello, hello worlds",
    "  naïve\tCAFÉ\n\n#x  ",
    "",
    " ",
    "unseen ☃ z",
    "[CLS] <s>hello</s> [MASK]<tool>",
    "hellohello" * 11,
)


# WordPiece


def test_wordpiece_keys_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, bert(), tokenizer_config=BERT_NAMES)
    metadata = metadata_from_folder(folder, {"vocab_size": len(WORDS) + 1})
    tokens = metadata.pop(PREFIX + "tokens")
    assert tokens[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", SPACE + "hello", "s"]
    assert tokens[-1] == f"{SPACE}[PAD{len(WORDS)}]"
    assert metadata.pop(PREFIX + "token_type").tolist() == [3] * 5 + [1] * (len(WORDS) - 5) + [5]
    assert {key.removeprefix(PREFIX): value for key, value in metadata.items()} == {
        "model": "bert",
        "pre": "jina-v2-en",
        "normalizer.lowercase": True,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "unknown_token_id": 1,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        "mask_token_id": 4,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": False,
    }


@pytest.mark.parametrize("normalizer", [{}, {"lowercase": False}, {"strip_accents": False}, {"strip_accents": True}])
def test_wordpiece_there_and_back(tmp_path: Path, normalizer: dict[str, Any]) -> None:
    document = bert(**normalizer)
    first = metadata_from_folder(write_folder(tmp_path / "a", document, tokenizer_config=BERT_NAMES), {})
    ours, original = Tokenizer(first), Original.from_str(json.dumps(document))
    for text in TEXTS:
        for special in (False, True):
            original.encode_special_tokens = not special
            assert ours.encode(text, parse_special=special) == original.encode(text).ids, text
            pieces = original.encode(text, add_special_tokens=False).ids
            assert ours.encode(text, add_special=False, parse_special=special) == pieces
    exported, settings = tokenizer_json_from_metadata(first), tokenizer_config_from_metadata(first)
    again = metadata_from_folder(write_folder(tmp_path / "b", exported, tokenizer_config=settings), {})
    assert tokenizer_json_from_metadata(again) == exported
    assert exported["model"] == document["model"]
    assert (
        Original.from_str(json.dumps(exported)).encode("hello", "worlds").ids == original.encode("hello", "worlds").ids
    )


def test_wordpiece_takes_the_longest_beginning() -> None:
    """A word without a token for each of its parts is unknown as a whole."""
    vocab = {word: index for index, word in enumerate(wordpiece.to_gguf(WORDS, [3] * 5 + [1] * (len(WORDS) - 5)))}
    metadata = {PREFIX + "model": "bert", PREFIX + "tokens": list(vocab), PREFIX + "token_type": [3] * 5 + [1] * 25}
    ids = {"bos": 2, "seperator": 3, "unknown": 1}
    ours = Tokenizer(metadata | {f"{PREFIX}{role}_token_id": index for role, index in ids.items()})

    def naive(word: str) -> list[int]:
        rest, found = SPACE + word, []
        while rest:
            head = next((rest[:n] for n in range(len(rest), 0, -1) if rest[:n] in vocab), None)
            if head is None:
                return [1]
            found.append(vocab[head])
            rest = rest[len(head) :]
        return found

    for word in ("hello", "worlds", "naive", "hellohello", "nax", "zs", "cafes"):
        assert ours.encode(word, add_special=False) == naive(word), word
    assert ours.encode("hello") == [2, vocab[SPACE + "hello"], 3]
    assert ours.decode(ours.encode("Hello  worlds"), skip_special=True) == "hello worlds"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": None}, "normalizer: WordPiece tokenizer is not handled; expected BertNormalizer; got None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: .* expected BertPreTokenizer; got 'Whitespace'"),
        ({"model": bert()["model"] | {"continuing_subword_prefix": "@"}}, "continuing_subword_prefix: .* expected ##"),
        ({"model": bert()["model"] | {"max_input_chars_per_word": 9}}, "max_input_chars_per_word: .* got 9"),
        ({"normalizer": bert()["normalizer"] | {"clean_text": False}}, "clean_text: .* expected True; got False"),
        ({"normalizer": bert()["normalizer"] | {"handle_chinese_chars": False}}, "handle_chinese_chars"),
    ],
)
def test_wordpiece_that_gguf_cannot_say(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        metadata_from_folder(write_folder(tmp_path, bert() | changes, tokenizer_config=BERT_NAMES), {})


# Unigram


def test_unigram_keys_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, xlmr(), tokenizer_config=XLMR_NAMES)
    metadata = metadata_from_folder(folder, {"vocab_size": len(PIECES) + 2})
    count = len(PIECES)
    assert metadata.pop(PREFIX + "tokens") == [p for p, _ in PIECES] + [f"[PAD{count}]", f"[PAD{count + 1}]"]
    scores = metadata.pop(PREFIX + "scores")
    assert scores.dtype == np.float32
    assert scores.tolist() == [score for _, score in PIECES] + [-10000.0] * 2
    assert metadata.pop(PREFIX + "token_type").tolist() == [3, 3, 3, 2] + [1] * (count - 5) + [3, 5, 5]
    stored = metadata.pop(PREFIX + "precompiled_charsmap")
    assert (stored.dtype, stored.tobytes()) == (np.uint8, charsmap())
    assert {key.removeprefix(PREFIX): value for key, value in metadata.items()} == {
        "model": "t5",
        "pre": "default",
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "unknown_token_id": 3,
        "seperator_token_id": 2,
        "padding_token_id": 1,
        "mask_token_id": count - 1,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": True,
    }


def test_unigram_there_and_back(tmp_path: Path) -> None:
    document = xlmr()
    first = metadata_from_folder(write_folder(tmp_path / "a", document, tokenizer_config=XLMR_NAMES), {})
    ours, original = Tokenizer(first), Original.from_str(json.dumps(document))
    for text in (*TEXTS, "héllo <mask> <unk>"):
        # White space of which the map makes no space separates words in the source, and is a character to llama.cpp.
        text = text.replace("\n", " ").replace("\t", " ")
        assert ours.encode(text, parse_special=True) == original.encode(text).ids, text
    exported, settings = tokenizer_json_from_metadata(first), tokenizer_config_from_metadata(first)
    again = metadata_from_folder(write_folder(tmp_path / "b", exported, tokenizer_config=settings), {})
    assert tokenizer_json_from_metadata(again) == exported
    for key, value in first.items():
        assert np.array_equal(again[key], value), key
    pair = Original.from_str(json.dumps(exported)).encode("hello", "worlds").ids
    assert pair == original.encode("hello", "worlds").ids
    assert pair.count(2) == 3


def test_unigram_finds_the_best_sum_and_no_markup_in_texts(tmp_path: Path) -> None:
    first = metadata_from_folder(write_folder(tmp_path, xlmr(), tokenizer_config=XLMR_NAMES), {})
    ours = Tokenizer(first)
    known = {piece: (score, index) for index, (piece, score) in enumerate(PIECES) if index not in (0, 1, 2, 3, 23)}
    unknown = min(score for score, _ in known.values()) - 10

    def naive(text: str) -> list[int]:
        """The best of all ways to cut a word, each word for itself; neighbours that are unknown are one."""
        found: list[int] = []
        for word in filter(None, text.replace("é", "e").split(" ")):
            best: list[tuple[float, list[int]]] = [(0.0, [])]
            spaced = SPACE + word
            for end in range(1, len(spaced) + 1):
                ways = []
                for start in range(end):
                    score, index = known.get(spaced[start:end], (unknown if end - start == 1 else -np.inf, 3))
                    ways.append((best[start][0] + score, [*best[start][1], index]))
                best.append(max(ways, key=lambda way: way[0]))
            ids = best[-1][1]
            found += [index for at, index in enumerate(ids) if at == 0 or index != 3 or ids[at - 1] != 3]
        return found

    for text in ("hello", "helloo worlds", "hé llo", "<s>hello</s>", "<unk> <mask>", "q zz h☃☃o", "  world \n s"):
        assert ours.encode(text, add_special=False) == naive(text), text
    assert 0 not in ours.encode("a<s>", add_special=False)
    assert 0 in ours.encode("a<s>", add_special=False, parse_special=True)
    assert ours.decode(ours.encode("hello worlds"), skip_special=True) == "hello worlds"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": xlmr()["model"] | {"byte_fallback": True}}, UnsupportedError, "byte_fallback"),
        ({"model": xlmr()["model"] | {"vocab": [["a", "b"]]}}, CheckpointError, r"expected \[token, score\]"),
        ({"model": xlmr()["model"] | {"vocab": {"a": 1}}}, CheckpointError, r"expected \[token, score\]"),
        ({"model": xlmr()["model"] | {"vocab": [["a"]]}}, CheckpointError, "malformed vocabulary entry"),
        ({"model": xlmr()["model"] | {"vocab": [["a", -(10**400)]]}}, CheckpointError, "malformed vocabulary entry"),
        ({"model": xlmr()["model"] | {"vocab": [["a", -1e39]]}}, CheckpointError, "malformed vocabulary entry"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": ""}},
            UnsupportedError,
            "normalizer is not handled",
        ),
        ({"normalizer": {"type": "Lowercase"}}, UnsupportedError, "normalizer is not handled"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, CheckpointError, "precompiled_charsmap"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, UnsupportedError, "pre_tokenizer step is not handled"),
    ],
)
def test_unigram_that_is_broken_or_unknown(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metadata_from_folder(write_folder(tmp_path, xlmr(**changes), tokenizer_config=XLMR_NAMES), {})


def test_a_score_beyond_every_float_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, xlmr(), tokenizer_config=XLMR_NAMES)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("-2.5", "-2.5e999", 1))
    with pytest.raises(CheckpointError, match="beyond what numbers are"):
        metadata_from_folder(folder, {})


def test_spellings_of_spaces_in_a_unigram(tmp_path: Path) -> None:
    """T5 joins runs of spaces in its normalizer, XLM-R splits at white space; without either they stay."""
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": True}
    join = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    for index, (normalizer, pre_tokenizer, expected) in enumerate(
        [
            (
                {"type": "Sequence", "normalizers": [join, {"type": "Strip"}]},
                metaspace | {"prepend_scheme": "always"},
                (True, True),
            ),
            (None, metaspace, (False, False)),
            (None, {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}, (True, False)),
        ]
    ):
        document = xlmr(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
        metadata = metadata_from_folder(write_folder(tmp_path / str(index), document, tokenizer_config=XLMR_NAMES), {})
        found = (metadata[PREFIX + "add_space_prefix"], metadata[PREFIX + "remove_extra_whitespaces"])
        assert found == expected
        assert PREFIX + "precompiled_charsmap" not in metadata
    # Readers of GGUF put a space before every text where runs of spaces become one.
    for normalizer, pre_tokenizer in ((join, metaspace), (None, {"type": "WhitespaceSplit"})):
        document = xlmr(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
        with pytest.raises(UnsupportedError, match="no space is put before a text"):
            metadata_from_folder(write_folder(tmp_path, document, tokenizer_config=XLMR_NAMES), {})


def test_a_map_of_characters_is_an_array_of_bytes() -> None:
    metadata = {PREFIX + "model": "t5", PREFIX + "tokens": ["<pad>", "</s>", "<unk>"]}
    assert (
        Vocabulary.from_metadata(metadata | {PREFIX + "precompiled_charsmap": np.array([1, 2], np.uint8)}).charsmap
        == b"\1\2"
    )
    for wrong in ("text", np.array([1, 2], np.int32), np.zeros((2, 2), np.uint8)):
        with pytest.raises(GGUFError, match="precompiled_charsmap: wrong type; expected an array of bytes"):
            Vocabulary.from_metadata(metadata | {PREFIX + "precompiled_charsmap": wrong})


# Merges on plain characters


def gemma4() -> dict[str, Any]:
    """Merges that scores cannot say: "ab" is joined before "bc", though "abc" comes of "a" and "bc" alone."""
    characters = [SPACE, "a", "b", "c", "h", "e", "\n"]
    merges = [["a", "b"], ["b", "c"], ["h", "e"], [SPACE, "he"], ["\n", "\n"], ["a", "bc"]]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    tokens += [left + right for left, right in merges]
    return tokenizer_json(
        added_tokens=[*(added(index, tokens[index]) for index in range(4)), added(len(tokens), "<|tool>", False)],
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        post_processor=with_ids(template("<bos>", "<eos>", []), {"<bos>": 2, "<eos>": 1}),
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        model={
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    )


def test_merges_on_characters_there_and_back(tmp_path: Path) -> None:
    document, names = gemma4(), {f"{role}_token": f"<{role}>" for role in ("pad", "eos", "bos", "unk")}
    first = metadata_from_folder(
        write_folder(tmp_path / "a", document, tokenizer_config=names), {"model_type": "gemma4_text"}
    )
    assert first[PREFIX + "model"] == "gemma4"
    assert PREFIX + "pre" not in first
    assert first[PREFIX + "add_space_prefix"] is False
    assert first[PREFIX + "merges"][3] == f"{SPACE} he"
    ours, original = Tokenizer(first), Original.from_str(json.dumps(document))
    for text in ("abc ab bc he", " he  he\n\n\na", "é☃<bos>", "<|tool>a<|tool>", "", "\n"):
        for special in (False, True):
            original.encode_special_tokens = not special
            assert ours.encode(text, parse_special=special) == original.encode(text).ids, text
            assert ours.decode(ours.encode(text, False, special)) == text
    exported, settings = tokenizer_json_from_metadata(first), tokenizer_config_from_metadata(first)
    again = metadata_from_folder(
        write_folder(tmp_path / "b", exported, tokenizer_config=settings), {"model_type": "gemma4"}
    )
    assert tokenizer_json_from_metadata(again) == exported
    named = {key: value for key, value in first.items() if key != PREFIX + "model"}
    for pre in ("granite-embed-multi-311m", "sarvam-moe"):
        other = Tokenizer({PREFIX + "model": "gpt2", PREFIX + "pre": pre, **named})
        assert other.encode("abc he") == ours.encode("abc he")


def test_unigram_entries_have_their_place_as_id(tmp_path: Path) -> None:
    from gguflike.checkpoint.tokenizer.files import TokenizerFiles

    source = TokenizerFiles(write_folder(tmp_path, xlmr(), tokenizer_config=XLMR_NAMES))
    assert unigram.entries(source) == [(piece, index) for index, (piece, _) in enumerate(PIECES)]
