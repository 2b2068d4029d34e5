"""Choosing one text's next token: its sampler, its grammar, and the logprobs that were asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gguflike.engine.events import Token
from gguflike.engine.request import Request
from gguflike.frozen import replace
from gguflike.runner.sampling import Sampler

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.passes import Floats


class Chooser:
    """What one request's tokens are chosen by."""

    def __init__(self, request: Request, model: Model) -> None:
        """ArgumentError where the sampling needs more than the model has: a bias of a token that is not there."""
        sampling, tokenizer = request.sampling, model.tokenizer
        sampling.check_vocabulary(model.vocab_size)
        if request.ignore_end:
            ends = dict.fromkeys(tokenizer.eos_ids, -math.inf)
            sampling = replace(sampling, logit_bias={**sampling.logit_bias, **ends})
        self._request, self._sampler = request, Sampler(sampling, request.prompt, tokenizer)

    @property
    def finished(self) -> bool:
        """Whether the grammar lets nothing more come."""
        return self._request.grammar is not None and self._request.grammar.finished

    def choose(self, logits: Floats) -> Token:
        """The next token, without its text."""
        grammar, count = self._request.grammar, self._request.logprobs
        token = self._sampler.choose(logits, None if grammar is None else grammar.mask())
        self._accept(token)
        if count is None:
            return Token(token, "")
        logprobs = self._sampler.logprobs(logits, token, count)
        return Token(token, "", logprobs.chosen, dict(logprobs.alternatives))

    def forced(self) -> list[int]:
        """The tokens that the grammar says must come next. None where logprobs of all tokens are asked for, which only
        computing them one by one gives."""
        grammar = self._request.grammar
        if grammar is None or grammar.finished or self._request.logprobs is not None:
            return []
        forced = grammar.forced()
        for token in forced:
            self._accept(token)
        return forced

    def _accept(self, token: int) -> None:
        self._sampler.accept(token)
        if self._request.grammar is not None:
            self._request.grammar.accept(token)
