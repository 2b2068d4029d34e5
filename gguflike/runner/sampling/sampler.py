"""What the tokens of one text are chosen by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gguflike.runner.sampling.chain import Chain
    from gguflike.runner.sampling.grammar import Grammar
    from gguflike.runner.sampling.logprobs import Logprobs
    from gguflike.runner.sampling.settings import Sampling
    from gguflike.runner.sampling.weights import Logits, Mask
    from gguflike.runner.tokenizer import Tokenizer


class Sampler:
    """Chooses the tokens of one text, with a random stream of its own: what is chosen depends on the settings, the
    seed, the text and its logits, and on nothing that is computed beside it."""

    def __init__(self, sampling: Sampling, tokens: Sequence[int] = (), tokenizer: Tokenizer | None = None) -> None:
        """``tokens`` are those of the text so far. ``tokenizer`` tells DRY which tokens break a sequence: ArgumentError
        where that needs it and it is None."""
        self.sampling = sampling
        self._chain: Chain | None = None
        if not sampling.greedy:
            from gguflike.runner.sampling.chain import Chain  # a greedy text does without

            self._chain = Chain(sampling, tokens, tokenizer)

    def choose(self, logits: Logits, mask: Mask | None = None) -> int:
        """The next token by ``logits`` (vocab,), which are left as they are. `accept` is another call.

        ``mask`` has a bit for each token, the first in the lowest bit of the first word; tokens whose bit is 0 or
        missing are not chosen. ArgumentError where no token is left to choose.
        """
        if self._chain is not None:
            return self._chain.choose(logits, mask)
        likeliest = int(logits.argmax())
        if mask is None or allowed(mask, likeliest):
            return likeliest
        from gguflike.runner.sampling.weights import mask_bits, masked, nothing_left

        left = masked(logits, mask_bits(mask, len(logits)))
        likeliest = int(left.argmax())
        if left[likeliest] == -np.inf:
            raise nothing_left()
        return likeliest

    def accept(self, token: int) -> None:
        """Take note that the text goes on with ``token``."""
        if self._chain is not None:
            self._chain.accept(token)

    @staticmethod
    def logprobs(logits: Logits, chosen: int, top: int) -> Logprobs:
        """The log probability of ``chosen`` and of the ``top`` likeliest tokens by the model's own logits, before any
        step changes them. The lower id comes first among equals."""
        from gguflike.runner.sampling.logprobs import logprobs

        return logprobs(logits, chosen, top)


class Chooser:
    """A sampler, with the grammar of a text and what is told of its tokens."""

    def __init__(
        self, sampler: Sampler, grammar: Grammar | None = None, logprobs: int | None = None, mask: Mask | None = None
    ) -> None:
        """``logprobs``: of so many alternatives to each token; None: of none, nor of the token. ``mask`` is of what may
        come but for the grammar."""
        self._sampler, self._grammar, self._alternatives, self._mask = sampler, grammar, logprobs, mask

    @property
    def finished(self) -> bool:
        """Whether the grammar lets nothing more come."""
        return self._grammar is not None and self._grammar.finished

    def choose(self, logits: Logits) -> tuple[int, Logprobs | None]:
        """The next token, which is accepted."""
        mask = self._mask if self._grammar is None else _both(self._mask, self._grammar.mask())
        token = self._sampler.choose(logits, mask)
        self._accept(token)
        return token, self.logprobs(logits, token)

    def forced(self) -> Iterator[int]:
        """The tokens that the grammar says must come next, each accepted when it is taken: the grammar has ended with
        the last, not before. None where logprobs of all tokens are asked for, which only computing them one by one
        gives."""
        if self._grammar is None or self._grammar.finished or self._alternatives is not None:
            return
        for token in self._grammar.forced():
            self._accept(token)
            yield token

    def logprobs(self, logits: Logits, token: int) -> Logprobs | None:
        """Those of a token, where they are asked for."""
        return None if self._alternatives is None else self._sampler.logprobs(logits, token, self._alternatives)

    def _accept(self, token: int) -> None:
        self._sampler.accept(token)
        if self._grammar is not None:
            self._grammar.accept(token)


def _both(a: Mask | None, b: Mask | None) -> Mask | None:
    """A mask of what two masks let come."""
    if a is None or b is None:
        return b if a is None else a
    count = min(len(a), len(b))
    return a[:count] & b[:count]


def allowed(mask: Mask, token: int) -> bool:
    """Whether the bit of ``token`` is set."""
    word = token >> 5
    return word < len(mask) and bool(int(mask[word]) >> (token & 31) & 1)
