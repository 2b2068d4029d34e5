"""vocab.json and merges.txt: byte-level BPE as GPT-2 published it, split as the class of the tokenizer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguflike.checkpoint import files, strictjson
from gguflike.checkpoint.pretokenizers import QWEN2, byte_level
from gguflike.checkpoint.tokenizer.sources.source import Asked, Source, added, around, bpe, document, split_bytes
from gguflike.errors import CheckpointError, UnsupportedError

#: Words in the names of classes and models whose tokenizers put <s> and </s> around a text.
_ROBERTA = ("roberta", "bart", "longformer", "led", "mvp")


def read(path: Path, asked: Asked) -> Source:
    """``path`` is merges.txt, beside which vocab.json stands."""
    vocab_path = path.with_name("vocab.json")
    if not files.present(vocab_path):
        raise CheckpointError("vocab.json is missing, to which merges.txt belongs", path=path.parent)
    if any(word in asked.kind for word in ("clip", "codes", "phobert")):
        raise UnsupportedError("this class's vocab.json and merges.txt are not handled", path=path, got=asked.kind)
    vocab = strictjson.load_texts(vocab_path)
    merges = _merges(path)
    roberta = any(word in asked.kind for word in _ROBERTA)
    begin, end = ("<s>", "</s>") if roberta else ("<|endoftext|>", "<|endoftext|>")
    names = {"bos_token": begin, "eos_token": end, "unk_token": "<unk>" if roberta else "<|endoftext|>"}
    if roberta:
        names |= {"cls_token": begin, "sep_token": end, "pad_token": "<pad>", "mask_token": "<mask>"}
    prefix = asked.flag("add_prefix_space", False)
    qwen = "qwen2" in asked.kind or "qwen3" in asked.kind
    if roberta:
        processor: dict[str, Any] | None = around(asked.text("cls", begin), asked.text("sep", end), vocab, double=True)
    else:
        before, behind = (
            asked.text(role, text) if asked.flag(f"add_{role}_token", False) else None
            for role, text in (("bos", begin), ("eos", end))
        )
        processor = around(before, behind, vocab)
    made = document(
        bpe(vocab, merges),
        [added(vocab[text], text) for text in dict.fromkeys(names.values()) if text in vocab],
        [{"type": "NFC"}] if qwen else [],
        split_bytes(QWEN2, prefix) if qwen else byte_level(prefix, True),
        processor,
    )
    return Source(vocab_path, made, names=names)


def _merges(path: Path) -> list[list[str]]:
    merges = []
    for number, line in enumerate(files.read_text(path).split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise CheckpointError("malformed merge", path=path, field=f"line {number}", got=repr(line)[:120])
        merges.append(parts)
    return merges
