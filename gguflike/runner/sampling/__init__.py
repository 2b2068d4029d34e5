"""Choosing the next token from logits.

    settings    what may be set, checked at once, and the order of the steps
    sampler     the state of one text: its tokens, its random stream
    chain       the steps, each with its formula and source, and the draw
    candidates  the tokens that are left, which a vocabulary of 262,144 must not make slow
    dry         repetitions that the next token would prolong

Importing this imports the first two: a greedy text needs no more.
"""

from gguflike.runner.sampling.sampler import Grammar, Logprobs, Sampler
from gguflike.runner.sampling.settings import ORDER, Sampling

__all__ = ["ORDER", "Grammar", "Logprobs", "Sampler", "Sampling"]
