"""Small tokenizers in the forms that Hugging Face folders have: byte-level BPE, SentencePiece, WordPiece, Unigram."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS

SPACE = "\u2581"
_TEXT = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she
or an will my one all would there their what so up out if about who get which go me when make can like time no
just him know take people into year your good some could them see other than then now look only come its over
think
"""
WORDS = _TEXT.split()
# What converters ask of vocabularies: GLM's and Hunyuan's markers among them.
_MARKERS = (
    "<unk>", "<s>", "</s>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<|system|>",
    "<|user|>", "<|assistant|>", "<|observation|>", "<|startoftext|>", "<|eot_id|>", "<|eom_id|>",
)  # fmt: skip
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def write(kind: str, folder: Path, size: int, changes: Mapping[str, Any]) -> None:
    """Write the tokenizer files of ``kind`` for an embedding of ``size`` rows; ``changes`` are of tokenizer_config."""
    document, config, more = _KINDS[kind](size)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    for name, content in more.items():
        (folder / name).write_bytes(content)


def _joined(count: int, known: set[str], space: str) -> list[tuple[str, str]]:
    """``count`` merges that build common words from the left, each of two tokens that exist by then."""
    made = set(known)
    merges = []
    for word in WORDS:
        text = space + word
        for at in range(1, len(text)):
            pair = (text[:at], text[at])
            if text[: at + 1] not in made and all(part in made for part in pair):
                merges.append(pair)
                made.add(text[: at + 1])
    assert len(merges) >= count, f"words for {len(merges)} merges, {count} wanted"
    return merges[:count]


def _added(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}


def _document(added: Mapping[str, int], model: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(index, content) for content, index in added.items()],
        **empty,
        **parts,
        "model": dict(model),
    }


def _bpe_model(vocab: dict[str, int], merges: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
    base = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**base, **more, "vocab": vocab, "merges": [list(pair) for pair in merges]}


Files = tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]


def _bpe(size: int) -> Files:
    """Byte-level, split as SmolLM2 does; four ids fewer than the embedding has rows."""
    alphabet = sorted(BYTE_CHARACTERS)
    tokens = [*_MARKERS, *alphabet]
    merges = _joined(size - 4 - len(tokens), set(alphabet), "Ġ")
    tokens += [left + right for left, right in merges]
    vocab = {token: index for index, token in enumerate(tokens)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = _document(
        {marker: vocab[marker] for marker in _MARKERS},
        _bpe_model(vocab, merges),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        decoder={**level, "add_prefix_space": True},
    )
    return document, {"tokenizer_class": "PreTrainedTokenizerFast", **_SPECIAL}, {}


def _framed_bpe(size: int) -> Files:
    """Byte-level, with markers around the text, as encoders have it."""
    document, config, more = _bpe(size)
    document["post_processor"] = _framed(document["model"]["vocab"], "<s>", "</s>")
    return document, {**config, "cls_token": "<s>", "sep_token": "</s>"}, more


def _spm(size: int) -> Files:
    """SentencePiece BPE with byte fallback, no space in front, as Gemma's; with tokenizer.model."""
    first = ["<unk>", "<s>", "</s>", "<pad>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [SPACE, *(chr(letter) for letter in range(ord("a"), ord("z") + 1)), *"ITHEW.,!?"]
    merges = _joined(size - len(first) - 256 - len(letters), set(letters), SPACE)
    # letters that no merge makes score below every merged piece
    pieces = [(left + right, -float(rank)) for rank, (left, right) in enumerate(merges)]
    pieces += [(letter, -float(len(merges) + rank)) for rank, letter in enumerate(letters)]
    tokens = [*first, *bytes_, *(piece for piece, _ in pieces)]
    vocab = {token: index for index, token in enumerate(tokens)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    document = _document(
        {token: vocab[token] for token in first},
        _bpe_model(vocab, _spm_merges(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        normalizer=replace,
        post_processor=_framed(vocab, "<s>"),
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    )
    kinds = [(token, 0.0, 2 if token == "<unk>" else 3) for token in first]
    kinds += [(token, 0.0, 6) for token in bytes_] + [(piece, score, 1) for piece, score in pieces]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, **_SPECIAL}
    return document, config, {"tokenizer.model": sentencepiece(kinds, model_type=2)}


def _spm_merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to split a piece in two pieces, best piece first; of one piece's, the longer left part first."""
    known = {piece for piece, _ in pieces}
    return [
        (piece[:at], piece[at:])
        for piece, _ in pieces
        for at in range(len(piece) - 1, 0, -1)
        if piece[:at] in known and piece[at:] in known
    ]


def _wordpiece(size: int) -> Files:
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    tokens = [*first, *letters, *("##" + letter for letter in letters), *".,!?'-0123456789"]
    for word in WORDS:
        for piece in (word.lower(), "##" + word.lower()):
            if piece not in tokens and len(tokens) < size:
                tokens.append(piece)
    vocab = {token: index for index, token in enumerate(tokens)}
    document = _document(
        {token: vocab[token] for token in first},
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_framed(vocab, "[CLS]", "[SEP]"),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "mask_token": "[MASK]", **names}
    return document, config, {"vocab.txt": "".join(f"{token}\n" for token in tokens).encode()}


def _unigram(size: int) -> Files:
    """Unigram in XLM-RoBERTa's order, with the SentencePiece file whose ids are lower by one."""
    letters = [SPACE, *(chr(letter) for letter in range(ord("a"), ord("z") + 1)), *"ITHEW.,!?0123456789"]
    words = [SPACE + word for word in WORDS] + [word for word in WORDS if len(word) > 1]
    pieces = list(dict.fromkeys([*words, *letters]))[: size - 5]
    scored = [(piece, -5.0 - 0.01 * rank) for rank, piece in enumerate(pieces)]
    table = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored, ("<mask>", 0.0)]
    vocab = {token: index for index, (token, _) in enumerate(table)}
    document = _document(
        {token: vocab[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
        {"type": "Unigram", "unk_id": 3, "vocab": [list(entry) for entry in table], "byte_fallback": False},
        pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        post_processor=_framed(vocab, "<s>", "</s>", double=True),
        decoder={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
    )
    kinds = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((piece, score, 1) for piece, score in scored)]
    names = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", **_SPECIAL}
    config = {"tokenizer_class": "XLMRobertaTokenizer", **names}
    return document, config, {"sentencepiece.bpe.model": sentencepiece(kinds, model_type=1)}


def _framed(ids: Mapping[str, int], first: str, last: str | None = None, double: bool = False) -> dict[str, Any]:
    """A post-processor that puts ``first`` before a text and ``last`` behind it; ``double``: twice between two."""

    def sequence(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    def marker(token: str | None, kind: int) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": token, "type_id": kind}}]

    between = marker(last, 0) * 2 if double else marker(last or first, 0)
    second = 0 if double else 1
    markers = [token for token in (first, last) if token is not None]
    return {
        "type": "TemplateProcessing",
        "single": [*marker(first, 0), sequence("A", 0), *marker(last, 0)],
        "pair": [*marker(first, 0), sequence("A", 0), *between, sequence("B", second), *marker(last, second)],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in markers},
    }


_KINDS: Mapping[str, Callable[[int], Files]] = {
    "bpe": _bpe,
    "framed bpe": _framed_bpe,
    "spm": _spm,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}


def sentencepiece(pieces: list[tuple[str, float, int]], model_type: int) -> bytes:
    """A SentencePiece model file: ``pieces`` of text, score and type; the type of model 1 is Unigram, 2 is BPE.

    The format is that of sentencepiece_model.proto: field 1 the pieces, 2 the trainer (in it, 3 the type and
    35 byte fallback), 3 the normalizer.
    """
    out = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind))
        for text, score, kind in pieces
    )
    trainer = b"\x18" + _varint(model_type) + _varint(35 << 3) + bytes([model_type == 2]) + b"".join(_ids())
    # Unigram models put a space before a text
    normalizer = _field(1, b"identity") + b"\x18" + bytes([model_type == 1]) + b"\x20\x00" + b"\x28\x01"
    return out + _field(2, trainer) + _field(3, normalizer)


def _ids() -> Iterator[bytes]:
    """unk_id, bos_id, eos_id and pad_id of the trainer (fields 40 to 43); -1 for none."""
    for number, index in ((40, 0), (41, 1), (42, 2), (43, -1)):
        yield _varint(number << 3) + _varint(index & (2**64 - 1))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
