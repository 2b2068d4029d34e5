"""Many texts in one array of bytes: decoded, searched and compared without a Python step for each.

A vocabulary has 50,000 to 300,000 tokens and as many merges, of which one prompt touches a few hundred. So texts stay
bytes until one is asked for. To search them, each has a *key*, a 64-bit number made of its length and its first and
last eight bytes: equal texts have equal keys, and the few others that share one are told apart by their bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Indices = npt.NDArray[np.int64]

GAP = 8  # ASCII bytes before every text, which let all be decoded at once; in GGUF they held its length
_MIX = tuple(np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_MANY = 1 << 20  # parts of a text that are looked at, one by one
_PIECE = 1 << 16  # bytes that are decoded at a time where nothing is kept of it: they stay in the cache
_SIEVE_BITS = 17  # of a key's hash: few enough that the sieve stays in the first-level cache


class Texts(Sequence[str | bytes]):
    """A sequence of str, or bytes where a text is not UTF-8. Text i is ``data[starts[i] : starts[i] + lengths[i]]``.

    ``data`` uint8 (bytes,), with GAP ASCII bytes before each text; ``starts`` and ``lengths`` int64 (texts,).
    """

    def __init__(self, data: npt.NDArray[np.uint8], starts: Indices, lengths: Indices) -> None:
        self.data = data
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def of(cls, items: Iterable[str | bytes]) -> Texts:
        """Packs strings; one that no UTF-8 can hold (a lone surrogate) is kept as Python writes it."""
        kept: list[Any] = list(items)
        try:
            raw = list(map(str.encode, kept))  # in a quarter of the time
        except (TypeError, UnicodeError):  # there are bytes, or surrogates
            raw = [item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item for item in kept]
        gap = bytes(GAP)
        lengths = np.fromiter(map(len, raw), np.int64, len(raw))
        starts = np.cumsum(lengths + GAP) - lengths
        return cls(np.frombuffer(gap + gap.join(raw), np.uint8), starts, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str | bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | bytes | Texts:
        if isinstance(index, slice):
            return Texts(self.data, self.starts[index], self.lengths[index])
        raw = self.raw(index)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def raw(self, index: int) -> bytes:
        """The bytes of one text."""
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()

    def tolist(self) -> list[Any]:
        """All texts, each str, or bytes where it is not UTF-8."""
        try:
            text = self.data.tobytes().decode()
        except UnicodeDecodeError:
            return [self[index] for index in range(len(self))]
        ends = np.cumsum((self.data & 0xC0) != 0x80, dtype=np.int64)  # characters up to each byte
        first, last = ends[self.starts - 1], ends[self.starts + self.lengths - 1]
        return [text[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]

    def not_utf8(self) -> list[int]:
        """Which texts are not UTF-8."""
        decode = codecs.getincrementaldecoder("utf-8")().decode
        try:
            for start in range(0, len(self.data), _PIECE):
                decode(self.data[start : start + _PIECE].data)
            decode(b"", final=True)
        except UnicodeDecodeError:
            return [index for index in range(len(self)) if isinstance(self[index], bytes)]
        return []

    def replaced(self, changes: dict[int, str]) -> Texts:
        """The same texts but those at the indices in ``changes``."""
        if not changes:
            return self
        new, where = Texts.of(changes.values()), list(changes)
        starts, lengths = self.starts.copy(), self.lengths.copy()
        starts[where], lengths[where] = new.starts + len(self.data), new.lengths
        return Texts(np.concatenate([self.data, new.data]), starts, lengths)

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        """uint64 (texts,), equal for equal texts."""
        words = np.ndarray((max(len(self.data) - 7, 0),), "<u8", self.data, strides=(1,))
        if not len(self):
            return np.empty(0, np.uint64)
        long = self.lengths >= 8
        tail = words[self.starts + self.lengths - 8] >> (8 * np.clip(8 - self.lengths, 0, 7)).astype(np.uint64)
        head = words[np.where(long, self.starts, 0)]
        mixed = tail * _MIX[0] ^ (head * long) * _MIX[1] ^ self.lengths.astype(np.uint64) * _MIX[2]
        mixed[self.lengths == 0] = 0
        keys: npt.NDArray[np.uint64] = (mixed ^ mixed >> np.uint64(32)) * _MIX[0]
        return keys

    def _with_keys(self, keys: npt.NDArray[np.uint64]) -> Indices:
        """The indices of texts with one of ``keys``, in order. Most fall through a sieve made of parts of the keys."""
        shift = np.uint64(64 - _SIEVE_BITS)
        marked = np.zeros(1 << _SIEVE_BITS, np.bool_)
        marked[keys >> shift] = True
        left: Indices = np.flatnonzero(marked[self.keys >> shift])
        ordered = np.sort(keys)  # np.isin would do as well, but its first call loads more of numpy than we need
        places = np.searchsorted(ordered, self.keys[left])
        same: npt.NDArray[np.bool_] = ordered[np.minimum(places, len(keys) - 1)] == self.keys[left]
        return left[same]

    def find(self, wanted: Iterable[str]) -> list[int]:
        """The indices of all texts that are in ``wanted``, in order."""
        known = {text.encode("utf-8", "surrogatepass") for text in wanted}
        return [index for index in self._with_keys(Texts.of(known).keys).tolist() if self.raw(index) in known]

    def within(self, text: bytes) -> list[int]:
        """The indices of all texts but empty ones that occur in ``text``, in order.

        Takes time and memory for every place in ``text`` and every length that texts have, of a long text up to eight.
        """
        lengths = np.flatnonzero(np.bincount(self.lengths[(self.lengths > 0) & (self.lengths <= len(text))]))
        longer: list[int] = []
        if len(text) * len(lengths) > _MANY:
            lengths = lengths[lengths <= 8]
            longer = self._longer_within(text)
        places = np.arange(GAP, GAP + len(text))
        starts, sizes = (grid.reshape(-1) for grid in np.meshgrid(places, lengths, indexing="ij"))
        inside = starts + sizes <= GAP + len(text)
        data = np.frombuffer(bytes(GAP) + text, np.uint8)
        parts = Texts(data, starts[inside], sizes[inside])
        found = self._with_keys(parts.keys)
        occurring = {index for index in found[self.lengths[found] > 0].tolist() if self.raw(index) in text}
        return sorted(occurring.union(longer))

    def _longer_within(self, text: bytes) -> list[int]:
        """The indices of texts of more than eight bytes that occur in ``text``: first by how they begin and end."""
        index = np.flatnonzero(self.lengths > 8)
        places = np.ndarray((max(len(text) - 7, 0),), "<u8", text, strides=(1,))
        words = np.ndarray((len(self.data) - 7,), "<u8", self.data, strides=(1,))
        index = index[np.isin(words[self.starts[index]], places)]
        index = index[np.isin(words[self.starts[index] + self.lengths[index] - 8], places)]
        return [each for each in index.tolist() if self.raw(each) in text]

    def repeated(self) -> tuple[int, int] | None:
        """The first index (by the second) of two equal texts, as (earlier, later); None where all differ."""
        ordered = np.sort(self.keys)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(twice):
            return None
        seen: dict[bytes, int] = {}
        for index in self._with_keys(twice).tolist():
            first = seen.setdefault(self.raw(index), index)
            if first != index:
                return first, index
        return None


class Unread(Texts):
    """So many texts that ``read`` gives, which is called when one is first asked for."""

    def __init__(self, count: int, read: Callable[[], Texts]) -> None:
        self._count = count
        self._read: Callable[[], Texts] | None = read

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:  # of what is not there yet
        read = self.__dict__.get("_read")
        if read is None or name not in ("data", "starts", "lengths"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        found = read()
        self.data, self.starts, self.lengths = found.data, found.starts, found.lengths
        return getattr(self, name)
