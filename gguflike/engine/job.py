"""One text: what is to be computed of it next, what is chosen, what its listener hears, and when it ends.

All but `Job.cancel` is for the engine's thread. A job is a list of tokens, of which the first ``computed`` have been
computed: what comes next is what is left of the list, a prompt as well as the token that was chosen last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gguflike.engine.choosing import Chooser
from gguflike.engine.events import Event, Failed, Finished, Listener, Prefilled, Queued, Token
from gguflike.engine.request import Request
from gguflike.runner.generate import FinishReason, Generation, Text

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.passes import Floats


class Job:
    """What was asked for, from `Engine.submit` to its last event. ``id`` tells an engine's jobs apart."""

    def __init__(self, number: int, request: Request, listener: Listener, model: Model) -> None:
        self.id, self.request = number, request
        self.tokens = list(request.prompt)
        self.computed = 0
        self.result = Generation(prompt_tokens=len(self.tokens))
        self.over = False  # the last event has been told
        self.failed = False
        self.error: Exception | None = None  # what the listener raised, for which the job was dropped
        self._listener, self._model = listener, model
        self._cancelled = False
        self._position: int | None = None  # told last
        self._text = Text(model.tokenizer, request.stop)
        self._end_ids = frozenset() if request.ignore_end else frozenset(model.tokenizer.eos_ids)
        self._chooser = Chooser(request, model)
        limit = model.context if request.max_tokens is None else request.max_tokens
        self._room = min(limit, model.context - len(self.tokens))
        self._full: FinishReason = "length" if self._room == limit else "context"
        self._begun = 0.0

    def cancel(self) -> None:
        """End the job before the next piece of work. Returns at once, and may be called from any thread, twice too."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def decoding(self) -> bool:
        """Whether the prompt is computed."""
        return self.computed >= self.result.prompt_tokens

    @property
    def left(self) -> list[int]:
        """The tokens to compute, at least one."""
        return self.tokens[self.computed :]

    @property
    def outcome(self) -> str:
        """How it ended, by the name of a counter of `Stats`."""
        if self.failed or self.error is not None:
            return "failed"
        return "cancelled" if self.result.finish_reason == "cancelled" else "done"

    # What happens to it

    def queued(self, position: int) -> None:
        """So many are before it."""
        if position != self._position:
            self._position = position
            self._tell(Queued(position))

    def begin(self, cached: int) -> None:
        """It is its turn; the first ``cached`` tokens need not be computed."""
        self._begun = time.perf_counter()
        self.computed = self.result.cached_tokens = cached
        self._tell(Prefilled(cached, self.result.prompt_tokens))

    def advance(self, count: int, logits: Floats | None) -> None:
        """``count`` more tokens have been computed; ``logits`` (vocab,) are those after the last of all."""
        was_decoding = self.decoding
        self.computed += count
        if not was_decoding:
            self._tell(Prefilled(min(self.computed, self.result.prompt_tokens), self.result.prompt_tokens))
        if logits is not None and not self.over:
            self._choose(logits)
        seconds = time.perf_counter() - self._begun
        if was_decoding:
            self.result.decode_seconds = seconds - self.result.prefill_seconds
        else:
            self.result.prefill_seconds = seconds

    def end(self, reason: FinishReason) -> None:
        """Tell that it is done."""
        if not self.over:
            self.result.finish_reason = reason
            rest = self._text.end()
            self.result.stop = self._text.stop
            if rest and not self._text.stopped:
                self.result.text += rest
                self._tell(Token(None, rest))
            self._last(Finished(self.result))

    def fail(self, error: Exception) -> None:
        """Tell that it has failed."""
        if not self.over:
            self.failed = True
            self._last(Failed(error))

    # Choosing

    def _choose(self, logits: Floats) -> None:
        """Choose the next token, and what the grammar says must follow it."""
        if self._room <= len(self.result.tokens):
            self.end(self._full)
            return
        chosen = self._chooser.choose(logits)
        assert chosen.id is not None
        self._accept(chosen.id, chosen)
        for token in self._chooser.forced() if not self.over else ():
            self._accept(token, Token(token, ""))
            if self.over:
                return

    def _accept(self, token: int, told: Token) -> None:
        """Take a token as the next of the text, and see whether the text ends with it."""
        if token in self._end_ids:
            self.end("stop")
            return
        self.tokens.append(token)
        self.result.tokens.append(token)
        text = self._text.push(token)
        self.result.text += text
        self._tell(told._replace(text=text))
        if self._text.stopped or self._chooser.finished:
            self.end("stop")
        elif len(self.result.tokens) >= self._room:
            self.end(self._full)

    # Telling

    def _tell(self, event: Event) -> None:
        """Tell the listener. One that raises has its job dropped, and hears nothing any more."""
        if self.over:
            return
        try:
            self._listener(event)
        except Exception as error:  # whatever it is, the others must not suffer by it
            self.over, self.error = True, error

    def _last(self, event: Event) -> None:
        self._tell(event)
        self.over = True
