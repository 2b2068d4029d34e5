"""Choosing one text's next token: its sampler, its grammar, and the logprobs that were asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from gguflike.engine.events import Token
from gguflike.engine.request import Request
from gguflike.frozen import replace
from gguflike.runner.sampling import Sampler

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.passes import Floats
    from gguflike.runner.sampling.sampler import Mask


class Chooser:
    """What one request's tokens are chosen by."""

    def __init__(self, request: Request, model: Model) -> None:
        """ArgumentError where the sampling needs more than the model has: a bias of a token that is not there."""
        sampling, tokenizer = request.sampling, model.tokenizer
        sampling.check_vocabulary(model.vocab_size)
        self._mask: Mask | None = None  # of what may come but for the grammar
        if request.ignore_end and sampling.greedy:
            self._mask = _all_but(tokenizer.eos_ids, model.vocab_size)
        elif request.ignore_end:
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
        mask = self._mask if grammar is None else _both(self._mask, grammar.mask())
        token = self._sampler.choose(logits, mask)
        self._accept(token)
        if count is None:
            return Token(token, "")
        logprobs = self._sampler.logprobs(logits, token, count)
        return Token(token, "", logprobs.chosen, dict(logprobs.alternatives))

    def forced(self) -> Iterator[int]:
        """The tokens that the grammar says must come next, each accepted when it is taken: the grammar has ended with
        the last, not before. None where logprobs of all tokens are asked for, which only computing them one by one
        gives."""
        grammar = self._request.grammar
        if grammar is None or grammar.finished or self._request.logprobs is not None:
            return
        for token in grammar.forced():
            self._accept(token)
            yield token

    def _accept(self, token: int) -> None:
        self._sampler.accept(token)
        if self._request.grammar is not None:
            self._request.grammar.accept(token)


def _all_but(ids: Iterable[int], size: int) -> Mask:
    """A mask of ``size`` tokens that leaves out some."""
    mask = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    for token in ids:
        mask[token // 32] &= np.uint32(0xFFFFFFFF ^ (1 << token % 32))
    return mask


def _both(a: Mask | None, b: Mask | None) -> Mask | None:
    """A mask of what two masks let come."""
    if a is None or b is None:
        return b if a is None else a
    count = min(len(a), len(b))
    return a[:count] & b[:count]
