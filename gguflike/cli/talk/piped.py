"""Messages from a pipe or a file: each line is one, empty lines are none, and several lines stand between two lines of
three quotation marks."""

from __future__ import annotations

import sys

QUOTES = '"""'


class Piped:
    """Standard input as a source of messages."""

    is_typed = False

    def ask(self, begun: str) -> str | None:  # noqa: ARG002 - nobody could go on with it
        """The next message; None at the end."""
        for line in sys.stdin:
            words = line.rstrip("\r\n")
            if words.lstrip().startswith(QUOTES):
                return self._quoted(words.lstrip()[len(QUOTES) :])
            if words.strip():
                return words
        return None

    def _quoted(self, first: str) -> str:
        """What stands up to the next three quotation marks, or the end."""
        lines = []
        line: str | None = first
        while line is not None and QUOTES not in line:
            lines.append(line)
            line = next((line.rstrip("\r\n") for line in sys.stdin), None)
        if line is not None:
            lines.append(line[: line.index(QUOTES)])
        return "\n".join(lines).strip("\n")
