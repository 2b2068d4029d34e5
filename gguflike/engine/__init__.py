"""Many texts on one model: a thread that owns the model computes for all who ask, and tells each what became of it.

    with Engine(model, parallel=8) as engine:
        job = engine.submit(Request(prompt=(1, 2, 3), max_tokens=100), listener)    calls listener(event) on its thread
        job.cancel()                                                                takes effect before the next pass

Take an `Engine` where several ask at once, or where what was asked may be taken back: a server, a chat that can be
stopped. `Model.generate` is for one text after the other, in the caller's thread.

    engine     what users hold: a bounded queue, the thread, health
    stats      counters, and what is being computed
    request    what is asked for
    events     what a listener hears
    job        one text: what is to be computed next, what is chosen, when it ends
    choosing   what a request's tokens are chosen by
    drafting   guesses at what comes next
    pace       how long pieces of prompts may be
    places     which slot a text gets, and what it need not compute
    prefixes   what was computed of texts, for others that begin alike
    disk       the same on a disk, for when the program is started anew
    store      slots as files of a name
    files      what such files look like, and how they are checked

What it promises is in spec/engine.md; `runner.together` computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy

if TYPE_CHECKING:
    from gguflike.engine.engine import Engine
    from gguflike.engine.events import Event, Failed, Finished, Listener, Prefilled, Queued, Token
    from gguflike.engine.job import Job
    from gguflike.engine.request import Grammar, Request
    from gguflike.engine.stats import Slot, Stats
    from gguflike.errors import Full

__all__ = [
    "Engine",
    "Event",
    "Failed",
    "Finished",
    "Full",
    "Grammar",
    "Job",
    "Listener",
    "Prefilled",
    "Queued",
    "Request",
    "Slot",
    "Stats",
    "Token",
]

__getattr__ = lazy.names(
    __name__,
    {
        "Engine": "engine",
        "Event": "events",
        "Failed": "events",
        "Finished": "events",
        "Full": "engine",
        "Grammar": "request",
        "Job": "job",
        "Listener": "events",
        "Prefilled": "events",
        "Queued": "events",
        "Request": "request",
        "Slot": "stats",
        "Stats": "stats",
        "Token": "events",
    },
)
