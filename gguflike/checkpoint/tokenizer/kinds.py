"""What values of a tokenizer's files must be.

A value of another kind is an error, and not taken for one that is missing: the libraries that these files are for
refuse it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguflike.families.kinds import OBJECT, TEXT, TRUTH, Kind


def _is_token(value: Any) -> bool:
    return isinstance(value.get("content") if isinstance(value, dict) else value, str)


def _are_tokens(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | dict) and all(map(_is_token, items))


_ID = Kind("a whole number that is not negative", lambda value: type(value) is int and value >= 0)
_TOKEN = Kind("a text, or an object with a text as content", _is_token)
_TOKENS = Kind("a list of tokens, or an object of them", _are_tokens)

#: Of tokenizer.json, at its top and of its model.
_DOCUMENT: Mapping[str, Kind] = {
    **dict.fromkeys(("truncation", "padding"), OBJECT),
    "added_tokens": Kind("a list", lambda value: isinstance(value, list)),
}
_MODEL: Mapping[str, Kind] = {
    **dict.fromkeys(("unk_token", "continuing_subword_prefix", "end_of_word_suffix"), TEXT),
    **dict.fromkeys(("byte_fallback", "fuse_unk", "ignore_merges"), TRUTH),
    **dict.fromkeys(("unk_id", "max_input_chars_per_word"), _ID),
    "dropout": Kind("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1),
    "merges": Kind("a list", lambda value: isinstance(value, list)),
}
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
#: Of a token among those that are found before all others.
_ADDED: Mapping[str, Kind] = {"id": _ID, **dict.fromkeys(_FLAGS, TRUTH)}
#: Of tokenizer_config.json and special_tokens_map.json.
_CONFIG: Mapping[str, Kind] = {
    **{f"{role}_token": _TOKEN for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
    **{f"add_{role}_token": TRUTH for role in ("bos", "eos")},
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), _TOKENS),
    **dict.fromkeys(("add_prefix_space", "legacy"), TRUTH),
    "added_tokens_decoder": OBJECT,
    "tokenizer_class": TEXT,
}


def check_document(document: Mapping[str, Any], path: Path) -> None:
    """CheckpointError for the first value of tokenizer.json that is of a wrong kind; null is none."""
    _check(document, _DOCUMENT, path, "")
    if isinstance(document.get("model"), dict):
        _check(document["model"], _MODEL, path, "model.")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """The same for tokenizer_config.json and special_tokens_map.json."""
    _check(config, _CONFIG, path, "")


def check_added(token: Mapping[str, Any], path: Path, field: str) -> None:
    """The same for a token that is added, ``field``."""
    _check(token, _ADDED, path, f"{field}.")


def _check(values: Mapping[str, Any], kinds: Mapping[str, Kind], path: Path, inside: str) -> None:
    for key, kind in kinds.items():
        value = values.get(key)
        if value is not None and not kind.holds(value):
            raise kind.wrong(value, path=path, field=f"{inside}{key}")
