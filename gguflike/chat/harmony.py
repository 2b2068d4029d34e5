"""Messages in channels, as gpt-oss writes them ("harmony").

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...

A message has a header: a role, a channel, whom it is for ("to=functions.name"). Channel "analysis" is reasoning, a
message to a function is a call whose arguments are its text, everything else is the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from gguflike import jsontext
from gguflike.chat.calls import Called
from gguflike.chat.reading import Held, Part, Said, new_id

_HEADER_END = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")


class ChannelReader(Held):
    """Reads the text of one answer."""

    def __init__(self, identify: Callable[[], str] = new_id, calls: bool = True, header: str = "") -> None:
        """``calls``: messages to functions are calls. ``header``: what the prompt has of a message's header."""
        super().__init__(header, identify)
        self._calls = calls
        self._in_header = True
        self._channel, self._function = "final", ""

    def end(self, cut: bool = False) -> list[Part]:
        """What is left at the end. ``cut``: the text was cut off, so what is not whole is no answer either."""
        parts: list[Part] = []
        if not self._in_header:
            self._close(parts, self._held, cut)
        self._held = ""
        return parts

    def _step(self, parts: list[Part]) -> bool:
        if self._in_header:
            header, found, rest = self._held.partition(_HEADER_END)
            if not found:
                return False
            channel = re.search(r"<\|channel\|>\s*(\w+)", header)
            function = re.search(r"to=functions\.([^\s<]+)", header)
            self._channel = channel[1] if channel else "final"
            self._function = function[1] if function else ""
            if not function and "to=" in header:  # a tool of the model's own, which nobody runs here
                self._channel = "analysis"
            self._held, self._in_header = rest, False
            return True
        place, mark = self._first(_ENDS)
        if place >= 0:
            body, self._held = self._held[:place], self._held[place + len(mark) :]
            self._close(parts, body, cut=False)
            self._held = mark + self._held if mark == "<|channel|>" else self._held
            self._in_header = True
            return True
        if not (self._function and self._calls):
            certain = self._certain(_ENDS)
            self._say(parts, self._held[:certain])
            self._held = self._held[certain:]
        return False

    def _close(self, parts: list[Part], body: str, cut: bool) -> None:
        if not (self._function and self._calls):
            self._say(parts, body)
            return
        try:
            arguments = jsontext.parsed(body or ("" if cut else "{}"))
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            parts.append(Called(self._identify(), self._function, json.dumps(arguments, ensure_ascii=False)))
            self.called = True
        elif not cut:
            self._say(parts, body)

    def _say(self, parts: list[Part], text: str) -> None:
        if text:
            parts.append(Said(text, self._channel == "analysis"))
