"""How likely a token was, and which would have been likelier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gguflike.runner.sampling.candidates import Candidates

if TYPE_CHECKING:
    from gguflike.runner.sampling.weights import Logits


class Logprobs(NamedTuple):
    """The natural logarithm of the probability of a chosen token, and the likeliest tokens with theirs, best first."""

    chosen: float
    alternatives: tuple[tuple[int, float], ...]


def logprobs(logits: Logits, chosen: int, top: int) -> Logprobs:
    """As of ``Sampler.logprobs``."""
    best = Candidates(logits)
    total = best.most + math.log(best.weights()[1])
    if top:
        best.keep_best(top)
        best.sort()
    pairs = zip(best.ids.tolist(), best.logits.tolist(), strict=True) if top else ()
    return Logprobs(float(logits[chosen]) - total, tuple((token, value - total) for token, value in pairs))
