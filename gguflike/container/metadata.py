"""The metadata of a file: a read-only mapping whose values are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gguflike.container.strings import decode, read_strings
from gguflike.container.values import CODES, SIZES, Typed, ValueType, dtype_of, reader_of
from gguflike.errors import counted
from gguflike.texts import Texts, Unread

LONGEST_SHOWN = 60  # bytes of a string that a message has


class Entry(NamedTuple):
    """Where a value stands: ``start`` is its first byte (an array's first item, a string's first character)."""

    type: ValueType
    item_type: ValueType | None
    size: int  # items of an array, bytes of a string, else 1
    start: int
    end: int


class Metadata(Mapping[str, Any]):
    """Keys in file order; values as bool, int, float, str, numpy array (scalar items) or list (string items).

    A string that is not UTF-8 comes back as bytes. Arrays are copies in native byte order, marked read-only. Nothing is
    decoded before it is asked for: ``len(metadata)``, ``type_of``, ``count_of`` and ``head`` stay cheap on a large
    vocabulary. Strings are decoded anew on each access, so keep what you use twice; ``texts`` has them packed.
    """

    def __init__(self, buffer: Any, order: str, entries: dict[str, Entry]) -> None:
        self._buffer = buffer
        self._order = order
        self._entries = entries

    def of_bytes(self, count: int) -> Metadata:
        """The same, which keeps no more than the first ``count`` bytes of the file: all that its values are in."""
        return Metadata(bytes(self._buffer[:count]), self._order, self._entries)

    def __getitem__(self, key: str) -> Any:
        entry = self._entries[key]
        return self._items(entry, entry.size) if entry.type is ValueType.ARRAY else self._single(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __repr__(self) -> str:
        return f"Metadata({counted(len(self), 'key')})"

    def entry(self, key: str) -> Entry:
        """Type, size and place in the file of a value. KeyError for a key that is not there."""
        return self._entries[key]

    def type_of(self, key: str) -> ValueType:
        """The stored type."""
        return self._entries[key].type

    def item_type_of(self, key: str) -> ValueType | None:
        """The stored type of an array's items; None for what is not an array."""
        return self._entries[key].item_type

    def count_of(self, key: str) -> int:
        """How many items an array has; 1 for what is not an array. Decodes nothing."""
        entry = self._entries[key]
        return entry.size if entry.type is ValueType.ARRAY else 1

    def shown(self, key: str) -> str:
        """The stored type and the value in a few words, to say what was got: "INT32 -1", "ARRAY of 3 STRING"."""
        entry = self._entries[key]
        if entry.item_type is not None:
            return f"ARRAY of {entry.size} {entry.item_type.name}"
        if entry.size > LONGEST_SHOWN:
            return f"{entry.type.name} of {counted(entry.size, 'byte')}"
        return f"{entry.type.name} {self._single(entry)!r}"

    def head(self, key: str, count: int) -> Any:
        """The first ``count`` items of an array, without decoding the rest; any other value whole."""
        entry = self._entries[key]
        if entry.type is not ValueType.ARRAY:
            return self[key]
        return self._items(entry, min(count, entry.size))

    def texts(self, key: str) -> Texts | None:
        """The items of an array of strings, neither looked for nor decoded yet; None for any other value."""
        entry = self._entries[key]
        if entry.item_type is not ValueType.STRING:
            return None
        return Unread(entry.size, lambda: self._texts(entry, entry.size))

    def typed(self, key: str) -> Typed:
        """The value with its stored type, for writing it again unchanged."""
        entry = self._entries[key]
        return Typed(self[key], entry.type, entry.item_type)

    def typed_dict(self) -> dict[str, Typed]:
        """All values with their stored types: what a changed copy of a file starts from."""
        return {key: self.typed(key) for key in self}

    def without(self, prefix: str) -> Metadata:
        """The same metadata without the keys that begin with ``prefix``."""
        kept = {key: entry for key, entry in self._entries.items() if not key.startswith(prefix)}
        return Metadata(self._buffer, self._order, kept)

    def _single(self, entry: Entry) -> Any:
        if entry.type is ValueType.STRING:
            return decode(bytes(self._buffer[entry.start : entry.end]))
        return reader_of(entry.type, self._order)(self._buffer, entry.start)[0]

    def _texts(self, entry: Entry, count: int) -> Texts:
        return read_strings(self._buffer, entry.start, count, entry.end, self._order)

    def _items(self, entry: Entry, count: int) -> Any:
        kind = entry.item_type
        assert kind is not None  # the parser sets it for every array
        if kind is ValueType.STRING:
            return self._texts(entry, count).tolist()
        data = bytes(self._buffer[entry.start : entry.start + count * SIZES[kind]])
        values = np.frombuffer(data, dtype_of(kind, self._order)).astype(CODES[kind], copy=False)
        values.flags.writeable = False
        return values
