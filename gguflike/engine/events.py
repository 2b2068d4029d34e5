"""What a job's listener hears, in this order: `Queued`, `Prefilled`, `Token`, and `Finished` or `Failed` as the last.

A listener is called on the engine's thread, one event at a time, and must not block: everybody waits meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gguflike.runner.generate import Generation


class Queued(NamedTuple):
    """The job waits; so many are before it, itself not counted. Told again when that changes."""

    position: int


class Prefilled(NamedTuple):
    """So many of the prompt's tokens are computed, those ``held`` already (at first only these) included."""

    done: int
    total: int
    held: int = 0


class Token(NamedTuple):
    """One token and the text that it completes: whole characters, possibly none, possibly those of tokens before it.

    Text that may begin a stop string is held back until that is known. ``id`` is None for what was held back when the
    text ended. ``logprob`` and ``alternatives`` (token id -> logprob, the likeliest first) are the model's own, before
    sampling changed anything; None and empty unless `Request.logprobs` asks for them. Where it does, a token is told
    when its text is known to be part of the answer, and those of a stop string are not.
    """

    id: int | None
    text: str
    logprob: float | None = None
    alternatives: Mapping[int, float] = {}


class Finished(NamedTuple):
    """The job is done: its end was reached, or it was cancelled (``generation.finish_reason``)."""

    generation: Generation


class Failed(NamedTuple):
    """The job ended by an error, a `GGUFLikeError` where it is one that is known."""

    error: Exception


Event = Queued | Prefilled | Token | Finished | Failed
Listener = Callable[[Event], None]
