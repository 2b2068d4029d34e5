"""One text: what is to be computed of it next, what is chosen, what its listener hears, and when it ends.

All but `Job.cancel` is for the engine's thread. A job is a list of tokens, of which those that its slot holds have been
computed: what comes next is the rest of the list, be it of a prompt or the token that was chosen last, and behind that
perhaps a *draft*, a guess at what will be chosen next. Drafts are right or forgotten: they change no text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gguflike.engine.choosing import chooser
from gguflike.engine.events import Event, Failed, Finished, Listener, Prefilled, Queued, Token
from gguflike.engine.request import Request
from gguflike.runner.generate import FinishReason, Generation, Text
from gguflike.runner.together import Run

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.passes import Floats
    from gguflike.runner.sampling import Logprobs
    from gguflike.runner.slots import Slot


class Job:
    """What was asked for, from `Engine.submit` to its last event. ``id`` tells an engine's jobs apart."""

    def __init__(self, number: int, request: Request, listener: Listener, model: Model) -> None:
        self.id, self.request = number, request
        self.tokens = list(request.prompt)
        self.slot: Slot | None = None
        self.result = Generation(prompt_tokens=len(self.tokens))
        self.over = False  # the last event has been told
        self.failed = False
        self.error: Exception | None = None  # what the listener raised, for which the job was dropped
        self.draft: list[int] = []  # what the next pass computes behind all tokens
        self._listener = listener
        self._cancelled = False
        self._position: int | None = None  # told last
        self._text = Text(model.tokenizer, request.stop, request.shown)
        self._end_ids = frozenset() if request.ignore_end else frozenset(model.tokenizer.eos_ids)
        self._chooser = chooser(request, model)
        limit = model.context if request.max_tokens is None else request.max_tokens
        self._room = min(limit, model.context - len(self.tokens))
        self._full: FinishReason = "length" if self._room == limit else "context"
        self._begun = 0.0
        self._unsettled: list[tuple[int, Token]] = []  # where in the text each begins: see `_tell_settled`
        self._untold = ""  # of the text

    def cancel(self) -> None:
        """End the job before the next pass. Returns at once, and may be called from any thread, twice too."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def computed(self) -> int:
        """How many of the tokens are computed."""
        return 0 if self.slot is None else min(len(self.slot.tokens), len(self.tokens))

    @property
    def decoding(self) -> bool:
        """Whether there is nothing to compute of the prompt."""
        return self.computed >= self.result.prompt_tokens or bool(self.result.tokens)

    @property
    def room(self) -> int:
        """How many tokens may come at most."""
        return self._room - len(self.result.tokens)

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

    def begin(self, slot: Slot) -> None:
        """It is its turn, in a slot that holds the first of its tokens already."""
        self._begun, self.slot = time.perf_counter(), slot
        self.reuse()

    def reuse(self) -> None:
        """The slot has been given more of the prompt without computing it."""
        self.result.cached_tokens = self.computed
        self._tell(Prefilled(self.computed, self.result.prompt_tokens, self.computed))

    def run(self, most: int) -> Run:
        """At most so many tokens to compute next; with all that are left comes the draft, where there is room."""
        assert self.slot is not None
        prompt = self.result.prompt_tokens
        if self.computed < prompt:
            ids = self.tokens[self.computed : min(self.computed + most, prompt)]
            whole = self.computed + len(ids) == len(self.tokens)
            return Run(self.slot, ids, int(whole), prompt=True)
        left = self.tokens[self.computed :]
        if len(left) + len(self.draft) > most:
            self.draft = []
        if len(left) > most:
            return Run(self.slot, left[:most])
        return Run(self.slot, left + self.draft, 1 + len(self.draft))

    def advance(self, rows: Floats) -> None:
        """What `run` gave has been computed; ``rows`` (n, vocab) are the logits that it asked for."""
        assert self.slot is not None
        was_decoding = bool(self.result.tokens)
        if not was_decoding:
            done = min(len(self.slot.tokens), self.result.prompt_tokens)
            self._tell(Prefilled(done, self.result.prompt_tokens, self.result.cached_tokens))
        seconds = time.perf_counter() - self._begun
        if was_decoding:
            self.result.decode_seconds = seconds - self.result.prefill_seconds
        else:
            self.result.prefill_seconds = seconds
        if len(rows):  # after the times, for with its last token a text is told to have ended
            self._choose(rows)

    def end(self, reason: FinishReason) -> None:
        """Tell that it is done."""
        if not self.over:
            rest = "" if self._text.stopped else self._text.end()
            if self._text.stopped and reason != "cancelled":  # also by what was held back until now
                reason = "stop"
            self.result.finish_reason, self.result.stop = reason, self._text.stop
            self.result.text += rest
            self._untold += rest
            self._tell_settled(all_of=not self._text.stopped)
            if self._untold:
                self._tell(Token(None, self._untold))
            self._last(Finished(self.result))

    def fail(self, error: Exception) -> None:
        """Tell that it has failed."""
        if not self.over:
            self.failed = True
            self._last(Failed(error))

    # Choosing

    def _choose(self, rows: Floats) -> None:
        """Choose the next token by each of the rows, as long as the draft had foreseen it."""
        assert self.slot is not None
        draft, self.draft, right = self.draft, [], len(self.tokens)
        self.result.drafted += len(draft)
        for row, foreseen in zip(rows, [*draft, None], strict=True):
            if self.room <= 0:
                self.end(self._full)
                return
            token, logprobs = self._chooser.choose(row)
            self._accept(token, logprobs)
            if self.over or token != foreseen:
                break
            right += 1
            self.result.accepted += 1
        for token in () if self.over else self._chooser.forced():
            self._accept(token)
            if self.over:
                break
        if draft:  # the slot is to hold nothing that was not chosen
            self.slot.return_to(right)

    def _accept(self, token: int, logprobs: Logprobs | None = None) -> None:
        """Take a token as the next of the text, and see whether the text ends with it."""
        if token in self._end_ids:
            self.end("stop")
            return
        self.tokens.append(token)
        self.result.tokens.append(token)
        begin = len(self.result.text) + self._text.held
        text = self._text.push(token)
        self.result.text += text
        if self.request.logprobs is None:
            self._tell(Token(token, text))
        else:
            of_model = () if logprobs is None else (logprobs.chosen, dict(logprobs.alternatives))
            self._unsettled.append((begin, Token(token, "", *of_model)))
            self._untold += text
            self._tell_settled()
        if self._text.stopped or self._chooser.finished:
            self.end("stop")
        elif self.room <= 0:
            self.end(self._full)

    # Telling

    def _tell_settled(self, all_of: bool = False) -> None:
        """Tell the tokens whose text has begun to be part of the answer, with the text that is to be told.

        Where tokens are told with how likely they were, those of a stop string are not: their text is cut.
        """
        length, settled = len(self.result.text), 0
        while settled < len(self._unsettled) and (all_of or self._unsettled[settled][0] < length):
            settled += 1
        tokens, self._unsettled = self._unsettled[:settled], self._unsettled[settled:]
        for place, (_, token) in enumerate(tokens):
            text = ""
            if place == settled - 1:
                text, self._untold = self._untold, ""
            self._tell(token._replace(text=text))

    def _tell(self, event: Event) -> None:
        """Tell the listener. One that raises has its job dropped, and hears nothing any more."""
        if self.over:
            return
        try:
            self._listener(event)
        except Exception as error:  # whatever it is, the others must not suffer by it
            self.error = error
            self._leave()

    def _last(self, event: Event) -> None:
        self._tell(event)
        self._leave()

    def _leave(self) -> None:
        """Tell nothing any more, and let the listener go: it may well hold this job, to cancel it, and then each would
        keep the other, and all that was said, until the garbage is collected."""
        self.over, self._listener = True, _nobody


def _nobody(_: Event) -> None:
    """Nobody listens any more."""
