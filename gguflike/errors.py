"""The one error tree. The library raises these and never prints or exits.

    GGUFLikeError
    ├── GGUFError            a GGUF file breaks a rule of spec/container.md (or ends too early)
    │   └── DigestError      the structure is sound but the bytes are not those that were written
    ├── CheckpointError      a Hugging Face folder or safetensors file is incomplete or contradictory
    │   └── RemoteError      what is on the Hub or behind a URL cannot be had: missing, not allowed, no network
    │       └── ChangedError it is there, but not what it was, or not what the Hub says it is
    ├── UnsupportedError     well-formed, but a type, architecture or setting that is not handled
    │   └── ArgumentError    an argument's value is not one that the function takes; also a ValueError
    ├── ArgumentTypeError    an argument is of a kind that the function does not take; also a TypeError
    ├── QuantizationError    values or shapes that cannot be stored in the block type asked for
    ├── CacheError           what was saved of a text cannot be used again
    ├── Full                 so much is asked for already that this must be asked for later
    ├── TemplateError        a chat template failed, or tried what a template may not do
    └── OutputError          the target cannot be written (exists as the source, no space, no permission)

Every error says what is wrong, where, what was expected, what was found, and what to do about it. Where it speaks of an
argument of a function, that stands in backticks, as in Python: `overwrite=True`; `in_flags` turns it into a flag.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import index
from typing import Any, SupportsIndex

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CacheError",
    "ChangedError",
    "CheckpointError",
    "DigestError",
    "Full",
    "GGUFError",
    "GGUFLikeError",
    "OutputError",
    "QuantizationError",
    "RemoteError",
    "TemplateError",
    "UnsupportedError",
    "counted",
]


def counted(count: int, noun: str, plural: str = "", width: int = 0) -> str:
    """So many of a thing, in words of a message: "1 tensor", "2,000 tensors" (the number in ``width`` columns)."""
    return f"{f'{count:,}':>{width}} {noun if count == 1 else plural or noun + 's'}"


class GGUFLikeError(Exception):
    """Base of every error the package raises on purpose.

    The parts are kept as attributes for programs; ``str(error)`` joins them for people.
    """

    def __init__(
        self,
        what: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        tensor: str | None = None,
        field: str | None = None,
        rule: str | None = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else os.fspath(path)
        self.offset = offset
        self.tensor = tensor
        self.field = field
        self.rule = rule
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        return self._text(self.field)

    def for_command(self, flags: Mapping[str, str]) -> str:
        """The message for who gave ``flags`` rather than arguments: name of an argument -> flag."""
        return in_flags(self._text(flags.get(self.field or "", self.field)), flags)

    def within(self, path: str) -> str:
        """The message for who knows that it is about this file, without the rule."""
        return str(self).removeprefix(f"{path}, ").removeprefix(f"{path}: ").removesuffix(f" [{self.rule}]")

    def call(self, path: str, name: str) -> None:
        """Have the error speak of ``name`` wherever it speaks of ``path``, which its reader has not given."""
        self.path = name if self.path == path else self.path
        for part in ("what", "expected", "got", "remedy"):
            value = getattr(self, part)
            if isinstance(value, str):
                setattr(self, part, value.replace(path, name))

    def _text(self, field: str | None) -> str:
        where = [
            text
            for value, text in (
                (self.path, f"{self.path}"),
                (self.offset, f"byte {self.offset}"),
                (self.tensor, _shortened(f"tensor {self.tensor!r}")),
                (field, _shortened(f"{field}")),
            )
            if value is not None
        ]
        parts = [f"{', '.join(where)}: {self.what}" if where else self.what]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.got is not None:
            parts.append(_shortened(f"got {self.got}"))
        if self.remedy is not None:
            parts.append(self.remedy)
        text = "; ".join(parts)
        return f"{text} [{self.rule}]" if self.rule else text


LONGEST = 400  # characters of what a file says, in a message


def _shortened(text: str) -> str:
    """A part of a message that a file may have made as long as it likes: a sentence is for people."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


class GGUFError(GGUFLikeError):
    """A GGUF file breaks a rule of spec/container.md; ``rule`` holds the rule's id (C-001, ...)."""


class DigestError(GGUFError):
    """A digest recorded in the file does not match its bytes."""


class CheckpointError(GGUFLikeError):
    """A Hugging Face folder or one of its files is missing, incomplete or contradictory."""


class RemoteError(CheckpointError):
    """What is on the Hugging Face Hub or behind a URL cannot be had.

    It is not there, not for everyone, or out of reach.
    """


class ChangedError(RemoteError):
    """What is read from elsewhere is not what it was, or not what the Hub says it is."""


class UnsupportedError(GGUFLikeError):
    """The input is well-formed but asks for something that is not handled."""


class ArgumentError(UnsupportedError, ValueError):
    """An argument's value is not one that the function takes: an unknown name, a number out of range."""


class ArgumentTypeError(GGUFLikeError, TypeError):
    """An argument is of a kind that the function does not take: bytes for text, a float for a count."""


class QuantizationError(GGUFLikeError):
    """Values (NaN, infinities) or shapes (ragged rows) that the block type cannot hold."""


class TemplateError(GGUFLikeError):
    """A chat template failed, ran too long, or tried what a template may not do."""


class CacheError(GGUFLikeError):
    """What was saved of a text is missing, damaged, or of another model."""


class Full(GGUFLikeError):
    """An engine has as many jobs waiting as it takes; ask again later."""


class OutputError(GGUFLikeError):
    """The target cannot be written."""


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """``text`` with the arguments that it names in backticks as they are given on the command line.

    With {"dtype": "--dtype", "overwrite": "--overwrite"}, `dtype="f32"` becomes --dtype f32, `overwrite=True`
    --overwrite, and `names=['a', 'b']` --names a,b where "names" is "--names".
    """
    import re

    def spelled(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in flags:
            return match[0]
        return flags[name] if value in (None, "True") else f"{flags[name]} {value.translate(_QUOTES)}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", spelled, text)


_QUOTES = str.maketrans("", "", "[]\"' ")  # so that several values stand with commas between them


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, whatever the case; None where none is near."""
    import difflib

    plain = {_letters(each): each for each in known}
    found = difflib.get_close_matches(_letters(word), plain, 1)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A remedy for a name that is not known, or None where no other is near."""
    near = nearest(word, known)
    return None if near is None else f"did you mean {near}?"


def such_as(known: Collection[str], name: str) -> str:
    """What is expected in place of a name that is not among many known ones: the few that are most like it."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"one of {len(known)} that are known, such as {', '.join(near)}"


def _letters(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ArgumentError unless the argument ``name`` is one of ``choices``, ArgumentTypeError if it is no string."""
    check_text(name, value)
    known = list(choices)
    if value not in known:
        raise ArgumentError(
            "unknown value",
            field=name,
            expected=", ".join(known),
            got=repr(value),
            remedy=did_you_mean(str(value), known),
        )


def check_text(name: str, value: object) -> None:
    """Raise ArgumentTypeError unless the argument ``name`` is a string."""
    if not isinstance(value, str):
        raise ArgumentTypeError("not text", field=name, expected="str", got=_kind(value))


def check_texts(name: str, texts: str | Iterable[str]) -> list[str]:
    """The texts of the argument ``name`` in a list, one where it is a text itself. ArgumentTypeError for what holds
    none."""
    if isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable):
        raise ArgumentTypeError("not text", field=name, expected="str, or a list of str", got=repr(texts)[:60])
    listed = [texts] if isinstance(texts, str) else list(texts)
    for text in listed:
        check_text(name, text)
    return listed


def check_integer(name: str, value: object, low: int, high: int | None = None, remedy: str | None = None) -> int:
    """The argument ``name`` as an int.

    ArgumentTypeError where it is not an integer (a bool is none), ArgumentError where it is below ``low`` or above
    ``high``.
    """
    number = as_integer(value)
    if number is None:
        raise ArgumentTypeError("not an integer", field=name, expected="int", got=_kind(value), remedy=remedy)
    if number < low or (high is not None and number > high):
        expected = f"{low} or more" if high is None else f"{low} to {high}"
        raise ArgumentError("out of range", field=name, expected=expected, got=number, remedy=remedy)
    return number


def as_integer(value: Any) -> int | None:
    """``value`` as an int where it is an integer of Python's, numpy's or the like; None for all else and for bools."""
    if type(value) is int:  # what every call with a number of threads has: the rest takes 6 us
        return value
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or _is_array(value):
        return None
    try:
        return None if getattr(getattr(value, "dtype", None), "kind", "") == "b" else index(value)
    except TypeError:  # an array of floats has the method, and refuses
        return None


def check_number(name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> None:
    """Raise ArgumentTypeError unless argument ``name`` is a real number, ArgumentError unless it is finite and fits."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or _is_array(value):
        raise ArgumentTypeError("not a number", field=name, expected=expected, got=_kind(value))
    if not (math.isfinite(value) and fits(value)):
        raise ArgumentError("out of range", field=name, expected=expected, got=repr(value))


def check_threads(threads: object) -> None:
    """Raise unless ``threads`` is None (all CPUs that the process may use) or a count of at least 1."""
    if threads is not None:
        check_integer("threads", threads, 1, remedy="leave it out to use all CPUs")


def _is_array(value: object) -> bool:
    dimensions: int = getattr(value, "ndim", 0)
    return dimensions > 0


def _kind(value: object) -> str:
    return f"{type(value).__name__} {repr(value)[:60]}"
