"""What a model is trained to say: the float model's distribution over tokens, as the logits that matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import reference
from gguflike.families.parts import Graph

Array = npt.NDArray[Any]


class Teacher:
    """The float model's ``top`` most likely tokens after each token of ``sequences``, and their log-probabilities; the
    others count as one. Each sequence is computed when it is first asked for, and kept in a folder."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        sequences: Sequence[Sequence[int]],
        folder: Path,
        top: int = 1024,
        length: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.sequences = [list(each) for each in sequences]
        self._graph, self._weights, self._folder, self._top, self._length = graph, weights, folder, top, length

    def loss(self, number: int) -> Callable[[Array], tuple[float, Array]]:
        """The mean divergence of logits (tokens, n_vocab) from the float model's on a sequence, and its gradient."""
        tokens, target = self._of(number)
        return lambda logits: divergence(logits, tokens, target)

    def _of(self, number: int) -> tuple[Array, Array]:
        path = self._folder / f"{number}.npz"
        if not path.exists():
            logits = reference.logits(self._graph, self._weights, self.sequences[number], self._length)
            tokens, target = most_likely(logits, self._top)
            np.savez(path, tokens=tokens, target=target)
            return tokens, target
        with np.load(path) as file:
            return file["tokens"], file["target"]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def most_likely(logits: Array, top: int) -> tuple[Array, Array]:
    """The numbers int32 (tokens, top) of the most likely tokens, ascending, and their log-probabilities; of all tokens,
    where there are no more."""
    logs, top = log_softmax(logits), min(top, logits.shape[-1])
    tokens = np.sort(np.argpartition(-logits, top - 1, axis=-1)[:, :top], axis=-1)
    return tokens.astype(np.int32), np.take_along_axis(logs, tokens, -1)


def divergence(logits: Array, tokens: Array, target: Array) -> tuple[float, Array]:
    """KL(target || logits) in nats, the mean over tokens, and its gradient by the logits.

    ``target`` are log-probabilities of ``tokens``, as of `most_likely`; all other tokens together are one event.
    """
    logs, wanted = log_softmax(logits), np.exp(target)
    here = np.exp(logs)
    chosen = np.take_along_axis(logs, tokens, -1)
    loss = (wanted * (target - chosen)).sum(dtype=np.float64)
    gradient = here.copy()
    if tokens.shape[1] < logits.shape[1]:
        least = np.finfo(here.dtype).tiny
        others = np.ones(here.shape, bool)
        np.put_along_axis(others, tokens, False, -1)
        rest = np.maximum((here * others).sum(axis=-1, keepdims=True), least)
        wanted_rest = np.maximum(1 - wanted.sum(axis=-1, keepdims=True), least)
        loss += (wanted_rest * (np.log(wanted_rest) - np.log(rest))).sum(dtype=np.float64)
        gradient -= others * here * (wanted_rest / rest)
    np.put_along_axis(gradient, tokens, np.take_along_axis(gradient, tokens, -1) - wanted, -1)
    return float(loss) / len(logits), gradient / np.asarray(len(logits), gradient.dtype)
