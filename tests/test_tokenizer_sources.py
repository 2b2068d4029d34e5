"""Vocabularies in the files that stand in where tokenizer.json is missing, built here byte by byte.

Oracles: the definitions, written plainly (tests/small_tokenizers.py), and what the same vocabulary gives as
tokenizer.json. tests/interop asks the libraries that read these files.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.checkpoint.tokenizer import Reading, read
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS
from gguflike.convert.proof import prove
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from gguflike.runner.tokenizer import Tokenizer
from tests import tiny
from tests.small_tokenizers import PIECES, RANKS, SPACE, WORDS, byte_level, charsmap, naive_sentencepiece, tekken

TEXT = "hello  the there xing \u00e9\n\u2603"


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def model(pieces: list[tuple[str, float, int]], training: bytes = b"", normalizer: bytes = b"") -> bytes:
    made = b"".join(field(1, field(1, text) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    return made + field(2, training) + field(3, normalizer)


SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
SPM = [SPACE + "t", "he", "in", SPACE + "a", "er", SPACE + "the", "ing", SPACE * 2, "there", SPACE, *"thinegrasxlo"]
BPE = field(3, 2) + field(35, 1)
PLAIN = field(4, 0)  # no runs of spaces become one


def bpe_model(training: bytes = BPE, normalizer: bytes = PLAIN, **changes: Any) -> bytes:
    words = [(word, float(-place), 1) for place, word in enumerate(SPM)]
    return model(changes.get("pieces", [*SPECIAL, *BYTES, *words, ("<|im_start|>", 0.0, 4)]), training, normalizer)


def written(folder: Path, **files: bytes | str | dict[str, Any]) -> Path:
    """Files of a folder, by names in which "_dot_" is a dot and "__" a dash."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = json.dumps(content) if isinstance(content, dict) else content
        path = folder / name.replace("_dot_", ".")
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def proven(folder: Path, config: dict[str, Any] | None = None) -> Reading:
    found = read(folder, config or {})
    prove(found, found.metadata)
    return found


# SentencePiece


def test_sentencepiece_bpe(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_dot_model=bpe_model(), tokenizer_config_dot_json={"add_bos_token": True})
    found = proven(folder, {"model_type": "llama"})
    assert found.notices == ()
    metadata = found.metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.scores"][259 : 259 + len(SPM)].tolist() == [-float(n) for n in range(len(SPM))]
    assert metadata["tokenizer.ggml.token_type"].tolist() == [2, 3, 3, *[6] * 256, *[1] * len(SPM), 4]
    tokenizer = Tokenizer(metadata)
    scores = {word: float(-place) for place, word in enumerate(SPM)}
    text = "hello  the there xing"
    expected = naive_sentencepiece(SPACE + text.replace(" ", SPACE), scores)
    assert [tokenizer.vocabulary.tokens[i] for i in tokenizer.encode(text)] == ["<s>", *expected]
    assert tokenizer.encode("\u00e9<|im_start|>", add_special=False)[-3:] == [3 + 0xC3, 3 + 0xA9, 259 + len(SPM)]
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})


def test_sentencepiece_settings(tmp_path: Path) -> None:
    """Ids of roles that are not the usual ones, no space before a text, and no BOS where the settings say so."""
    training = BPE + field(40, 2) + field(41, 0) + field(42, 1) + field(43, -1)
    pieces = [("<a>", 0.0, 3), ("<b>", 0.0, 3), ("<u>", 0.0, 2), *BYTES, (SPACE, 0.0, 1), ("x", -1.0, 1)]
    data = bpe_model(training, PLAIN + field(3, 0), pieces=pieces)
    found = proven(written(tmp_path, tokenizer_dot_model=data))
    ids = {key[15:]: value for key, value in found.metadata.items() if key.endswith(("_id", "_token", "_prefix"))}
    assert (
        ids
        == {
            "add_space_prefix": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "unknown_token_id": 2,
            "add_bos_token": True,
            "add_eos_token": False,
        }
        or ids | {"add_sep_token": False} == ids
    )
    assert Tokenizer(found.metadata).encode("x") == [0, 260]
    settings = {"add_bos_token": False, "add_eos_token": True, "bos_token": "<b>"}
    again = proven(written(tmp_path, tokenizer_config_dot_json=settings))
    assert Tokenizer(again.metadata).encode("x") == [260, 1]


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        (b"", r"normalizer is not handled.*'Regex'"),
        (PLAIN + field(2, charsmap()), "normalizer is not handled.*Precompiled"),
        (PLAIN + field(5, 0), "escape_whitespaces: SentencePiece model is not handled; expected True; got False"),
    ],
)
def test_sentencepiece_bpe_that_normalizes_is_refused(tmp_path: Path, normalizer: bytes, message: str) -> None:
    folder = written(tmp_path, tokenizer_dot_model=bpe_model(normalizer=normalizer))
    with pytest.raises(UnsupportedError, match=message) as caught:
        read(folder, {})
    assert len(str(caught.value)) < 500


def unigram_model(**changes: Any) -> bytes:
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [
        (text, score, kinds.get(text, 1)) for text, score in PIECES if not text.startswith("<") or len(text) == 1
    ]
    return model(pieces, field(3, 1) + changes.get("training", b""), changes.get("normalizer", field(2, charsmap())))


def test_sentencepiece_unigram(tmp_path: Path) -> None:
    found = proven(written(tmp_path, spiece_dot_model=unigram_model()), {"model_type": "t5"})
    assert found.metadata["tokenizer.ggml.model"] == "t5"
    assert found.metadata["tokenizer.ggml.precompiled_charsmap"].tobytes() == charsmap()
    assert found.metadata["tokenizer.ggml.remove_extra_whitespaces"] is True
    tokenizer = Tokenizer(found.metadata)
    ids = tokenizer.encode("  h\u00e9llo   worlds ")
    assert [tokenizer.vocabulary.tokens[i] for i in ids] == [SPACE + "hello", SPACE + "worlds", "</s>"]
    bare = written(tmp_path / "bare", spiece_dot_model=unigram_model(normalizer=field(3, 0)))
    with pytest.raises(UnsupportedError, match="no space is put before a text; readers of GGUF put one"):
        read(bare, {})
    with pytest.raises(UnsupportedError, match="byte_fallback: unknown characters become bytes"):
        read(written(tmp_path / "bytes", spiece_dot_model=unigram_model(training=field(35, 1))), {})


@pytest.mark.parametrize(("kind", "first"), [("XLMRobertaTokenizer", 4), ("CamembertTokenizer", 5)])
def test_sentencepiece_of_fairseq(tmp_path: Path, kind: str, first: int) -> None:
    """Some classes put tokens of their own before SentencePiece's, and <mask> behind."""
    folder = written(
        tmp_path, **{"sentencepiece.bpe.model": unigram_model()}, tokenizer_config_dot_json={"tokenizer_class": kind}
    )
    found = proven(folder)
    tokens = found.metadata["tokenizer.ggml.tokens"]
    assert (tokens[1], tokens[3], tokens[-1]) == ("<pad>", "<unk>", "<mask>")
    if first == 4:
        assert tokens[:6] == ["<s>", "<pad>", "</s>", "<unk>", SPACE, "hello"]
        assert Tokenizer(found.metadata).encode("hello") == [0, tokens.index(SPACE + "hello"), 2]
        assert found.metadata["tokenizer.ggml.add_sep_token"] is True
    else:
        assert tokens[5:7] == ["<s>", "</s>"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x0e\x0a\x05<unk>", "a field does not fit.*expected at most 7 bytes; got 14; download it again"),
        (b"", "vocabulary is empty, or this is no SentencePiece model"),
        (b"\x0a\x80\x80", "a number does not end"),
        (b"\x80" * 12, "a number does not end"),
        (b"<html>", "wire type 4"),
        (bpe_model()[:-3], "a field does not fit|does not end"),
        (model([("", 0.0, 1)]), r"pieces\[0\]: malformed piece; got b''"),
        (model([("a", float("nan"), 1)]), r"pieces\[0\]: malformed piece"),
        (model([("a", 0.0, 9)]), r"pieces\[0\]: malformed piece.*type 9"),
        (model([("a", 0.0, 1), ("a", 0.0, 1)], BPE), "two pieces have the same text"),
        (field(1, field(1, b"\xff") + field(2, 0.0)), r"pieces\[0\]: malformed piece"),
    ],
)
def test_broken_sentencepiece(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(written(tmp_path, tokenizer_dot_model=data), {})


def test_mutated_sentencepiece_gives_typed_errors_or_a_reading(tmp_path: Path) -> None:
    pieces = [*SPECIAL, *((word, -1.0, 1) for word in SPM), ("<|x|>", 0.0, 4)]
    data = model(pieces, field(3, 1) + field(40, 0), field(2, charsmap()[:40]))
    outcomes = {"error": 0, "reading": 0}
    for seed in range(400):
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        folder = written(tmp_path, tokenizer_dot_model=bytes(changed[: rng.choice((len(changed), len(changed) - 5))]))
        try:
            read(folder, {})
        except GGUFLikeError:
            outcomes["error"] += 1
        else:
            outcomes["reading"] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize(("training", "name"), [(field(3, 3), "WORD"), (field(3, 4), "CHAR"), (field(3, 77), "77")])
def test_other_kinds_of_sentencepiece(tmp_path: Path, training: bytes, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"model_type: .* expected Unigram or BPE; got {name}"):
        read(written(tmp_path, tokenizer_dot_model=bpe_model(training)), {})
    with pytest.raises(UnsupportedError, match="treat_whitespace_as_suffix"):
        read(written(tmp_path, tokenizer_dot_model=bpe_model(BPE + field(24, 1))), {})


# Bytes with ranks


def tiktoken_file(ranks: dict[bytes, int] = RANKS) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


def naive_tiktoken(word: bytes) -> list[int]:
    """Join the neighbours whose union has the lowest rank, the leftmost of equals."""
    parts = [word[at : at + 1] for at in range(len(word))]
    while True:
        unions = [(RANKS[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in RANKS]
        if not unions:
            return [RANKS[part] for part in parts]
        _, at = min(unions)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize(
    ("name", "settings", "kind", "pre"),
    [
        ("qwen.tiktoken", {"tokenizer_class": "QWenTokenizer"}, "qwen", "qwen2"),
        ("tiktoken.model", {"tokenizer_class": "TikTokenTokenizer"}, "kimi_k2", "kimi-k2"),
        ("tokenizer.model", {}, "llama", "llama-bpe"),
        ("tokenizer.model", {}, "chatglm", "llama-bpe"),
    ],
)
def test_tiktoken(tmp_path: Path, name: str, settings: dict[str, Any], kind: str, pre: str) -> None:
    decoder = {"266": {"content": "<|a|>", "special": True}, "270": {"content": "<|z|>", "special": True}}
    settings = settings | ({} if kind == "qwen" else {"added_tokens_decoder": decoder, "bos_token": "<|a|>"})
    folder = written(tmp_path, **{name: tiktoken_file()}, tokenizer_config_dot_json=settings | {"add_bos_token": True})
    found = proven(folder, {"model_type": kind})
    assert found.metadata["tokenizer.ggml.pre"] == pre
    tokenizer = Tokenizer(found.metadata)
    for word in ("hello", "hellohell", " wor", "\u00e9", "llo"):
        expected = RANKS.get(word.encode())
        assert tokenizer.encode(word, add_special=False) in ([expected], naive_tiktoken(word.encode())), word
    if kind == "qwen":
        assert found.metadata["tokenizer.ggml.tokens"][266:270] == [
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|extra_0|>",
        ]
        assert len(found.metadata["tokenizer.ggml.tokens"]) == 266 + 208
        assert 268 in tokenizer.eos_ids
    else:
        assert tokenizer.encode("hello<|z|>", parse_special=True) == [266, 260, 270]
        assert found.metadata["tokenizer.ggml.token_type"][266:].tolist() == [3, 5, 5, 5, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("aGU= x\n", "line 1: malformed line"),
        ("aGU= " + "9" * 5000, "line 1: malformed line"),
        ("aGU= 1\naGU= 2\n", "line 2: malformed line; expected bytes in base64 and a rank, each token once"),
        ("aGU 1\n", "line 1: malformed line"),
        ("aGU= 1\n", "bytes are missing"),
        ("\n", "the vocabulary is empty"),
    ],
)
def test_broken_tiktoken(tmp_path: Path, content: str, message: str) -> None:
    folder = written(
        tmp_path, **{"x.tiktoken": content}, tokenizer_config_dot_json={"tokenizer_class": "QWenTokenizer"}
    )
    with pytest.raises(CheckpointError, match=message):
        read(folder, {})


def test_tiktoken_of_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"does not say how it splits texts.*got othertokenizer"):
        read(
            written(
                tmp_path,
                **{"x.tiktoken": tiktoken_file()},
                tokenizer_config_dot_json={"tokenizer_class": "OtherTokenizer"},
            ),
            {},
        )


def test_tekken(tmp_path: Path) -> None:
    found = proven(written(tmp_path, tekken_dot_json=tekken()), {"model_type": "mistral"})
    assert found.metadata["tokenizer.ggml.pre"] == "tekken"
    tokens = found.metadata["tokenizer.ggml.tokens"]
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert tokens[17:21] == ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>"]
    assert len(tokens) == 30 + len(RANKS) - 1  # "12" is beyond the size
    tokenizer = Tokenizer(found.metadata)
    assert tokenizer.encode("[INST]hello 12[/INST]", parse_special=True) == [
        1, 3, 30 + RANKS[b"hello"], 30 + 32, 30 + 49, 30 + 50, 4,
    ]  # fmt: skip
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})
    listed = [
        {"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(("<unk>", "<s>", "</s>", "[X]"))
    ]
    found = proven(written(tmp_path / "v7", tekken_dot_json=tekken(special_tokens=listed)))
    assert found.metadata["tokenizer.ggml.tokens"][3:5] == ["[X]", "<SPECIAL_4>"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"config": {}}, "config.pattern: malformed tekken.json; expected an expression; got None"),
        ({}, "config: malformed tekken.json; expected an object"),
        (tekken(config={"default_vocab_size": -1}), "config.default_vocab_size: .* expected a count; got -1"),
        (
            tekken(config={"default_vocab_size": 10**6}),
            "vocab: .* expected a list of at least 999970 tokens; got '266 tokens'",
        ),
        (tekken(vocab=[{"rank": 0}] * 265), r"vocab\[0\]: .* expected its place as rank"),
        (tekken(special_tokens=[{"rank": 1, "token_str": "<s>"}]), r"special_tokens\[0\]"),
        (tekken(special_tokens=[{"rank": n, "token_str": str(n)} for n in range(31)]), "up to 30 different tokens"),
    ],
)
def test_broken_tekken(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(written(tmp_path, tekken_dot_json=content), {})


# vocab.json with merges.txt, vocab.txt


def bpe_files(folder: Path, settings: dict[str, Any], **special: int) -> Path:
    document = byte_level()
    vocab = {text: index for text, index in document["model"]["vocab"].items() if index > 2} | special
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in document["model"]["merges"]) + "\n"
    return written(folder, vocab_dot_json=vocab, merges_dot_txt=merges, tokenizer_config_dot_json=settings)


@pytest.mark.parametrize(
    ("settings", "kind", "pre", "ids"),
    [
        ({}, "gpt2", "gpt-2", [262]),
        ({"add_bos_token": True, "bos_token": "<s>"}, "gpt2", "gpt-2", [1, 262]),
        ({"tokenizer_class": "Qwen2Tokenizer"}, "qwen2", "qwen2", [262]),
        ({"tokenizer_class": "RobertaTokenizer"}, "roberta", "gpt-2", [1, 262, 2]),
    ],
    ids=str,
)
def test_vocab_and_merges(tmp_path: Path, settings: dict[str, Any], kind: str, pre: str, ids: list[int]) -> None:
    special = {"<s>": 1, "</s>": 2, "<pad>" if kind == "roberta" else "<|endoftext|>": 0}
    found = proven(bpe_files(tmp_path, settings, **special), {"model_type": kind})
    assert found.metadata["tokenizer.ggml.pre"] == pre
    assert Tokenizer(found.metadata).encode("hello") == ids
    assert found.metadata["tokenizer.ggml.token_type"][ids[0] if len(ids) > 1 else 0] == 3
    assert found.notices == (() if kind != "qwen2" else found.notices[:1])


def test_broken_vocab_and_merges(tmp_path: Path) -> None:
    folder = bpe_files(tmp_path, {})
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nlll\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt, line 3: malformed merge; got 'lll'"):
        read(folder, {})
    (folder / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json is missing"):
        read(folder, {})
    with pytest.raises(UnsupportedError, match=r"this class's vocab\.json and merges\.txt"):
        read(bpe_files(tmp_path / "clip", {"tokenizer_class": "CLIPTokenizer"}), {})


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt(tmp_path: Path, lower: bool) -> None:
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    found = proven(written(tmp_path, vocab_dot_txt="\n".join(WORDS) + "\n", tokenizer_config_dot_json=settings))
    assert found.metadata["tokenizer.ggml.model"] == "bert"
    assert found.metadata["tokenizer.ggml.normalizer.lowercase"] is lower
    tokenizer = Tokenizer(found.metadata)
    tokens = [tokenizer.vocabulary.written(index) for index in tokenizer.encode("Hello Hello")]
    assert tokens == ["[CLS]", *(["hello"] if lower else ["H", "##ello"]) * 2, "[SEP]"]
    for content, message in (
        ("[PAD]\n[PAD]\n", "two lines have the same token"),
        ("a\nb\n", "a special token is missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(written(tmp_path / "broken", vocab_dot_txt=content), {})
    with pytest.raises(UnsupportedError, match=r"vocab\.txt of this class is not handled"):
        read(written(tmp_path, tokenizer_config_dot_json={"tokenizer_class": "EsmTokenizer"}), {})


# Which file is taken


def test_tokenizer_json_comes_first_and_no_file_is_an_error(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_dot_json=byte_level(), tokenizer_dot_model=b"broken", vocab_dot_txt="x")
    assert read(folder, {}).path.name == "tokenizer.json"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read(folder, {})
    (folder / "tokenizer.model").unlink()
    (folder / "vocab.txt").unlink()
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"the folder has no tokenizer; expected tokenizer\.json, .* got vocab\.json"
    ):
        read(folder, {})


def test_a_checkpoint_without_tokenizer_json_is_converted(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    vocab = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)} | {"<s>": 256, "</s>": 257}
    written(folder, vocab_dot_json=vocab, merges_dot_txt="#version: 0.2\n")
    gguflike.convert(folder, tmp_path / "out.gguf", "F32")
    tokenizer = Tokenizer(gguflike.open(tmp_path / "out.gguf").metadata)
    assert tokenizer.encode("a<s>", parse_special=True) == [97, 256]
    assert tokenizer.eos_ids == {257}
