"""Where an array of strings ends, without a Python step per string.

Strings stand one after the other, each behind its length as 8 bytes, so the place of the next is known only from the
length of the last: 300,000 steps for a large vocabulary. But almost all lengths are below 256 and then show as 7 zero
bytes in a row, which text hardly ever holds. So: find all places with 7 zero bytes at once (candidates), and accept
the run of candidates in which each stands exactly where the length before it says. What is accepted is therefore
proved, not guessed; where the chain breaks (a long string, an empty one, a hostile file) plain steps take over for a
while.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.texts import Texts

if TYPE_CHECKING:
    import numpy.typing as npt

WINDOW = 1 << 15  # bytes looked at together: temporaries stay in the cache, whatever the file says
FIRST_STEPS = 32  # plain steps after a broken chain, or for few strings; doubled each time that does not help
MOST_STEPS = 1 << 15
ASCII = 127


class StringOverrun(Exception):
    """String ``index`` at ``position`` declares ``length`` bytes, more than are left."""

    def __init__(self, index: int, position: int, length: int) -> None:
        self.index = index
        self.position = position
        self.length = length
        super().__init__(index, position, length)


def skip_strings(
    buffer: Any, start: int, count: int, end: int, order: str, places: list[npt.NDArray[np.int64]] | None = None
) -> int:
    """Position behind ``count`` strings that begin at ``start``, all of it at most ``end``; else StringOverrun.

    ``order`` is the byte order of the lengths, "<" or ">". The positions of the strings' lengths go to ``places``.
    """
    unpack = struct.Struct(order + "Q").unpack_from
    position, done, steps = start, 0, FIRST_STEPS
    while done < count:
        if count - done > steps:
            found, position = _chain(buffer, position, count - done, end, order)
            done += len(found)
            steps = FIRST_STEPS if len(found) > steps else min(2 * steps, MOST_STEPS)
            if places is not None:
                places.append(found)
        plain = []
        for _ in range(min(steps, count - done)):
            if end - position < 8:
                raise StringOverrun(done, position, 8)
            (length,) = unpack(buffer, position)
            if length > end - position - 8:
                raise StringOverrun(done, position, length)
            plain.append(position)
            position += 8 + length
            done += 1
        if places is not None:
            places.append(np.array(plain, np.int64))
    return position


def _chain(buffer: Any, start: int, count: int, end: int, order: str) -> tuple[npt.NDArray[np.int64], int]:
    """Where the strings from ``start`` on begin that one window proves (none is a fair answer), and where they end."""
    window = np.frombuffer(buffer, np.uint8, min(WINDOW, end - start), start)
    zero = window == 0
    pairs = zero[:-1] & zero[1:]
    fours = pairs[:-2] & pairs[2:]
    sevens = fours[:-3] & fours[3:]  # sevens[i]: bytes i..i+6 are zero
    places: npt.NDArray[np.int64]
    if order == "<":
        places = np.flatnonzero(sevens[1:])[:count]  # the low byte comes first
        lengths = window[places]
    else:
        places = np.flatnonzero(sevens[: max(len(window) - 7, 0)])[:count]
        lengths = window[places + 7]
    following = places + (8 + lengths.astype(np.int64))
    if not len(places) or places[0] != 0:
        return places[:0], start
    broken = np.flatnonzero(following[:-1] != places[1:])
    chained = int(broken[0]) if len(broken) else len(places) - 1  # the last one's end is not confirmed by a successor
    return start + places[:chained], start + int(places[chained])


def read_strings(buffer: Any, start: int, count: int, end: int, order: str) -> Texts:
    """A copy of ``count`` strings from ``start`` on, which ``skip_strings`` has found to end by ``end``."""
    found: list[npt.NDArray[np.int64]] = []
    stop = skip_strings(buffer, start, count, end, order, found)
    places = np.concatenate(found) - start if found else np.empty(0, np.int64)
    starts = places + 8
    lengths = np.append(places[1:], stop - start)[:count] - starts
    data = np.frombuffer(buffer, np.uint8, stop - start, start).copy()
    long = places[lengths > ASCII]
    data[(long[:, None] + np.arange(8)).reshape(-1)] = 0  # what Texts wants before a text
    return Texts(data, starts, lengths)


def decode(data: bytes) -> str | bytes:
    """Text where the bytes are UTF-8, else the bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
