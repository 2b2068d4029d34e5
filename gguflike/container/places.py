"""Where tensors stand in their file: whether each has bytes of its own, and what bytes belong to none.

All offsets and sizes are columns of the header's table, unsigned, and compared in an order that cannot wrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.container import pieces
from gguflike.container.cursor import CUT
from gguflike.container.findings import Finding, odd
from gguflike.container.header import NBYTES, NE, OFFSET, PLACE, TYPE, Header
from gguflike.container.layout import MAGIC, MAX_NAME_BYTES, align_up
from gguflike.container.view import HeaderView
from gguflike.errors import counted

if TYPE_CHECKING:
    import numpy.typing as npt


MOST_NAMED = 20  # tensors that break the same rule
# Forks that store other blocks under an id of the table: id -> (weights per block, bytes per block, what it is).
VARIANTS: dict[int, tuple[int, int, str]] = {42: (128, 34, "a fork's Q2_0 with blocks of 128 weights in 34 bytes")}


def placed(file: HeaderView) -> Iterator[Finding]:
    """C-024: offsets are multiples of the alignment. C-025: all data lies in the file. C-026: no two share bytes.

    Of each rule the first MOST_NAMED tensors are named, and the others counted.
    """
    header, names = file.header, list(file.header.names)
    offsets, sizes = header.table[:, OFFSET], header.table[:, NBYTES]
    room = max(file.file_bytes - header.data_offset, 0)

    def wrong(index: int, rule: str, message: str, expected: str, got: str, remedy: str | None, other: int) -> Finding:
        variant = _variant(header, index, room) or _variant(header, other, room)
        if variant:
            message = f"{message}; the layout fits {variant}"
            remedy = "use the fork that made the file, or requantize"
        place, field = int(header.table[index, PLACE]), f"tensor[{index}].offset"
        return Finding(
            severity="error",
            rule=rule,
            message=message,
            path=file.path,
            offset=place,
            tensor=names[index],
            field=field,
            expected=expected,
            got=got,
            remedy=remedy,
        )

    def others(count: int, rule: str, message: str) -> Iterator[Finding]:
        if count > MOST_NAMED:
            more = counted(count - MOST_NAMED, "more tensor")
            yield Finding("error", rule, f"{message}: so of {more}", file.path)

    odd_offsets = np.flatnonzero(offsets & np.uint64(header.alignment - 1))
    for index in odd_offsets[:MOST_NAMED].tolist():
        expected = f"a multiple of {header.alignment}"
        yield wrong(index, "C-024", "data offset is not aligned", expected, str(offsets[index]), None, index)
    yield from others(len(odd_offsets), "C-024", "data offset is not aligned")
    outside = (offsets > np.uint64(room)) | (sizes > np.uint64(room) - np.minimum(offsets, np.uint64(room)))
    outside &= sizes > 0  # a tensor without weights has no bytes to be outside
    for index in np.flatnonzero(outside)[:MOST_NAMED].tolist():
        expected = f"{sizes[index]} bytes at data offset {offsets[index]}"
        got = f"{room} bytes of data in the file"
        remedy = pieces.remedy(file.path) or CUT
        yield wrong(index, "C-025", "data lies outside the file", expected, got, remedy, index)
    yield from others(int(outside.sum()), "C-025", "data lies outside the file")
    inside = _in_order(header, np.flatnonzero(~outside & (sizes > 0)))
    ends = (offsets + sizes)[inside[:-1]]
    shared = np.flatnonzero(ends > offsets[inside[1:]])
    for number in shared[:MOST_NAMED]:
        other, index = int(inside[number]), int(inside[number + 1])
        expected = f"{sizes[index]} bytes of its own at data offset {offsets[index]}"
        got, remedy = f"shared with {names[other]!r}", "the file is damaged or was made by a faulty tool"
        yield wrong(index, "C-026", "data overlaps another tensor's", expected, got, remedy, other)
    yield from others(len(shared), "C-026", "data overlaps another tensor's")


def _variant(header: Header, index: int, room: int) -> str | None:
    """What a fork stores under this tensor's type id, if the room up to the next tensor is exactly what that needs."""
    table = header.table
    if int(table[index, TYPE]) not in VARIANTS:
        return None
    block, block_bytes, what = VARIANTS[int(table[index, TYPE])]
    weights = 1
    for dim in table[index, NE]:
        weights *= int(dim)
    start = int(table[index, OFFSET])
    later = [int(o) for o in table[:, OFFSET] if int(o) > start]
    needed = weights // block * block_bytes
    spans = {align_up(needed, header.alignment), needed} if not later else {align_up(needed, header.alignment)}
    return what if min(later, default=room) - start in spans else None


def _in_order(header: Header, indices: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Numbers of tensors in the order of their offsets."""
    return indices[np.argsort(header.table[indices, OFFSET], kind="stable")]


def short_names(file: HeaderView) -> Iterator[Finding]:
    """C-017: names have at most 63 bytes; those of up to 127 are read here."""
    for name in file.infos:
        if len(name) > MAX_NAME_BYTES or (not name.isascii() and len(name.encode()) > MAX_NAME_BYTES):
            size = len(name.encode())
            message = f"name of {size} bytes, more than {MAX_NAME_BYTES}; llama.cpp refuses such a file"
            yield Finding("warning", "C-017", message, file.path, tensor=name)
            return


def ordered(file: HeaderView) -> Iterator[Finding]:
    """C-106: data stands in the order of the records."""
    table = file.header.table
    starts = table[table[:, NBYTES] > 0, OFFSET]
    if bool((starts[1:] < starts[:-1]).any()):
        message = "data is not in the order of the header; llama.cpp refuses such a file"
        yield Finding(odd(file), "C-106", message, file.path)


class Gap(NamedTuple):
    """Bytes ``start`` to ``end`` of a file, of no tensor; those up to ``padded`` are padding. ``behind`` says where."""

    start: int
    padded: int
    end: int
    behind: str


class Gaps:
    """The bytes between and behind tensors, in their order; ``data_end``, where the last tensor ends, and ``whole``,
    where the file should: behind that tensor's padding. What stands behind that is no gap."""

    def __init__(self, file: HeaderView) -> None:
        header = self._header = file.header
        self._order = _in_order(header, np.flatnonzero(header.table[:, NBYTES]))
        starts = header.table[self._order, OFFSET]
        ends = np.concatenate((np.zeros(1, np.uint64), starts + header.table[self._order, NBYTES]))
        self.data_end = header.data_offset + int(ends[-1])
        self.whole = align_up(self.data_end, header.alignment)
        last = max(min(self.whole, file.file_bytes) - header.data_offset, 0)
        starts = np.append(starts, np.uint64(last))
        self._number = np.flatnonzero(starts > ends)
        base = np.uint64(header.data_offset)
        self._start, self._end = ends[self._number] + base, starts[self._number] + base
        mask = np.uint64(header.alignment - 1)
        self._padded = np.minimum((self._start + mask) & ~mask, self._end)

    def __iter__(self) -> Iterator[Gap]:
        return self._of(range(len(self._number)))

    def holes(self) -> tuple[Iterator[Gap], int]:
        """Those that are more than padding, and how many they are."""
        wide = np.flatnonzero(self._padded < self._end)
        return self._of(wide), len(wide)

    def _of(self, numbers: Iterable[int]) -> Iterator[Gap]:
        names = list(self._header.names)
        for number in numbers:
            after = self._number[number]
            behind = f"behind tensor {names[self._order[after - 1]]!r}" if after else "before the first tensor"
            yield Gap(int(self._start[number]), int(self._padded[number]), int(self._end[number]), behind)


def next_file(file: HeaderView) -> int | None:
    """Where another GGUF file begins behind this one, padded or not, as where several were joined with cat."""
    between = Gaps(file)
    start = bytearray(len(MAGIC))
    for place in (between.whole, between.data_end):
        if place < file.file_bytes and file.fill(memoryview(start), place) == len(MAGIC) and start == MAGIC:
            return place
    return None


def gaps(file: HeaderView) -> Iterator[Finding]:
    """C-101: nothing but padding stands between tensors (only the first hole is reported, with how many there are).
    C-103: nothing stands behind the last tensor's padding. C-105: that padding is there."""
    between = Gaps(file)
    found, count = between.holes()
    for gap in islice(found, 1):
        message = f"{counted(gap.end - gap.padded, 'byte')} {gap.behind} in no tensor; llama.cpp refuses such a file"
        got = None if count == 1 else f"{count} such holes"
        yield Finding(odd(file), "C-101", message, file.path, gap.padded, got=got)
    end = between.whole
    if file.file_bytes > end:
        message = f"{counted(file.file_bytes - end, 'byte')} behind the last tensor"
        if next_file(file) is not None:
            message += ": another GGUF file, as where several are joined with cat"
        yield Finding(odd(file), "C-103", message, file.path, end)
    elif file.file_bytes < end and file.header.table[:, NBYTES].any():
        message = f"the file lacks the last {counted(end - file.file_bytes, 'byte')} of padding; all weights are there"
        yield Finding(odd(file), "C-105", message, file.path, file.file_bytes)
