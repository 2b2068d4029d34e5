"""What a request's tokens are chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from gguflike.engine.request import Request
from gguflike.frozen import replace
from gguflike.runner.sampling.sampler import Chooser, Sampler

if TYPE_CHECKING:
    from gguflike.runner import Model
    from gguflike.runner.sampling.weights import Mask


def chooser(request: Request, model: Model) -> Chooser:
    """What chooses the tokens of a request.

    ArgumentError where the sampling needs more than the model has: a bias of a token that is not there.
    """
    sampling, tokenizer = request.sampling, model.tokenizer
    sampling.check_vocabulary(model.vocab_size)
    mask: Mask | None = None
    if request.ignore_end and sampling.greedy:
        mask = _all_but(tokenizer.eos_ids, model.vocab_size)
    elif request.ignore_end:  # which takes less time than a mask, where the likeliest is not all that is looked at
        ends = dict.fromkeys(tokenizer.eos_ids, -math.inf)
        sampling = replace(sampling, logit_bias={**sampling.logit_bias, **ends})
    return Chooser(Sampler(sampling, request.prompt, tokenizer), request.grammar, request.logprobs, mask)


def _all_but(ids: Iterable[int], size: int) -> Mask:
    """A mask of ``size`` tokens that leaves out some."""
    mask = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    for token in ids:
        mask[token // 32] &= np.uint32(0xFFFFFFFF ^ (1 << token % 32))
    return mask
