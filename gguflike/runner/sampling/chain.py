"""The steps from logits to a token.

Each step is a function of the candidates and the chain. With l the logits of the candidates that are left and
p = softmax(l), its docstring has the formula and who proposed it. Nothing of a step is computed where it is off.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflike.runner.sampling.candidates import Candidates
from gguflike.runner.sampling.weights import flagged, mask_bits, masked, nothing_left, sums

if TYPE_CHECKING:
    from gguflike.runner.sampling.dry import Repetitions
    from gguflike.runner.sampling.settings import Sampling
    from gguflike.runner.sampling.weights import Logits, Mask
    from gguflike.runner.tokenizer import Tokenizer


class Chain:
    """The steps of ``Sampling.order`` that are on, and what they know of the text."""

    def __init__(self, sampling: Sampling, tokens: Sequence[int], tokenizer: Tokenizer | None) -> None:
        self.sampling = sampling
        self._steps = [STEPS[step] for step in sampling.order if sampling.uses(step)]
        draws = sampling.temperature > 0 or sampling.uses("xtc")
        self.random = np.random.default_rng(sampling.seed) if draws else None  # numpy loads its generators when asked
        self._bias_ids = np.fromiter(sampling.logit_bias, np.int64)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float64)
        self._counts: Counter[int] | None = None
        if sampling.uses("penalties"):
            size = None if sampling.penalty_last_n < 0 else sampling.penalty_last_n
            self._recent = deque(tokens, maxlen=size)
            self._counts = Counter(self._recent)
        self.repetitions: Repetitions | None = None
        if sampling.uses("dry"):
            from gguflike.runner.sampling.dry import Repetitions

            self.repetitions = Repetitions(sampling, tokens, tokenizer)
        self._mu = 2 * sampling.mirostat_tau

    def choose(self, logits: Logits, mask: Mask | None) -> int:
        """As of ``Sampler.choose``."""
        candidates = _allowed_ones(logits, mask)
        if len(self._bias):
            self.sampling.check_vocabulary(len(logits))
            among, places = candidates.places(self._bias_ids)
            candidates.change(places, candidates.logits[places] + self._bias[among])
        if not len(candidates) or candidates.most == -np.inf:
            raise nothing_left()
        for step in self._steps:
            step(candidates, self)
        if self.sampling.temperature == 0:  # which has left one
            return int(candidates.ids[0])
        if self.sampling.mirostat:
            return self._mirostat(candidates)
        return candidates.draw(self.uniform())[0]

    def accept(self, token: int) -> None:
        """As of ``Sampler.accept``."""
        if self._counts is not None:
            if len(self._recent) == self._recent.maxlen:
                gone = self._recent[0]
                self._counts[gone] -= 1
                if not self._counts[gone]:
                    del self._counts[gone]
            self._recent.append(token)
            self._counts[token] += 1
        if self.repetitions is not None:
            self.repetitions.accept(token)

    def uniform(self) -> float:
        """The next number of the random stream, from 0 to below 1."""
        assert self.random is not None
        return self.random.random()

    def counts(self) -> Counter[int]:
        """How often each of the tokens that penalties look at occurs."""
        assert self._counts is not None
        return self._counts

    def _mirostat(self, candidates: Candidates) -> int:
        """Draw from the candidates whose surprise, -log2 p, is at most mu, the likeliest in any case; then
        mu -= eta * (surprise of the drawn one among those - tau). At first mu is 2 tau.

        Basu et al. 2020, arXiv:2007.14966, algorithm 2, with the other steps before it where they are on.
        """
        _, total = candidates.weights()
        candidates.keep_from(candidates.most + math.log(total) - self._mu * math.log(2))
        token, probability = candidates.draw(self.uniform())
        self._mu -= self.sampling.mirostat_eta * (-math.log2(probability) - self.sampling.mirostat_tau)
        return token


def _allowed_ones(logits: Logits, mask: Mask | None) -> Candidates:
    candidates = Candidates(logits)
    if mask is None:
        return candidates
    bits = mask_bits(mask, len(logits))
    count = int(np.count_nonzero(bits))
    if count <= len(logits) // 8:
        candidates.keep(flagged(bits, count))
        return candidates
    return Candidates(masked(logits, bits))


def penalties(candidates: Candidates, chain: Chain) -> None:
    """l / r where l > 0 else l * r, less f * count + g, for tokens that occur count > 0 times among the last n.

    r: repetition penalty, Keskar et al. 2019, arXiv:1909.05858 (who divide only, which would make negative logits
    likelier); f and g: frequency and presence penalty, of OpenAI's API.
    """
    sampling, counts = chain.sampling, chain.counts()
    among, places = candidates.places(np.fromiter(counts, np.int64, len(counts)))
    logits = candidates.logits[places].astype(np.float64)
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        logits = np.where(logits > 0, logits / penalty, logits * penalty)
    if sampling.frequency_penalty or sampling.presence_penalty:
        occurrences = np.fromiter(counts.values(), np.float64, len(counts))[among]
        logits -= sampling.frequency_penalty * occurrences + sampling.presence_penalty
    candidates.change(places, logits)


def dry(candidates: Candidates, chain: Chain) -> None:
    """l - m * b ** (n - a) for tokens that would prolong a repetition of n >= a tokens (dry.py says which those are).

    m: multiplier, b: base, a: allowed length. "Don't repeat yourself", p-e-w 2024, oobabooga/text-generation-webui
    pull request 5677.
    """
    assert chain.repetitions is not None
    ids, penalty = chain.repetitions.penalties()
    among, places = candidates.places(ids)
    candidates.change(places, candidates.logits[places] - penalty[among])


def top_n_sigma(candidates: Candidates, chain: Chain) -> None:
    """Keep l >= max(l) - n * std(l), of finite l. Tang et al. 2024, arXiv:2411.07641."""
    logits = candidates.logits
    if logits.min() == -np.inf:
        finite = logits > -np.inf
        logits = logits[flagged(finite, int(np.count_nonzero(finite)))]
    differences = logits - logits.dtype.type(sums(logits).sum() / len(logits))
    deviation = math.sqrt(sums(np.square(differences, out=differences)).sum() / len(logits))
    candidates.keep_from(candidates.most - chain.sampling.top_n_sigma * deviation)


def top_k(candidates: Candidates, chain: Chain) -> None:
    """Keep the k greatest l, the lower id among equals. Fan et al. 2018, arXiv:1805.04833."""
    candidates.keep_best(chain.sampling.top_k)


def typical_p(candidates: Candidates, chain: Chain) -> None:
    """Keep those whose surprise, -log p, is nearest to its mean, as few as together have at least the share.

    Meister et al. 2022, arXiv:2202.00666.
    """
    candidates.keep_typical(chain.sampling.typical_p)


def top_p(candidates: Candidates, chain: Chain) -> None:
    """Keep the likeliest, as few as together have at least the share. Holtzman et al. 2019, arXiv:1904.09751."""
    candidates.keep_likeliest(chain.sampling.top_p)


def min_p(candidates: Candidates, chain: Chain) -> None:
    """Keep p >= share * max(p). Nguyen et al. 2024, arXiv:2407.01082."""
    candidates.keep_from(candidates.most + math.log(chain.sampling.min_p))


def xtc(candidates: Candidates, chain: Chain) -> None:
    """By the probability that is set, drop all with p >= threshold but the least likely of them.

    "Exclude top choices", p-e-w 2024, oobabooga/text-generation-webui pull request 6335.
    """
    if chain.uniform() >= chain.sampling.xtc_probability:
        return
    weights, total = candidates.weights()
    likely = weights >= chain.sampling.xtc_threshold * total
    if np.count_nonzero(likely) > 1:
        # The last of the least likely, as if they were sorted with the lower id first.
        least = np.where(likely, weights, np.inf).min()
        lightest = np.flatnonzero(likely & (weights == least))
        likely[lightest[candidates.token_ids(lightest).argmax()]] = False
        candidates.forbid(likely)


def temperature(candidates: Candidates, chain: Chain) -> None:
    """l / t; the likeliest alone where t is 0, the lowest id among equals. Ackley et al. 1985 (Boltzmann machines)."""
    if chain.sampling.temperature == 0:
        candidates.keep_best(1)
    else:
        candidates.scale(1 / chain.sampling.temperature)


STEPS: dict[str, Callable[[Candidates, Chain], None]] = {
    step.__name__: step for step in (penalties, dry, top_n_sigma, top_k, typical_p, top_p, min_p, xtc, temperature)
}
