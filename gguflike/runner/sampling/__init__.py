"""Choosing the next token from logits.

    settings    what may be set, and the order of the steps
    checks      what each setting may be
    keywords    the settings as keyword arguments, for type checkers
    sampler     the state of one text: its tokens, its random stream; and its grammar beside that
    chain       the steps, each with its formula and source, and the draw
    candidates  the tokens that are left, which a vocabulary of 262,144 must not make slow
    shares      which tokens have a share of the probability
    weights     what is done with all tokens of a vocabulary, by ops
    dry         repetitions that the next token would prolong
    logprobs    how likely tokens were
    grammar     what is asked of a grammar

spec/sampling.md describes all of it. Importing this imports settings and sampler: a greedy text needs no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike import lazy
from gguflike.runner.sampling.sampler import Sampler
from gguflike.runner.sampling.settings import ALIASES, ORDER, Sampling

if TYPE_CHECKING:
    from gguflike.runner.sampling.grammar import Grammar
    from gguflike.runner.sampling.logprobs import Logprobs

__all__ = ["ALIASES", "ORDER", "Grammar", "Logprobs", "Sampler", "Sampling"]

__getattr__ = lazy.names(__name__, {"Grammar": "grammar", "Logprobs": "logprobs"})
