"""What rows of logits say: how likely the token was that came, and how far two models are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]

BLOCK = 1 << 20  # logits that are worked on at a time, in float64: 8 MiB, about what a cache holds

Kind = TypeVar("Kind", bound="Scores")


@dataclass(frozen=True)
class Scores:
    """What is known of each scored token, float64. Rows are chunks, columns the tokens of a chunk.

    ``nll``: the negative logarithm of the probability that the model gave the token.
    """

    nll: Floats

    @classmethod
    def joined(cls: type[Kind], parts: Sequence[Kind], axis: int = 0) -> Kind:
        """Several as one: chunks below chunks, or (axis 1) the tokens of one chunk in order."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts], axis) for each in fields(cls)))


@dataclass(frozen=True)
class Pairs(Scores):
    """The same of a model beside its reference.

    ``reference``: the reference's ``nll``; ``kl``: KL(reference || model) in nats; ``same``: 1 where both models have
    the same likeliest token, else 0; ``change``: the model's probability of the token less the reference's.
    """

    reference: Floats
    kl: Floats
    same: Floats
    change: Floats


def scores(logits: Logits, targets: Sequence[int]) -> Scores:
    """Of rows of logits (tokens, vocabulary) and the tokens that followed, as one chunk."""
    parts = []
    for rows, tokens in _blocks(logits, targets):
        (block,) = rows
        parts.append(Scores(_nll(log_softmax(block), tokens)[None]))
    return Scores.joined(parts, 1)


def pairs(reference: Logits, model: Logits, targets: Sequence[int]) -> Pairs:
    """Of rows of logits of two models for the same tokens, as one chunk."""
    parts = []
    for (first, second), tokens in _blocks(reference, targets, model):
        wanted, got = log_softmax(first), log_softmax(second)
        nll, likelihood = _nll(got, tokens), _nll(wanted, tokens)
        kl = np.einsum("ij,ij->i", np.exp(wanted), wanted - got)
        same = (first.argmax(1) == second.argmax(1)).astype(np.float64)
        change = np.exp(-nll) - np.exp(-likelihood)
        columns = (nll, likelihood, np.maximum(kl, 0), same, change)  # rounding may leave -1e-17 of nothing
        parts.append(Pairs(*(column[None] for column in columns)))
    return Pairs.joined(parts, 1)


def divergence(reference: Logits, model: Logits) -> float:
    """The mean of KL(reference || model) over rows of logits, in nats."""
    p, q = log_softmax(reference), log_softmax(model)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def log_softmax(logits: Logits) -> Floats:
    """Logarithms of the probabilities that each row of logits stands for, float64."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _nll(log_probabilities: Floats, tokens: Sequence[int]) -> Floats:
    found: Floats = -log_probabilities[np.arange(len(log_probabilities)), np.asarray(tokens, np.int64)]
    return found


def _blocks(logits: Logits, targets: Sequence[int], *others: Logits) -> list[tuple[list[Logits], Sequence[int]]]:
    """Rows of all models and their tokens, so many at a time that `BLOCK` bounds the memory."""
    size = max(1, BLOCK // logits.shape[1])
    starts = range(0, len(targets), size)
    return [([each[i : i + size] for each in (logits, *others)], targets[i : i + size]) for i in starts]
