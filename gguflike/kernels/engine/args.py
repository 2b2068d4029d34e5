"""Named argument words of ops: one declaration, from which kernels take offsets and callers take the words in order.

    SCALE = Args("scale", x="address of float32 (n,)", n="values", factor="float bits", out="address of float32 (n,)")

    SCALE.pack(x=..., n=..., factor=float_bits(2.0), out=...)  # the caller: the words, in the order of the declaration
    words = load_args(SCALE, args)                             # the kernel: ``words.x``, ``words.out`` ... (atomics.py)
    x = load_word(args + SCALE.x)                              # or one word, at its byte offset

An argument word is an int64: a number, an address, or the bits of a float32. Imports neither numba nor numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

WORD_BYTES = 8


class Own(NamedTuple):
    """An address that differs between threads, as an argument word: the first thread's, and the bytes between them."""

    address: int
    stride: int


Word = int | Own


def float_bits(value: float) -> int:
    """Return a float32 parameter as an argument word: its bits in the low half."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


_OF_TUPLES = frozenset(dir(tuple))  # names that no word can have


class Offsets(tuple[int, ...]):
    """Byte offsets by name: ``Offsets("point", {"x": 0, "y": 8}).y`` is 8.

    Compiled code sees a named tuple of constants. Numba tells named tuples apart by their class, so every instance is
    the only one of a class of its own.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, name: str, offsets: Mapping[str, int]) -> Offsets:
        if taken := sorted(offsets.keys() & _OF_TUPLES):
            raise ValueError(f"{name}: every tuple has {', '.join(taken)}; choose another name")
        own_class = type(name, (cls,), {"_fields": tuple(offsets)})
        return tuple.__new__(own_class, offsets.values())

    def __getattr__(self, name: str) -> int:
        try:
            return self[self._fields.index(name)]
        except ValueError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}, only {', '.join(self._fields)}") from None

    def _asdict(self) -> dict[str, int]:
        """Return the offsets by name. (Numba knows a named tuple by this method.)"""
        return dict(zip(self._fields, self, strict=True))


class Args(Offsets):
    """The argument words of an op: ``Args(op, name="what it is", ...)``. Attributes are their byte offsets."""

    _words: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, op: str, **words: str) -> Args:
        made = super().__new__(cls, op, {name: WORD_BYTES * index for index, name in enumerate(words)})
        assert isinstance(made, Args)
        type(made)._words = words
        return made

    def extended(self, op: str, **words: str) -> Args:
        """Return the words of an op that takes these and ``words`` after them, so that one kernel can read both."""
        return Args(op, **self._words, **words)

    def behind(self, op: str, **words: str) -> Args:
        """Return the words of an op that takes ``words`` and then these, so that it can call one that takes these."""
        return Args(op, **words, **self._words)

    def pack(self, **values: Word) -> tuple[Word, ...]:
        """Return the words in the order in which they are declared. TypeError for a missing or unknown name."""
        if values.keys() != self._words.keys():
            raise TypeError(self._mismatch(values))
        return tuple(map(values.__getitem__, self._fields))

    def _mismatch(self, values: Mapping[str, Word]) -> str:
        missing = [f"{name} ({what})" for name, what in self._words.items() if name not in values]
        unknown = [name for name in values if name not in self._words]
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"does not know {', '.join(unknown)}"] * bool(
            unknown
        )
        return f"arguments of {type(self).__name__}: it {' and '.join(parts)}; it takes {', '.join(self._fields)}"
