"""vocab.txt: BERT's WordPiece, a token on each line, normalized as tokenizer_config.json says."""

from __future__ import annotations

from pathlib import Path

from gguflike.checkpoint import files
from gguflike.checkpoint.tokenizer.sources.source import Asked, Source, added, around, document
from gguflike.errors import CheckpointError, UnsupportedError

_NAMES = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_CLASSES = ("bert", "electra", "pretrainedtokenizer", "tokenizersbackend")


def read(path: Path, asked: Asked) -> Source:
    """``path`` is vocab.txt."""
    if asked.kind.strip() and not any(word in asked.kind for word in _CLASSES):
        raise UnsupportedError("vocab.txt of this class is not handled", path=path, expected="BERT's", got=asked.kind)
    lines = files.read_text(path).removesuffix("\n").split("\n")
    vocab = {token: index for index, token in enumerate(lines)}
    if len(vocab) != len(lines):
        twice = next(token for index, token in enumerate(lines) if vocab[token] != index)
        raise CheckpointError("two lines have the same token", path=path, got=repr(twice))
    names = {role: asked.text(role.removesuffix("_token"), text) for role, text in _NAMES.items()}
    missing = [text for role, text in names.items() if text not in vocab and role != "mask_token"]
    if missing:
        raise CheckpointError(
            "a special token is missing", path=path, expected=", ".join(names.values()), got=f"no {missing[0]}"
        )
    strip = asked.settings.get("strip_accents")
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": asked.flag("tokenize_chinese_chars", True),
        "strip_accents": strip if isinstance(strip, bool) else None,
        "lowercase": asked.flag("do_lower_case", True),
    }
    made = document(
        {
            "type": "WordPiece",
            "unk_token": names["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        [added(vocab[text], text) for text in dict.fromkeys(names.values()) if text in vocab],
        [],
        {"type": "BertPreTokenizer"},
        around(names["cls_token"], names["sep_token"], vocab),
    )
    made["normalizer"] = normalizer
    return Source(path, made, names={role: text for role, text in names.items() if text in vocab})
