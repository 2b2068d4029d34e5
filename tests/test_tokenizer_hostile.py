"""Broken and hostile tokenizers: a typed error naming the key, or no harm where llama.cpp is tolerant too."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.checkpoint.tokenizer import metadata_from_folder, read
from gguflike.checkpoint.tokenizer_json import tokenizer_config_from_metadata
from gguflike.checkpoint.vocabulary import TokenType
from gguflike.convert.proof import prove
from gguflike.errors import CheckpointError, GGUFError, GGUFLikeError, UnsupportedError
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import added, byte_level, spm_metadata, write_folder

K = "tokenizer.ggml."


@pytest.fixture
def gpt2(tmp_path: Path) -> dict[str, Any]:
    return metadata_from_folder(write_folder(tmp_path, byte_level()), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({K + "model": "rwkv"}, "not handled; expected gpt2, llama, bert, t5, gemma4; got rwkv"),
        ({K + "model": 7}, "model: wrong type"),
        ({K + "pre": b"\xff"}, "pre: wrong type"),
        ({K + "pre": "no-such"}, "pre-tokenizer is not handled"),
        ({K + "tokens": None}, "tokens: missing"),
        ({K + "tokens": np.arange(300)}, "tokens: wrong type; expected an array of strings"),
        ({K + "tokens": "abc"}, "tokens: wrong type"),
        ({K + "tokens": []}, "vocabulary is empty"),
        ({K + "tokens": ["a", 5]}, r"tokens\[1\]: wrong type"),
        ({K + "tokens": ["a"] * 268}, "two ids share a token; got 'a' at 0 and 1"),
        ({K + "token_type": np.ones(3, np.int32)}, "shorter than the vocabulary; expected 268 entries; got 3"),
        ({K + "token_type": np.ones(268, np.uint8)}, "token_type: wrong type.*uint8"),
        ({K + "token_type": np.ones(268, np.float32)}, "token_type: wrong type.*float32"),
        ({K + "token_type": ["a"] * 268}, "token_type: wrong type"),
        ({K + "token_type": 5}, "token_type: wrong type"),
        ({K + "scores": np.ones(268, np.uint8)}, "scores: wrong type"),
        ({K + "scores": np.ones(267, np.float32)}, "scores: array is shorter"),
        ({K + "scores": np.full(268, np.nan, np.float32)}, "score is not finite"),
        ({K + "scores": np.full(268, 0x7F800001, np.uint32).view(np.float32)}, "score is not finite"),  # that signal
        ({K + "merges": None}, "merges: missing"),
        ({K + "merges": ["h e", 5]}, r"merges\[1\]: wrong type"),
        ({K + "bos_token_id": "1"}, "bos_token_id: wrong type"),
        ({K + "eos_token_id": True}, "eos_token_id: wrong type"),
        ({K + "eos_token_id": np.arange(3)}, "eos_token_id: wrong type"),
        ({K + "add_bos_token": 1}, "add_bos_token: wrong type"),
        ({K + "add_bos_token": True, K + "bos_token_id": 268}, "no such token"),
        ({K + "add_eos_token": True, K + "eos_token_id": -1}, "no such token"),
    ],
)
def test_bad_metadata_is_a_typed_error(gpt2: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    broken = {key: value for key, value in (gpt2 | changes).items() if value is not None}
    with pytest.raises((GGUFError, UnsupportedError), match=message):
        Tokenizer(broken).encode("hello")


@pytest.mark.parametrize(
    "changes",
    [
        {K + "bos_token_id": 2**32 - 1},
        {K + "eos_token_id": 268},
        {K + "padding_token_id": -1},
        {K + "merges": ["h e", "nospace", " ", "", "x ", " y", "no such", "h e l l o", b"\xff \xfe"]},
        {K + "token_type": np.full(300, 99, np.int32)},
        {K + "scores": np.ones(300, np.float32)},
        {"tokenizer.chat_template": 5, "tokenizer.chat_template.x": b"\xff"},
    ],
)
def test_what_llama_cpp_tolerates_does_no_harm(gpt2: dict[str, Any], changes: dict[str, Any]) -> None:
    tokenizer = Tokenizer(gpt2 | changes)
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
    assert all(0 <= index < tokenizer.vocab_size for index in tokenizer.eos_ids)


@pytest.mark.parametrize("token", ["<0x-1>", "<0xZZ>", "<0x100>", "a", "<0x>"])
def test_byte_token_that_names_no_byte(token: str) -> None:
    metadata = spm_metadata(["a", "b"])
    metadata[K + "tokens"][259], metadata[K + "token_type"][259] = token, 6
    with pytest.raises(GGUFError, match=r"tokens\[259\]: byte token names no byte"):
        Tokenizer(metadata)


def test_missing_byte_tokens_become_unknown() -> None:
    metadata = spm_metadata(["a", "b"])
    del metadata[K + "tokens"][100:110], metadata[K + "token_type"][100:110]
    assert Tokenizer(metadata).encode("ab", add_special=False)


def test_tokens_that_are_not_utf8_and_empty_ones() -> None:
    metadata = spm_metadata(["a", b"\xff\xfe", "", "b"])
    tokenizer = Tokenizer(metadata)
    assert tokenizer.token_bytes(260) == b"\xff\xfe"
    assert tokenizer.decode([259, 260, 262]) == "a\ufffd\ufffdb"
    assert [i for i in tokenizer.encode("ab") if i > 258] == [259, 262]


def test_absurdly_long_tokens_take_no_time() -> None:
    with pytest.raises(GGUFError, match=r"tokens: tokens are too long.*got 100000"):
        Tokenizer(spm_metadata(["a" * 100_000, "b"])).encode("ab")


def test_context_length_of_the_wrong_type_is_left_out(gpt2: dict[str, Any]) -> None:
    for length, kept in (("x", None), (np.arange(3), None), (2048, 2048)):
        metadata = gpt2 | {"general.architecture": "llama", "llama.context_length": length}
        assert tokenizer_config_from_metadata(metadata).get("model_max_length") == kept


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "model: malformed tokenizer.json; expected dict; got NoneType"),
        (byte_level(model={"type": "WordLevel", "vocab": {}}), "expected BPE, WordPiece or Unigram; got WordLevel"),
        (byte_level(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "vocabulary is empty"),
        (byte_level(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}), "malformed vocabulary entry"),
        (byte_level(model={"type": "BPE", "vocab": {"a": 2**40}, "merges": []}), "does not fit config.json"),
        (byte_level(model={"type": "BPE", "vocab": {"a": True}, "merges": []}), "malformed vocabulary entry"),
        (byte_level(model={"type": "BPE", "vocab": {"a": 7, "b": 7}, "merges": []}), "two tokens share an id"),
        (byte_level(added_tokens=[added(4, "<new>")]), "two tokens share an id; got .* and '<new>' at 4"),
        (
            byte_level(model=byte_level()["model"] | {"merges": {"a": 1}}),
            "model.merges: wrong kind of value",
        ),
        (
            byte_level(model=byte_level()["model"] | {"merges": [["h", "e"], ["l", 7]]}),
            r"malformed merge; got \['l', 7\]",
        ),
        (byte_level(added_tokens=[5]), "added_tokens: malformed tokenizer.json; expected objects with id"),
        (byte_level(normalizer={"type": "Lowercase"}), "normalizer is not handled"),
        (byte_level(pre_tokenizer=None), "neither byte-level nor has byte fallback"),
        (byte_level(pre_tokenizer=[1]), "pre_tokenizer: malformed tokenizer.json; got list"),
    ],
)
def test_bad_tokenizer_json(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        metadata_from_folder(write_folder(tmp_path, document), {})


def test_an_id_that_only_equals_the_vocabulary_s_is_none(tmp_path: Path) -> None:
    document = byte_level()
    (first,) = (text for text, own in document["model"]["vocab"].items() if own == 0)
    document["added_tokens"] = [{**added(0, first), "id": 5}]
    reading = read(write_folder(tmp_path, document), {})
    assert reading.metadata["tokenizer.ggml.token_type"][0] == TokenType.CONTROL
    assert any("and 5 among the added tokens: 0 is used" in notice for notice in reading.notices)
    for index in (-0.0, False):
        document["added_tokens"] = [{**added(0, first), "id": index}]
        with pytest.raises(CheckpointError, match=r"added_tokens\[0\].id: wrong kind of value"):
            read(write_folder(tmp_path, document), {})


def test_bad_merges_and_files(tmp_path: Path) -> None:
    document = byte_level()
    document["model"]["merges"] = ["a b c"]
    with pytest.raises(CheckpointError, match="malformed merge"):
        metadata_from_folder(write_folder(tmp_path, document), {})
    with pytest.raises(CheckpointError, match="the folder has no tokenizer"):
        metadata_from_folder(tmp_path / "nowhere", {})
    (tmp_path / "tokenizer.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(CheckpointError, match="duplicate key"):
        metadata_from_folder(tmp_path, {})
    with pytest.raises(CheckpointError, match="ids below vocab_size 100"):
        metadata_from_folder(write_folder(tmp_path, byte_level()), {"vocab_size": 100})


JUNK = (None, True, -1, 2**63, 1.5, "", "x" * 50, [], {}, [[]], [{}], {"type": "Sequence"}, [None, 1], {"a": [1]})


def mutate(node: Any, rng: random.Random) -> Any:
    """The document with one node, picked at random from the root down, replaced by junk or dropped."""
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(sorted(node))
        if rng.random() < 0.1:
            return {k: v for k, v in node.items() if k != key}
        return node | {key: mutate(node[key], rng)}
    if isinstance(node, list) and node and rng.random() < 0.9:
        at = rng.randrange(len(node))
        return [*node[:at], mutate(node[at], rng), *node[at + 1 :]]
    return copy.deepcopy(rng.choice(JUNK))


TEMPLATE_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
}
DOCUMENTS = (
    byte_level(
        post_processor={"type": "Sequence", "processors": [TEMPLATE_PROCESSOR]},
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}],
        },
    ),
)
CONFIG = {
    "bos_token": {"content": "<s>"},
    "eos_token": "</s>",
    "add_eos_token": False,
    "chat_template": [{"name": "default", "template": "x"}],
}


def test_mutated_folders_give_typed_errors_or_metadata(tmp_path: Path) -> None:
    from gguflike.checkpoint.tokenizer_json import tokenizer_json_from_metadata

    spm = tokenizer_json_from_metadata(spm_metadata(["a", "b", "ab", "\u2581"]))
    outcomes = {"error": 0, "metadata": 0}
    for seed in range(600):
        rng = random.Random(seed)
        document, config, model_config = rng.choice((*DOCUMENTS, spm)), CONFIG, {"vocab_size": 300, "eos_token_id": [2]}
        which = rng.randrange(4)
        if which < 2:
            document = mutate(document, rng)
        elif which == 2:
            config = mutate(config, rng)
        else:
            model_config = mutate(model_config, rng)
        if not isinstance(model_config, dict):
            continue
        folder = write_folder(tmp_path, document, tokenizer_config=config)
        try:
            found = read(folder, model_config, lenient=seed % 2 == 0)
            if seed % 10 == 0:
                prove(found, found.metadata)
        except GGUFLikeError:
            outcomes["error"] += 1
        else:
            metadata = found.metadata
            outcomes["metadata"] += 1
            assert all(isinstance(token, str) for token in metadata[K + "tokens"])
            json.dumps({k: v for k, v in metadata.items() if not isinstance(v, np.ndarray)})
    assert min(outcomes.values()) > 100


def test_mutated_metadata_gives_typed_errors_or_a_tokenizer(tmp_path: Path) -> None:
    base = metadata_from_folder(
        write_folder(tmp_path, byte_level(), tokenizer_config=CONFIG), {"eos_token_id": [2, 0]}
    ) | {K + "scores": np.zeros(268, np.float32)}
    junk = (
        *JUNK,
        b"\xff",
        np.zeros(3, np.uint8),
        np.zeros(268, np.int64),
        np.full(268, 3, np.int32),
        np.float32(1),
        267,
    )
    outcomes = {"error": 0, "tokenizer": 0}
    for key in sorted(base):
        for value in junk:
            try:
                tokenizer = Tokenizer(base | {key: value})
                ids = tokenizer.encode("hello <|end|> 12", parse_special=True)
            except GGUFLikeError:
                outcomes["error"] += 1
            else:
                outcomes["tokenizer"] += 1
                assert all(0 <= index < tokenizer.vocab_size for index in [*ids, *tokenizer.eos_ids])
                tokenizer.decode(ids)
    assert min(outcomes.values()) > 30
