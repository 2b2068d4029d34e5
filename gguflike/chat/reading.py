"""What a model says, as it comes, to parts: what it answers, how it reasons, and calls of tools.

A text is in one of three states. Texts that structure it take it from one to another; what may yet turn out to begin
one of them is held back, and so is white space, until it is known to stand within a part. Calls are held back until
they are whole: what is cut off is reported as no call.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gguflike.chat.calls import SYNTAXES, Call, Called, json_region
from gguflike.chat.formats import Format


class Said(NamedTuple):
    """A piece of what the model says: its answer, or its reasoning."""

    text: str
    reasoning: bool = False


Part = Said | Called


def new_id() -> str:
    """An identity for a call, as OpenAI's API makes them up."""
    return f"call_{secrets.token_hex(12)}"


class Held:
    """The text of one answer, of which ``push`` takes the pieces in order, as far as it is not certain what it says.

    ``called`` says whether calls have been reported: an answer that ends with "stop" then ends with "tool_calls".
    """

    def __init__(self, held: str, identify: Callable[[], str]) -> None:
        self.called = False
        self._held, self._identify = held, identify

    def push(self, text: str) -> list[Part]:
        """The parts that are certain after ``text``."""
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """One step of what is held: True where another may follow."""
        raise NotImplementedError

    def _first(self, marks: Sequence[str]) -> tuple[int, str]:
        """Where the first of ``marks`` is, and which; (-1, "") where there is none."""
        return min(((at, mark) for mark in marks if (at := self._held.find(mark)) >= 0), default=(-1, ""))

    def _certain(self, marks: Sequence[str]) -> int:
        """How much comes before what may begin one of ``marks``."""
        longest = max((len(mark) - 1 for mark in marks), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(mark.startswith(self._held[-length:]) for mark in marks):
                return len(self._held) - length
        return len(self._held)


class Reader(Held):
    """Reads the text of one answer."""

    def __init__(
        self,
        form: Format,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        reasoning: bool = False,
        identify: Callable[[], str] = new_id,
    ) -> None:
        """``tools`` are those of the prompt, whose schemas say of which types arguments are. ``reasoning``: the prompt
        ends within reasoning. ``identify`` gives ids to calls that have none."""
        super().__init__("", identify)
        self._form = form
        functions = [tool["function"] for tool in tools]
        self._schemas = {each["name"]: each.get("parameters") or {} for each in functions}
        self._state = "reasoning" if reasoning else "answer"
        self._fresh = True  # nothing of the state has been reported, so white space says nothing
        self._began = False  # anything of the answer has been reported
        self._opened = ""  # with what the calls began

    def end(self, cut: bool = False) -> list[Part]:
        """What is left at the end. ``cut``: the text was cut off, so what is not whole is no answer either."""
        parts: list[Part] = []
        if self._state == "calls":
            if not cut:  # of a call that is not whole nothing is said
                self._finish_calls(parts, self._held)
        elif self._held:
            self._say(parts, self._held)
        self._held = ""
        return parts

    def _step(self, parts: list[Part]) -> bool:
        if self._state == "calls":
            return self._step_calls(parts)
        bare = self._bare()
        if bare is None:
            return False
        if bare:
            self._state, self._opened = "calls", ""
            return True
        marks = self._marks()
        place, mark = self._first(marks)
        if place < 0:
            certain = self._certain(marks)
            if marks:
                certain = len(self._held[:certain].rstrip())
            self._say(parts, self._held[:certain])
            self._held = self._held[certain:]
            return False
        before, self._held = self._held[:place].rstrip(), self._held[place + len(mark) :]
        self._say(parts, before)
        self._turn(mark)
        return True

    def _marks(self) -> list[str]:
        """The texts that are looked for in this state."""
        reasoning, calls = self._form.reasoning, self._form.calls
        if self._state == "reasoning":  # calls that are only thought of are no calls
            return [reasoning.end] if reasoning is not None else []
        marks = [] if calls is None else [calls.begin, *calls.quiet]
        return marks if reasoning is None else [*marks, reasoning.begin, *reasoning.quiet]

    def _turn(self, mark: str) -> None:
        form, self._fresh = self._form, True
        if form.reasoning is not None and mark in (form.reasoning.begin, form.reasoning.end):
            self._state = "answer" if self._state == "reasoning" else "reasoning"
        elif form.calls is not None and mark == form.calls.begin:
            self._state, self._opened = "calls", mark

    def _bare(self) -> bool | None:
        """Whether a call begins without anything before it; None where that is not known yet."""
        calls = self._form.calls
        if calls is None or not calls.bare or self._state != "answer" or self._began:
            return False
        start = self._held.lstrip()
        return None if not start else start[0] == "{"

    def _step_calls(self, parts: list[Part]) -> bool:
        calls = self._form.calls
        assert calls is not None
        if calls.syntax in ("json", "named"):
            end = json_region(self._held, calls)
        else:
            at = self._held.find(calls.end)
            end = None if at < 0 else at + len(calls.end)
        if end is None:
            return False
        body, self._held = self._held[:end], self._held[end:]
        self._finish_calls(parts, body)
        return True

    def _finish_calls(self, parts: list[Part], body: str) -> None:
        form = self._form.calls
        assert form is not None
        opened, self._state, self._fresh = self._opened, "answer", True
        inside = body.removesuffix(form.end) if form.end else body
        in_tag = form.begin.endswith('"') and not body.endswith(form.end)  # the call's own tag is not closed
        calls = None if in_tag else SYNTAXES[form.syntax](inside.strip(), form, self._schemas)
        if calls and (opened or all(call.name in self._schemas for call in calls)):
            parts += [self._called(call) for call in calls]
            self.called = True
        else:  # it is no call, so it is said
            self._fresh = False
            self._say(parts, opened + body)

    def _called(self, call: Call) -> Called:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return Called(call.id or self._identify(), call.name, arguments)

    def _say(self, parts: list[Part], text: str) -> None:
        reasoning = self._state == "reasoning"
        if self._fresh and (reasoning or not self._began) and (self._form.reasoning is not None or self.called):
            text = text.lstrip()
        if not text:
            return
        self._fresh = False
        self._began = self._began or not reasoning
        parts.append(Said(text, reasoning))
