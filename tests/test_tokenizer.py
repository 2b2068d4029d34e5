"""The tokenizer both ways: token ids, round trips through GGUF metadata, special tokens, decoding."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HF

import gguflike
from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.tokenizer import metadata_from_folder
from gguflike.checkpoint.tokenizer_json import tokenizer_config_from_metadata, tokenizer_json_from_metadata
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS, TokenType, Vocabulary
from gguflike.errors import GGUFLikeError, TemplateError, UnsupportedError
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import SPACE, added, byte_level, naive_sentencepiece, spm_metadata, write_folder

AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
GOLDENS = json.loads((Path(__file__).parent / "data" / "tokenizer_goldens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def austen() -> dict[str, Any]:
    return metadata_from_folder(AUSTEN, {"vocab_size": 4096})


def test_token_ids_are_llama_cpps(austen: dict[str, Any]) -> None:
    tokenizer = Tokenizer(austen)
    assert len(GOLDENS) == 47
    for row in GOLDENS:
        assert tokenizer.encode(row["text"], add_special=False) == row["ids"], row["text"]
        assert tokenizer.decode(row["ids"]) == row["text"]


def test_token_ids_are_the_originals_on_a_page(austen: dict[str, Any]) -> None:
    page = (AUSTEN.parent / "page.txt").read_text(encoding="utf-8")
    ids = HF.from_file(str(AUSTEN / "tokenizer.json")).encode(page).ids
    assert Tokenizer(austen).encode(page) == ids
    assert Tokenizer(austen).decode(ids) == page


def test_bundled_tokenizer_json_comes_back_as_it_was(austen: dict[str, Any]) -> None:
    assert tokenizer_json_from_metadata(austen) == json.loads((AUSTEN / "tokenizer.json").read_text(encoding="utf-8"))


def test_metadata_is_what_the_container_writes(austen: dict[str, Any]) -> None:
    assert austen["tokenizer.ggml.model"] == "gpt2"
    assert austen["tokenizer.ggml.pre"] == "gpt-2"
    assert austen["tokenizer.ggml.token_type"].dtype == np.int32
    assert austen["tokenizer.ggml.token_type"].tolist() == [3, 3] + [1] * 4094
    assert austen["tokenizer.ggml.merges"][0] == "Ġ t"
    assert (austen["tokenizer.ggml.bos_token_id"], austen["tokenizer.ggml.eos_token_id"]) == (0, 1)
    assert austen["tokenizer.ggml.add_bos_token"] is False


def test_export_and_conversion_are_inverse(tmp_path: Path) -> None:
    """Folder -> metadata -> folder -> metadata: the same metadata."""
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True, "chat_template": "{{ 1 }}"}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    original = byte_level(post_processor={"type": "TemplateProcessing", "single": single})
    first = metadata_from_folder(write_folder(tmp_path / "a", original, tokenizer_config=config), {"vocab_size": 300})
    assert first["tokenizer.ggml.add_bos_token"] is True
    document, settings = tokenizer_json_from_metadata(first), tokenizer_config_from_metadata(first)
    again = metadata_from_folder(write_folder(tmp_path / "b", document, tokenizer_config=settings), {"vocab_size": 300})
    assert again.pop("tokenizer.ggml.add_sep_token") is False  # the exported template for pairs says so
    assert list(again) == list(first)
    for key, value in first.items():
        assert np.array_equal(again[key], value), key
    assert first["tokenizer.ggml.tokens"][268:] == [f"[PAD{i}]" for i in range(268, 300)]
    assert first["tokenizer.ggml.token_type"].tolist()[260:] == [1] * 7 + [4] + [5] * 32
    assert first["tokenizer.chat_template"] == "{{ 1 }}"


# Pre-tokenizers


@pytest.mark.parametrize("scheme", pretokenizers.SCHEMES, ids=lambda scheme: scheme.name)
def test_every_scheme_is_recognized_in_what_it_is_exported_as(scheme: pretokenizers.PreTokenizer) -> None:
    node = pretokenizers.to_json(scheme, add_prefix_space=False)
    found = pretokenizers.recognize(node, scheme.ignore_merges)
    assert (found.splits, found.ignore_merges) == (scheme.splits, scheme.ignore_merges)
    assert found is scheme or scheme.name == "glm4"  # which does what llama-bpe does; only its defaults differ
    tokenizer = HF.from_str(json.dumps(byte_level(pre_tokenizer=node)))  # Oniguruma accepts every expression
    text = " Hello, they'LL pay 1234.5 dollars -- in 北京!\n\n  ok"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text  # and nothing of the text is lost


def test_scheme_names_are_unique() -> None:
    names = [name for scheme in pretokenizers.SCHEMES for name in scheme.names.split()]
    assert len(names) == len(set(names)) > 60


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WITH_REGEX = BYTE_LEVEL | {"use_regex": True}


@pytest.mark.parametrize(
    ("node", "ignore_merges", "name"),
    [
        (WITH_REGEX, False, "gpt-2"),
        (sequence(split(LLAMA3), BYTE_LEVEL), True, "llama-bpe"),
        (sequence(split(LLAMA3, "Removed", True), BYTE_LEVEL), True, "llama-bpe"),
        (sequence(split(LLAMA3), BYTE_LEVEL), False, "dbrx"),
        (sequence(split(LLAMA3.replace("{1,3}", "")), BYTE_LEVEL), False, "qwen2"),
        (sequence({"type": "Digits", "individual_digits": True}, WITH_REGEX), False, "smollm"),
        (sequence(sequence(split(r"\p{N}")), WITH_REGEX), False, "smollm"),
        (sequence(split(LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n")), BYTE_LEVEL), True, "llama-bpe"),
    ],
)
def test_schemes_are_told_by_what_they_do(node: dict[str, Any], ignore_merges: bool, name: str) -> None:
    assert pretokenizers.recognize(node, ignore_merges).name == name


def test_unknown_scheme_shows_its_expression() -> None:
    with pytest.raises(UnsupportedError, match=r"\[a-z\]\+ then \\d"):
        pretokenizers.recognize(sequence(split("[a-z]+"), split(r"\d"), BYTE_LEVEL), False)
    with pytest.raises(UnsupportedError, match="no-such-scheme"):
        pretokenizers.by_name("no-such-scheme")
    with pytest.raises(UnsupportedError, match="Whitespace"):
        pretokenizers.recognize(sequence({"type": "Whitespace"}, BYTE_LEVEL), False)


# SentencePiece


WORDS = [SPACE + "t", "he", "in", SPACE + "a", "er", SPACE + "the", "ing", SPACE * 2, "there", SPACE, *"thinegrasx"]


def test_sentencepiece_joins_by_score() -> None:
    tokenizer = Tokenizer(spm_metadata(WORDS))
    text = "the  there xing"
    got = [tokenizer.vocabulary.tokens[i] for i in tokenizer.encode(text)]
    scores = dict(zip(tokenizer.vocabulary.tokens, tokenizer.vocabulary.scores, strict=True))
    assert got == ["<s>", *naive_sentencepiece(SPACE + text.replace(" ", SPACE), scores)]
    assert got == ["<s>", "▁the", "▁", "▁the", "r", "e", "▁", "x", "ing"]


def test_sentencepiece_bytes_and_prefix() -> None:
    tokenizer = Tokenizer(spm_metadata(WORDS))
    ids = tokenizer.encode("é the")
    assert [tokenizer.vocabulary.tokens[i] for i in ids] == ["<s>", "▁", "<0xC3>", "<0xA9>", "▁the"]
    assert tokenizer.decode(ids[1:]) == "é the"
    assert tokenizer.decode(ids, skip_special=True) == "é the"
    bare = Tokenizer(spm_metadata(WORDS, **{"tokenizer.ggml.add_space_prefix": False}))
    assert [bare.vocabulary.tokens[i] for i in bare.encode("the", add_special=False)] == ["t", "he"]
    assert tokenizer.encode("") == [1]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("abc" + SPACE, min_size=2, max_size=4), unique=True, max_size=12),
    st.text("abc ", max_size=14),
    st.randoms(use_true_random=False),
)
def test_sentencepiece_against_the_plainest_one(words: list[str], text: str, random: Any) -> None:
    """Distinct scores and no word that repeats itself, so that no two equal unions overlap."""
    words = [word for word in words if all(word[n:] != word[:-n] for n in range(1, len(word)))]
    random.shuffle(words)
    tokenizer = Tokenizer(spm_metadata([*words, *"abc", SPACE], **{"tokenizer.ggml.add_space_prefix": False}))
    scores = dict(zip(tokenizer.vocabulary.tokens, tokenizer.vocabulary.scores, strict=True))
    got = [tokenizer.vocabulary.tokens[i] for i in tokenizer.encode(text, add_special=False)]
    assert got == naive_sentencepiece(text.replace(" ", SPACE), scores)


def test_runs_of_one_character_join_from_the_left() -> None:
    words = ["--", "----", "---", "-"]
    tokenizer = Tokenizer(spm_metadata(words, **{"tokenizer.ggml.add_space_prefix": False}))
    scores = dict(zip(tokenizer.vocabulary.tokens, tokenizer.vocabulary.scores, strict=True))
    for count in range(1, 20):
        got = [tokenizer.vocabulary.tokens[i] for i in tokenizer.encode("-" * count, add_special=False)]
        assert got == naive_sentencepiece("-" * count, scores), count


def test_sentencepiece_survives_the_round_trip(tmp_path: Path) -> None:
    first = spm_metadata(WORDS)
    folder = write_folder(
        tmp_path, tokenizer_json_from_metadata(first), tokenizer_config=tokenizer_config_from_metadata(first)
    )
    again = metadata_from_folder(folder, {})
    assert again["tokenizer.ggml.model"] == "llama"
    assert again["tokenizer.ggml.tokens"] == first["tokenizer.ggml.tokens"]
    assert again["tokenizer.ggml.token_type"].tolist() == first["tokenizer.ggml.token_type"]
    assert again["tokenizer.ggml.add_space_prefix"] is True
    assert again["tokenizer.ggml.add_bos_token"] is True
    assert tokenizer_json_from_metadata(again) == tokenizer_json_from_metadata(first)
    merged = [i for i, word in enumerate(WORDS, 259) if len(word) > 1]
    ranks = again["tokenizer.ggml.scores"][merged]
    assert ranks.tolist() == sorted(ranks.tolist(), reverse=True)


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "prefix"),
    [
        (None, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}, True),
        (None, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}, False),
        (
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            False,
        ),
    ],
)
def test_spellings_of_the_space_prefix(tmp_path: Path, normalizer: Any, pre_tokenizer: Any, prefix: bool) -> None:
    document = tokenizer_json_from_metadata(spm_metadata(WORDS))
    document |= {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    assert metadata_from_folder(write_folder(tmp_path, document), {})["tokenizer.ggml.add_space_prefix"] is prefix


def test_bpe_that_scores_cannot_express_is_refused(tmp_path: Path) -> None:
    document = tokenizer_json_from_metadata(spm_metadata(WORDS))
    document["model"]["merges"].remove(["i", "ng"] if ["i", "ng"] in document["model"]["merges"] else ["in", "g"])
    with pytest.raises(UnsupportedError, match=r"merge of 'in' and 'g'.*1 missing"):
        metadata_from_folder(write_folder(tmp_path, document), {})


# Special tokens


def test_markup_in_user_text_stays_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(metadata_from_folder(write_folder(tmp_path, byte_level()), {}))
    marked = tokenizer.encode("hello<|end|><tool>", parse_special=True)
    assert [tokenizer.vocabulary.tokens[i] for i in marked] == ["hello", "<|end|>", "<tool>"]
    plain = tokenizer.encode("hello<|end|><tool>")
    assert 0 not in plain
    assert plain[-1] == marked[-1]  # user-defined tokens are words, not markup
    assert tokenizer.decode(marked) == tokenizer.decode(plain) == "hello<|end|><tool>"
    assert tokenizer.decode(marked, skip_special=True) == "hello<tool>"


def test_special_ids_by_text_then_number(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path,
        byte_level(),
        tokenizer_config={"bos_token": "<s>"},
        special_tokens_map={"pad_token": {"content": "</s>"}},
    )
    found = metadata_from_folder(
        folder, {"bos_token_id": 2, "eos_token_id": [2, 0]}, {"eos_token_id": 1, "pad_token_id": 9}
    )
    keys = {key: value for key, value in found.items() if key.endswith("_id")}
    assert keys == {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.eot_token_id": 0,
        "tokenizer.ggml.eom_token_id": 1,
    }
    tokenizer = Tokenizer(found)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (1, {0, 1, 2}, 268)


def test_bos_is_added_where_the_post_processor_does(tmp_path: Path) -> None:
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": single}]}
    folder = write_folder(
        tmp_path, byte_level(post_processor=processor), tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"}
    )
    tokenizer = Tokenizer(metadata_from_folder(folder, {}))
    assert tokenizer.encode("hello") == [1, *tokenizer.encode("hello", add_special=False)]
    stated = write_folder(tmp_path, byte_level(post_processor=processor), tokenizer_config={"add_bos_token": False})
    assert metadata_from_folder(stated, {"bos_token_id": 1})["tokenizer.ggml.add_bos_token"] is True


def test_end_tokens_known_by_text() -> None:
    words = ["<|im_end|>", "<|eot_id|>", "<|end|>", "plain", "<|file_sep|>"]
    assert Tokenizer(spm_metadata(words)).eos_ids == {2, 259, 260, 261, 263}
    harmony = Tokenizer(spm_metadata(["<|return|>", "<|call|>", "<|end|>"]))
    assert harmony.eos_ids == {2, 259, 260}  # there <|end|> ends a message, not the turn


def test_chat_templates_of_all_kinds(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "A{{ bos_token }}"}, {"name": "tool_use", "template": "B"}]
    config = {"bos_token": "<s>", "chat_template": named}
    found = metadata_from_folder(write_folder(tmp_path, byte_level(), tokenizer_config=config), {})
    assert found["tokenizer.chat_template"] == "A{{ bos_token }}"
    assert found["tokenizer.chat_template.tool_use"] == "B"
    assert found["tokenizer.chat_templates"] == ["tool_use"]
    assert tokenizer_config_from_metadata(found)["chat_template"] == named
    (tmp_path / "chat_template.jinja").write_text("C{{ messages[0].content }}")
    tokenizer = Tokenizer(metadata_from_folder(tmp_path, {}))
    assert tokenizer.chat_templates == {"default": "C{{ messages[0].content }}", "tool_use": "B"}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "Chi"
    with pytest.raises(TemplateError, match="no chat template 'rag'"):
        tokenizer.apply_chat_template([], name="rag")


# Decoding


def test_stream_holds_back_incomplete_characters(austen: dict[str, Any]) -> None:
    tokenizer = Tokenizer(austen)
    text = "naïve 🦙 ½"
    ids = tokenizer.encode(text)
    stream = tokenizer.stream()
    pieces = [stream.push(index) for index in ids]
    assert "".join(pieces) + stream.flush() == text
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces
    stream = tokenizer.stream()
    assert stream.push(tokenizer.encode("é", add_special=False)[0]) == ""
    assert stream.flush() == "\ufffd"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives(text: str) -> None:
    tokenizer = AUSTEN_TOKENIZER
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode()
    stream = tokenizer.stream(skip_special=False)
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)


AUSTEN_TOKENIZER = Tokenizer(metadata_from_folder(AUSTEN, {}))


def test_decoding_an_unknown_id_is_an_error(austen: dict[str, Any]) -> None:
    for index in (-1, 4096):
        with pytest.raises(GGUFLikeError, match="no such token"):
            Tokenizer(austen).decode([index])


def test_added_token_files_are_read(tmp_path: Path) -> None:
    document = byte_level(added_tokens=[added(0, "<|end|>")])
    folder = write_folder(tmp_path, document, added_tokens={"<extra>": 267})
    found = metadata_from_folder(folder, {})
    assert found["tokenizer.ggml.tokens"][267] == "<extra>"
    assert found["tokenizer.ggml.token_type"][267] == 4


def test_schemes_that_are_nearly_known() -> None:
    node = sequence(split(LLAMA3.replace("{1,3}", "")), BYTE_LEVEL)
    with pytest.raises(UnsupportedError, match="with ignore_merges=True"):
        pretokenizers.recognize(node, True)
    with pytest.raises(UnsupportedError, match="got no splitting"):
        pretokenizers.recognize(None, False)
    for behavior, invert in (("Removed", False), ("MergedWithNext", True)):
        with pytest.raises(UnsupportedError, match="Split is not handled"):
            pretokenizers.recognize(sequence(split(LLAMA3, behavior, invert), BYTE_LEVEL), True)
    with pytest.raises(UnsupportedError, match="Split is not handled"):
        pretokenizers.recognize({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}, False)


@pytest.mark.parametrize(
    ("step", "expression"),
    [
        ({"type": "Digits", "individual_digits": True}, r"\p{N}"),
        ({"type": "Digits", "individual_digits": False}, r"\p{N}+"),
        ({"type": "Punctuation", "behavior": "Contiguous"}, pretokenizers._PUNCTUATION),
        ({"type": "ByteLevel"}, pretokenizers.GPT2),
    ],
)
def test_steps_and_their_expressions(step: dict[str, Any], expression: str) -> None:
    assert pretokenizers.splits_of(step) == [expression]
    assert pretokenizers.splits_of(BYTE_LEVEL) == []


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("<|end|> </s>", "<|end|> </s>"),
        ("<|end|> <|return|> <|call|>", "<|return|> <|call|>"),
        ("<|end|> <|return|>", "<|end|> <|return|>"),
        ("<|end|> <|flush|> <|calls|>", "<|flush|> <|calls|>"),
        ("<|end|> <|flush|>", "<|end|> <|flush|>"),
        ("</s> <|tool_response> <|im_end|>", "<|tool_response> <|im_end|>"),
    ],
    ids=str,
)
def test_tokens_that_end_by_their_text(words: str, ends: str) -> None:
    tokens = ["a", *words.split()]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] + [3] * (len(tokens) - 1),
        "tokenizer.ggml.merges": ["a a"],
    }
    assert {tokens[index] for index in Tokenizer(metadata).vocabulary.end_ids} == set(ends.split())


def test_a_word_put_into_the_vocabulary_by_hand_is_its_text() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "\u4f60", "\u0120b"],
        "tokenizer.ggml.token_type": [1, 1, 1],
        "tokenizer.ggml.merges": ["a a"],
    }
    tokenizer = Tokenizer(metadata)
    assert [tokenizer.token_bytes(index) for index in range(3)] == [b"a", "\u4f60".encode(), b" b"]


def test_a_chat_template_that_cannot_be_read(tmp_path: Path) -> None:
    write_folder(tmp_path, byte_level())
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(GGUFLikeError, match=r"chat_template.jinja, byte 0: not UTF-8"):
        metadata_from_folder(tmp_path, {})


def test_byte_characters_are_gpt_2s() -> None:
    """Printable Latin-1 stands for itself; the other bytes, in order, for the characters from U+0100 on."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    moved = [byte for byte in range(256) if byte not in itself]
    assert len(moved) == 68
    assert [ord(BYTE_CHARACTERS[byte]) for byte in itself] == itself
    assert [ord(BYTE_CHARACTERS[byte]) for byte in moved] == list(range(0x100, 0x100 + 68))


def test_token_types_are_those_of_the_gguf_package() -> None:
    assert {kind.name: kind.value for kind in TokenType if kind.name != "UNDEFINED"} == {
        kind.name: kind.value for kind in gguf.TokenType
    }


def test_merges_that_name_no_pair_are_left_out() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.token_type": [1, 1, 1],
        "tokenizer.ggml.merges": ["a b", "ab", "a ", " b", "  b", "a b c", b"\xff b", "b c"],
    }
    assert Vocabulary.from_metadata(metadata).merges() == [("a", "b"), (" ", "b"), ("a", "b c"), ("b", "c")]
    assert tokenizer_json_from_metadata(metadata)["model"]["merges"] == [["a", "b"]]  # of tokens that make a token


@pytest.mark.parametrize(
    ("bos", "eos", "expected"),
    [(True, False, [1, 0]), (False, True, [0, 2]), (True, True, [1, 0, 2]), (False, False, [0])],
)
def test_bos_stands_before_and_eos_behind(bos: bool, eos: bool, expected: list[int]) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "<s>", "</s>"],
        "tokenizer.ggml.token_type": [1, 3, 3],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": bos,
        "tokenizer.ggml.add_eos_token": eos,
    }
    assert Tokenizer(metadata).encode("a") == expected


@pytest.mark.skipif(not hasattr(ctypes.pythonapi, "mallinfo2"), reason="only glibc from 2.33 on tells what is in use")
def test_words_that_are_none_take_no_memory_for_good() -> None:
    """tokenizers keeps the tokens of 10,000 words, however long: a server grew by 40 MB."""
    code = """
import ctypes, random
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS
from gguflike.runner.tokenizer import Tokenizer
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "e", "f", "g", "used", "free", "top")]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage
tokenizer = Tokenizer({
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": list(BYTE_CHARACTERS), "tokenizer.ggml.merges": [],
})
rng = random.Random(0)
def read(count):
    for _ in range(count):
        tokenizer.encode("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=200)))
    return library.mallinfo2().used
print(read(3000) - read(2500))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert abs(int(done.stdout)) < 2_000_000, done.stderr
