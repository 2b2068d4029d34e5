"""What an engine tells of itself: what it is computing, and what it has done."""

from __future__ import annotations

from typing import NamedTuple


class Slot(NamedTuple):
    """A job that is being computed, in the slot ``number``: ``computed`` of its ``prompt_tokens`` and ``generated``
    tokens are."""

    job: int
    prompt_tokens: int
    cached_tokens: int
    computed: int
    generated: int
    number: int


class Stats(NamedTuple):
    """What an engine has done since it was made, and what it is doing.

    ``submitted`` jobs are ``done``, have ``failed`` or were ``cancelled`` (or are in ``slots``, or ``waiting``);
    ``refused`` ones found the queue full. ``cached_tokens`` of the ``prompt_tokens`` did not have to be computed; they
    are counted when a job ends, as are tokens ``drafted`` and ``accepted``. ``steps`` are passes, of ``rows`` tokens in
    all, in ``busy_seconds`` of the thread. ``cache_bytes`` of ``cache_limit`` are taken for what others may begin with.
    ``held``: how many tokens each slot holds, those of free slots for texts that begin alike.
    """

    slots: tuple[Slot, ...]
    parallel: int
    waiting: int
    queue: int
    submitted: int
    refused: int
    done: int
    failed: int
    cancelled: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    drafted: int
    accepted: int
    steps: int
    rows: int
    busy_seconds: float
    cache_bytes: int
    cache_limit: int
    held: tuple[int, ...]


#: Of `Stats`, what is counted one by one.
COUNTERS = Stats._fields[Stats._fields.index("submitted") : Stats._fields.index("busy_seconds")]
