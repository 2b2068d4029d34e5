"""Changing what a file says of itself: its metadata. Tensors stay as they are, byte for byte.

Values have the type that they have in the file; of keys that are new, the one that llama.cpp reads (`known_type`).
Digests are kept right: those of tensors stay, that of the header is that of the new one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.container import Typed, ValueType
from gguflike.container import open as open_file
from gguflike.container.digest import PREFIX as DIGESTS
from gguflike.container.digest import SIGNATURE_PREFIX
from gguflike.container.layout import ALIGNMENT_KEY, ORIGINAL_SHAPE, PADDING_KEY
from gguflike.container.publish import made_folder
from gguflike.container.reheader import can_share, header_of, write
from gguflike.container.shards import PREFIX as SPLIT
from gguflike.container.values import INTEGERS, encode_value, typed
from gguflike.errors import ArgumentError, GGUFError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

#: Keys that say what the data are, or what a file is beside others: nobody may say otherwise.
FIXED = {
    ALIGNMENT_KEY: "it says where tensors stand",
    SPLIT: "it says which file of a model this is; `gguflike merge` makes one of them",
    DIGESTS: "digests are kept right by themselves",
    SIGNATURE_PREFIX: "`gguflike sign` signs a file",
    ORIGINAL_SHAPE: "it says which shape a tensor has",
    PADDING_KEY: "it fills up the header by itself",
}
_TYPES = {kind.name.lower(): kind for kind in ValueType if kind is not ValueType.ARRAY} | {"str": ValueType.STRING}
_TYPED = re.compile(r"(\[?)([a-z]+\d*)(\]?):(.*)", re.DOTALL)
#: What looks like a type and is none, in whatever brackets.
_NEARLY_TYPED = re.compile(r"\[*(u?int|float|double|bool|str|string|array)\d*\]*:")
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")  # more digits than any float has
#: What llama.cpp reads: key -> type, of arrays that of their items.
_KNOWN: tuple[tuple[str, ValueType, bool], ...] = (
    (r"general\.(file_type|quantization_version|.*\.count)", ValueType.UINT32, False),
    (r"general\.(tags|languages|datasets)", ValueType.STRING, True),
    (r"general\.sampling\.(top_k|penalty_last_n|mirostat)", ValueType.INT32, False),
    (r"general\.sampling\.(sequence)", ValueType.STRING, False),
    (r"general\.sampling\..*", ValueType.FLOAT32, False),
    (r"general\..*", ValueType.STRING, False),
    (r"tokenizer\.ggml\.(tokens|merges|added_tokens)", ValueType.STRING, True),
    (r"tokenizer\.ggml\.scores", ValueType.FLOAT32, True),
    (r"tokenizer\.ggml\.token_type", ValueType.INT32, True),
    (r"tokenizer\.ggml\.(token_type_count|.*_token_id)", ValueType.UINT32, False),
    (r"tokenizer\.ggml\.(add_.*|remove_extra_whitespaces)", ValueType.BOOL, False),
    (r"tokenizer\.chat_templates", ValueType.STRING, True),
    (r"tokenizer\.(ggml\.(model|pre)|chat_template(\..*)?|huggingface\.json)", ValueType.STRING, False),
    (r"[^.]+\.(context_length|embedding_length|block_count|vocab_size)", ValueType.UINT32, False),
    (r"[^.]+\.attention\.(key_length|value_length|sliding_window)", ValueType.UINT32, False),
    (r"[^.]+\.attention\.layer_norm(_rms)?_epsilon", ValueType.FLOAT32, False),
    (r"[^.]+\.attention\.causal", ValueType.BOOL, False),
    (r"[^.]+\.expert_(used_)?count", ValueType.UINT32, False),
    (r"[^.]+\.rope\.(dimension_count|scaling\.original_context_length)", ValueType.UINT32, False),
    (r"[^.]+\.rope\.(freq_base|freq_scale|scaling\.factor|scaling\.attn_factor)", ValueType.FLOAT32, False),
    (r"[^.]+\.rope\.scaling\.type", ValueType.STRING, False),
    (r"[^.]+\.pooling_type", ValueType.UINT32, False),
)


@dataclass(frozen=True)
class Change:
    """One key: what it was and is. ``old`` is None where it was not there, ``new`` where it is no more; ``renamed`` is
    what it was called before."""

    key: str
    old: Typed | None
    new: Typed | None
    renamed: str | None = None


@dataclass(frozen=True)
class Edited:
    """What was done, or would be. ``path``: the file that is changed, of a split model the one that has the metadata;
    ``out``: where the changed one is; ``keeps_place``: the header keeps its size, so that tensors stay where they are;
    ``shares``: the file system shares what is behind the header between the old file and the new one, which else is
    copied."""

    path: str
    out: str
    changes: tuple[Change, ...]
    notices: tuple[str, ...]
    header_bytes: int
    file_bytes: int
    keeps_place: bool
    shares: bool


def edit(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    unset: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    force: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Edited:
    """Change metadata of a file: in its place, or, where ``out`` is given, of a copy there.

    ``values``: what keys have from now on, plain or `Typed`; a plain value gets the type that the key has. ``unset``:
    keys that are to go; ``rename``: old name -> new name. Of a split model, the file that has the metadata is changed
    (the first). ``force``: also to another type than the key has. A signature is of the old header, so it goes, with a
    notice.

    The target is at any moment the old file or the new one, complete. ArgumentError for a key that is not there, that
    nobody may change, or that has another type; GGUFError and OSError as of ``gguflike.open``, DigestError where the
    old header is not the one that was written, OutputError where the file cannot be written.
    """
    asked = {key: _key(key) for key in (*(values or {}), *unset, *(rename or {}), *(rename or {}).values())}
    with open_file(path) as whole:
        file = whole.shards[0]
        if out is not None and file is not whole:
            raise UnsupportedError(
                "a split model is changed where it is",
                path=whole.path,
                got=os.fspath(out),
                remedy="leave the target out, or merge the files first (`gguflike merge`)",
            )
        for key in asked:
            _check_fixed(key)
        names, changes = _renamed(file, unset, rename or {})
        changes += _set(file, values or {}, names, force)
        notices = _unsigned(names) if changes else []
        header = header_of(file, names, {change.key: change.new for change in changes if change.new is not None})
        target = file.path if out is None else os.fspath(out)
        shares = False
        if changes or out is not None:
            if dry_run:
                shares = can_share(file, header, target)
            else:
                with made_folder(os.path.dirname(target) or "."):  # noqa: PTH120 - text
                    shares = write(file, header, target, overwrite or not out)
        return Edited(
            path=file.path,
            out=target,
            changes=tuple(changes),
            notices=tuple(notices),
            header_bytes=len(header.data),
            file_bytes=header.file_bytes,
            keeps_place=len(header.data) == file.data_offset,
            shares=shares,
        )


def value_of(text: str, name: str, known: tuple[ValueType, bool] | None = None) -> Any:
    """The value that a text of a command line stands for: ``TYPE:VALUE`` and ``[TYPE]:LIST`` have that type, all else
    is of the ``known`` one, (type, whether it is an array), or of what it looks like.

    Lists are JSON; strings are taken as they are. ArgumentError for a text that is none of its type.
    """
    found = _TYPED.fullmatch(text)
    if found and bool(found[1]) == bool(found[3]) and found[2] in _TYPES:
        return _parsed(found[4], name, _TYPES[found[2]], bool(found[1]))
    if known is not None:
        return _parsed(text, name, *known)
    if _NEARLY_TYPED.match(text):
        raise ArgumentError(
            "is of no type that GGUF has",
            field=name,
            expected=f"one of {', '.join(_TYPES)} before the colon",
            got=repr(text)[:80],
            remedy="a text that looks like this is string:...",
        )
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return _in_range(number, text, name)
    return _typed(_list(text, name), name) if text.startswith("[") else text


def known_type(key: str, file: GGUFFile | None = None) -> tuple[ValueType, bool] | None:
    """The type that a key has, that of an array's items and whether it is one: in the file, else as llama.cpp reads it;
    None where that is not known."""
    if file is not None and key in file.metadata:
        item = file.metadata.item_type_of(key)
        return (file.metadata.type_of(key), False) if item is None else (item, True)
    return next(((kind, many) for pattern, kind, many in _KNOWN if re.fullmatch(pattern, key)), None)


def _renamed(file: GGUFFile, unset: Sequence[str], rename: Mapping[str, str]) -> tuple[dict[str, str], list[Change]]:
    """By each key that stays, its name from now on, in the order of the file, and the changes that this is."""
    for key in (*unset, *rename):
        if key not in file.metadata:
            raise ArgumentError("no such metadata", path=file.path, field=key, remedy=did_you_mean(key, file.metadata))
        if key in unset and key in rename:
            raise ArgumentError("is both unset and renamed", path=file.path, field=key, remedy="ask for one of the two")
    names = {key: rename.get(key, key) for key in file.metadata if key not in unset}
    changes = [Change(key, file.metadata.typed(key), None) for key in unset]
    for old, new in rename.items():
        if list(names.values()).count(new) > 1:
            raise ArgumentError("is there already", path=file.path, field=new, remedy="unset it first")
        if old != new:
            value = file.metadata.typed(old)
            changes.append(Change(new, value, value, old))
    return names, changes


def _set(file: GGUFFile, values: Mapping[str, Any], names: Mapping[str, str], force: bool) -> list[Change]:
    """The changes of keys that get another value than they have. ``names`` as of `_renamed`."""
    given = {key: _value(file, key, value, force) for key, value in values.items()}
    old_names = {new: old for old, new in names.items()}
    changes = []
    for key, value in given.items():
        old = file.metadata.typed(old_names[key]) if key in old_names else None
        if old is None or _bytes(old, key) != _bytes(value, key):
            changes.append(Change(key, old, value))
    return changes


def _unsigned(names: dict[str, str]) -> list[str]:
    """Take a signature out of the keys that stay, and give the notice of that, where there is one."""
    signed = [key for key in names if key.startswith(SIGNATURE_PREFIX)]
    for key in signed:
        del names[key]
    return ["the signature is of the header that was there, and goes: sign the file again"] if signed else []


def _value(file: GGUFFile, key: str, value: Any, force: bool) -> Typed:
    """A value as it is stored, of the type that the key has."""
    known = known_type(key, file)
    if isinstance(value, Typed) or known is None:
        made = _typed(value, key)
    elif known[1]:
        made = Typed(value, ValueType.ARRAY, known[0])
    else:
        made = Typed(value, known[0])
    if made.type is ValueType.ARRAY and not isinstance(made.value, (list, tuple, np.ndarray)):
        raise ArgumentError("is no list", path=file.path, field=key, got=repr(made.value)[:80])
    kind = (made.type, False) if made.item_type is None else (made.item_type, True)
    if not force and known is not None and kind not in (known, known_type(key)):
        raise ArgumentError(
            "has another type",
            path=file.path,
            field=key,
            expected=_named(*known),
            got=_named(*kind),
            remedy="give a value of that type, or add `force`",
        )
    _bytes(made, key)
    return made


def _typed(value: Any, key: str) -> Typed:
    """With the type that it is stored as. ArgumentError for a value that has none."""
    try:
        return typed(value)
    except GGUFError as error:
        raise _argument(error, key) from error


def _bytes(value: Typed, key: str) -> bytes:
    """As it is stored. ArgumentError for a value that its type cannot hold."""
    try:
        return encode_value(value, key)
    except GGUFError as error:
        raise _argument(error, error.field or key) from error


def _argument(error: GGUFError, key: str) -> ArgumentError:
    """What the container says of a value, as an error of who gave it."""
    return ArgumentError(error.what, field=key, expected=error.expected, got=error.got, remedy=error.remedy)


def _key(key: str) -> str:
    if not isinstance(key, str) or not key:
        raise ArgumentError("is no name of metadata", field="key", got=repr(key))
    return key


def _check_fixed(key: str) -> None:
    for fixed, why in FIXED.items():
        if key == fixed or (fixed.endswith(".") and key.startswith(fixed)):
            raise ArgumentError(f"cannot be changed: {why}", field=key)


def _named(kind: ValueType, many: bool) -> str:
    return f"[{kind.name.lower()}]" if many else kind.name.lower()


def _list(text: str, name: str) -> list[Any]:
    try:
        found = json.loads(text, parse_float=lambda number: _in_range(float(number), number, name))
    except ArgumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArgumentError("is no list as JSON has it", field=name, got=repr(text[:80])) from error
    if not isinstance(found, list):
        raise ArgumentError("is no list as JSON has it", field=name, got=repr(text[:80]))
    return found


def _number(text: str, name: str) -> int | float:
    """A text as what a float is stored of: a whole number stays one, so that whoever stores it sees whether it fits."""
    return int(text) if _WHOLE.fullmatch(text) else _in_range(float(text), text, name)


def _in_range(number: float, text: str, name: str) -> float:
    """The number that a text is. ArgumentError where it became infinite though the text has digits, or zero though one
    of them is not."""
    if math.isinf(number) and any(letter.isdecimal() for letter in text):
        raise ArgumentError("is larger than numbers of floating point are", field=name, got=repr(text[:80]))
    if number == 0 and not set("123456789").isdisjoint(text.lower().partition("e")[0]):
        raise ArgumentError("is smaller than numbers of floating point are", field=name, got=repr(text[:80]))
    return number


def _parsed(text: str, name: str, kind: ValueType, many: bool) -> Typed:
    """A text as a value of a type."""
    if many:
        return Typed(_list(text, name), ValueType.ARRAY, kind)
    if kind is ValueType.STRING:
        return Typed(text, kind)
    try:
        if kind is ValueType.BOOL:
            return Typed({"true": True, "false": False}[text], kind)
        return Typed(int(text, 0) if kind in INTEGERS else _number(text, name), kind)
    except ArgumentError:
        raise
    except (ValueError, KeyError):
        raise ArgumentError(f"is no {kind.name.lower()}", field=name, got=repr(text[:80])) from None
