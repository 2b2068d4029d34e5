"""Choosing one text's next token: its sampler, its grammar, and the logprobs that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gguflike.engine.events import Token
from gguflike.engine.request import Request

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.passes import Floats


class Chooser:
    """What one request's tokens are chosen by."""

    def __init__(self, request: Request, model: Model) -> None:
        self._request, self._sampler = request, request.sampling
        self._tokens = list(request.prompt)
        self._random = None if request.sampling.greedy else np.random.default_rng()
        self._end_ids = list(model.tokenizer.eos_ids) if request.ignore_end else []

    @property
    def finished(self) -> bool:
        """Whether the grammar lets nothing more come."""
        return self._request.grammar is not None and self._request.grammar.finished

    def choose(self, logits: Floats) -> Token:
        """The next token, without its text."""
        grammar, raw = self._request.grammar, logits
        mask = None if grammar is None else grammar.mask()
        if mask is not None or self._end_ids:
            logits = logits.copy()
            logits[self._end_ids] = -np.inf
            if mask is not None:
                allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(logits)]
                logits[allowed == 0] = -np.inf
        token = self._sampler.choose(logits, self._tokens, self._random)
        self._accept(token)
        count = self._request.logprobs
        if count is None:
            return Token(token, "")
        probable = raw.astype(np.float64) - raw.max()
        probable -= np.log(np.exp(probable).sum())
        likeliest = np.argsort(-probable, kind="stable")[:count].tolist()
        return Token(token, "", float(probable[token]), {each: float(probable[each]) for each in likeliest})

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
        self._tokens.append(token)
        if self._request.grammar is not None:
            self._request.grammar.accept(token)
