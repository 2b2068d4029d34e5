"""Generation: one token after another, as text that is whole at every moment.

Text is handed out only when it can no longer change: bytes of an unfinished UTF-8 character wait in the tokenizer's
stream decoder, and what may yet turn out to begin a stop string waits here.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from gguflike.runner.sampling import Sampler, Sampling
from gguflike.runner.sampling.sampler import Chooser
from gguflike.runner.slots import common
from gguflike.runner.speculate import Length, Lookup

if TYPE_CHECKING:
    from gguflike.progress import Progress
    from gguflike.runner.drafting import Drafter
    from gguflike.runner.model import Model
    from gguflike.runner.passes import Floats
    from gguflike.runner.sampling import Grammar, Logprobs
    from gguflike.runner.slots import Saved
    from gguflike.runner.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "context", "cancelled"]


class Piece(NamedTuple):
    """One token and the text that it completes (possibly none, possibly that of tokens before it).

    ``logprobs`` are those of the token where they are asked for; text that is left at the end comes without.
    """

    token: int
    text: str
    logprobs: Logprobs | None = None


@dataclass
class Generation:
    """The outcome. ``tokens`` are the generated ids, without the end-of-sequence token that ended them, ``logprobs``
    where they are asked for one for each of these.

    ``finish_reason`` is "stop" (end token, stop string, or a grammar that is complete), "length" (``max_tokens``
    reached), "context" (full), or "cancelled" (by who asked; of an engine's jobs only). ``stop`` is the stop string
    before which the text ended.
    ``drafted`` tokens were guessed before they were computed, of which ``accepted`` were right.
    Speeds are in tokens per second of wall time; that of the prompt counts only tokens that had to be computed.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "length"
    stop: str | None = None
    drafted: int = 0
    accepted: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    logprobs: list[Logprobs] | None = None

    @property
    def prefill_tokens_per_s(self) -> float:
        """Speed of reading the prompt, by the tokens of it that had to be computed."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Speed after the first token, which comes with the prompt."""
        return (len(self.tokens) - 1) / self.decode_seconds if self.decode_seconds and self.tokens else 0.0


class StopText:
    """Passes text on up to the first of some stop strings."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.found: str | None = None  # the one that the text ended before

    def push(self, text: str) -> str:
        """What of the text so far is certain to stand before any stop string."""
        self._held += text
        hits = [(at, stop) for at, stop in ((self._held.find(stop), stop) for stop in self._stop) if at >= 0]
        if hits:
            at, self.found = min(hits)
            return self._take(at)
        return self._take(len(self._held) - self._possible_start())

    @property
    def held(self) -> int:
        """How many characters may yet begin a stop string."""
        return len(self._held)

    def flush(self) -> str:
        """What is left when no more comes."""
        return self._take(len(self._held))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class Text:
    """What tokens of one text come to, as far as it can no longer change: ends before the first of ``stop``.

    Special tokens are no text, but for those of ``shown``.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], shown: Container[int] = ()) -> None:
        self._decoder, self._stop = tokenizer.stream(shown=shown), StopText(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found, before which the text has ended."""
        return self._stop.found is not None

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._stop.found

    @property
    def held(self) -> int:
        """How many characters are held back, which may begin a stop string."""
        return self._stop.held

    def push(self, token: int) -> str:
        """The text that a token completes."""
        return self._stop.push(self._decoder.push(token))

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        rest = self._stop.push(self._decoder.flush())
        return rest if self.stopped else rest + self._stop.flush()


class Stream:
    """A generation in progress: iterate over its pieces, or take its ``result()``, which runs it to the end.

    Several streams of one model may be read in turns, or each from a thread of its own.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        drafts: Drafts,
        logprobs: int | None,
        grammar: Grammar | None,
        progress: Progress | None = None,
        shown: Container[int] = (),
    ) -> None:
        continuation = Continuation(model, list(prompt), max_tokens, sampling, drafts, logprobs, grammar, progress)
        self.generation = continuation.result
        self._pieces = continuation.pieces(stop, shown)

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def result(self) -> Generation:
        """The outcome, after generating what is left."""
        for _ in self._pieces:
            pass
        return self.generation


class Continuation:
    """One prompt that is being continued: what a stream's generators work on, and whose the model's cache is meanwhile.

    ``tokens`` are the prompt and what was chosen so far. ``saved`` is what the cache held of them, while another call
    has the cache. Only the generators refer to this, and the model weakly: when they end, or the stream is dropped,
    it is gone, and nothing is saved for it any more.
    """

    def __init__(
        self,
        model: Model,
        tokens: list[int],
        max_tokens: int,
        sampling: Sampling,
        drafts: Drafts,
        logprobs: int | None,
        grammar: Grammar | None,
        progress: Progress | None = None,
    ) -> None:
        self.result = Generation(prompt_tokens=len(tokens), logprobs=None if logprobs is None else [])
        self.saved: Saved | None = None  # what the model held of it, while another computes (see ``Model.turn``)
        self._model, self._tokens, self._max_tokens = model, tokens, max_tokens
        self._chooser = Chooser(Sampler(sampling, tokens, model.tokenizer), grammar, logprobs)
        self._drafts, self._progress = drafts, progress

    def pieces(self, stop: Sequence[str], shown: Container[int]) -> Iterator[Piece]:
        """Generate; text ends before the first of the strings ``stop``, and has the special tokens ``shown``."""
        result, whole = self.result, Text(self._model.tokenizer, stop, shown)
        end_ids = frozenset(self._model.tokenizer.eos_ids)
        for token, logprobs in self._chosen():
            if token in end_ids:
                result.finish_reason = "stop"
                break
            result.tokens.append(token)
            if result.logprobs is not None and logprobs is not None:
                result.logprobs.append(logprobs)
            text = whole.push(token)
            result.text += text
            if whole.stopped:
                result.finish_reason, result.stop = "stop", whole.stop
                yield Piece(token, text, logprobs)
                return
            yield Piece(token, text, logprobs)
        rest = whole.end()
        if whole.stopped:
            result.finish_reason, result.stop = "stop", whole.stop
        if rest:
            result.text += rest
            yield Piece(result.tokens[-1], rest)

    def _chosen(self) -> Iterator[tuple[int, Logprobs | None]]:
        """Generated ids, end tokens included. Only computing is timed, not what the caller does between tokens."""
        result, tokens, model = self.result, self._tokens, self._model
        room = min(self._max_tokens, model.context - len(tokens))
        result.finish_reason = "length" if room == self._max_tokens else "context"
        with model.turn(self):
            begin = time.perf_counter()
            computed = result.cached_tokens = model.common_prefix(tokens)
            logits = model.extend(tokens[computed:], computed, progress=self._progress)
            chosen = self._next(logits[-1:], []) if room else []
            result.prefill_seconds = time.perf_counter() - begin
        count, computed = 0, len(tokens)
        while chosen and count < room:
            for token, logprobs in chosen[: room - count]:
                tokens.append(token)
                count += 1
                yield token, logprobs
            if count >= room:
                return
            if self._chooser.finished:
                result.finish_reason = "stop"
                return
            begin = time.perf_counter()
            left = tokens[computed:]
            draft = self._drafts.propose(tokens, min(room - count - 1, model.pass_size - len(left)), result)
            result.decode_seconds += time.perf_counter() - begin
            with model.turn(self):
                begin = time.perf_counter()
                if draft:
                    rows = model.extend([*left, *draft], computed, each=True)[-1 - len(draft) :]
                else:
                    rows = model.extend(left, computed)
                chosen, computed = self._next(rows, draft), len(tokens)
                if draft:
                    accepted = common([token for token, _ in chosen], draft, len(draft))
                    result.drafted, result.accepted = result.drafted + len(draft), result.accepted + accepted
                    computed += accepted
                    model.forget(computed)
                result.decode_seconds += time.perf_counter() - begin

    def _next(self, rows: Floats, draft: Sequence[int]) -> list[tuple[int, Logprobs | None]]:
        """The tokens that are chosen by each of the rows of logits, as long as the draft had foreseen them, and those
        that the grammar leaves no choice about behind them."""
        chosen = []
        for row, foreseen in zip(rows, [*draft, None], strict=True):
            chosen.append(self._chooser.choose(row))
            if chosen[-1][0] != foreseen or self._chooser.finished:
                break
        return chosen + [(token, None) for token in self._chooser.forced()]


class Drafts:
    """The drafts of one text: what followed the last time that it ended like this, ``lookup`` tokens at most, or else
    what a draft model or the model's own heads guess, ``tokens`` at most."""

    def __init__(self, lookup: int = 0, model: Drafter | None = None, tokens: int = 8) -> None:
        self._lookup = Lookup([], lookup) if lookup else None
        self._model, self._length = model, Length(tokens)

    def propose(self, tokens: Sequence[int], room: int, result: Generation) -> list[int]:
        """A draft of at most ``room`` tokens behind ``tokens``; ``result`` says what became of those before."""
        self._length.adapt(result)
        if room <= 0:
            return []
        draft = [] if self._lookup is None else self._lookup.propose(tokens, room)
        if draft or self._model is None:
            return draft
        from gguflike.runner.drafting import Asked

        asked = Asked(tokens, self._model.slots[0], min(room, self._length.next))
        return self._model.guess([asked])[0]
