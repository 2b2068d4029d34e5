"""How long work tells how far it is: the one callback of the library."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with how much is done, how much there is in all (in the `unit` of what is done), and a description of what is
being done."""

COMPILING = "compiling kernels"
"""The description while kernels are compiled, which are then what is counted. They are kept for the next time."""

FETCHING = "fetching "
"""How the description begins while a file is fetched from elsewhere; its name follows."""

CALIBRATING = "calibrating "
"""How the description begins while a model runs on text to be calibrated; what is done is then no number of bytes."""

READING = "reading the prompt"
"""The description while the tokens of a prompt are computed, which are then what is counted."""

WRITING = "writing"
"""The description while tokens of a text are made that nobody sees meanwhile."""

_UNITS = {
    WRITING: "tokens",
    COMPILING: "kernels",
    READING: "tokens",
    CALIBRATING: "",
    "evaluating ": "tokens",
    "perplexity": "tokens",
    "answering ": "questions",
    "tuning, ": "steps",
}


def unit(what: str) -> str:
    """What is counted while ``what`` is done: "bytes" unless its description begins as one that counts something else;
    "" where only the share that is done means anything."""
    return next((counted for begin, counted in _UNITS.items() if what.startswith(begin)), "bytes")


def calibrating(progress: Progress | None, what: str = "") -> Progress:
    """A callback that tells ``progress``, if there is one, that what is done is done to calibrate; ``what`` comes
    before each description."""

    def tell(done: int, total: int, part: str) -> None:
        if progress is not None:
            progress(done, total, CALIBRATING + what + part)

    return tell
