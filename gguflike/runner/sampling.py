"""Choosing the next token from logits.

The order is the usual one: repetition penalty, then top-k, top-p and min-p on the distribution at the given
temperature, then one draw. Temperature 0 is the argmax (the lowest id among equals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gguflike.errors import UnsupportedError

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampler:
    """Settings of one generation. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``repetition_penalty`` 1 mean off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64

    def __post_init__(self) -> None:
        limits = (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p < 1, "at least 0, below 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("repetition_window", self.repetition_window >= 0, "0 or more"),
        )
        for name, valid, expected in limits:
            if not valid:
                raise UnsupportedError(f"sampling setting {name}", expected=expected, got=repr(getattr(self, name)))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def choose(self, logits: Logits, recent: Sequence[int], random: np.random.Generator | None) -> int:
        """The next token. ``logits`` (vocab,) is left as it is; ``recent`` are the tokens so far.

        ``random`` may be None for a greedy sampler, which draws nothing.
        """
        if self.repetition_penalty != 1.0:
            logits = self._penalized(logits, recent)
        if self.greedy:
            return int(np.argmax(logits))
        assert random is not None
        ids, p = self._distribution(logits)
        # Inverse of the cumulative distribution: one uniform number a token, whatever the settings.
        index = int(np.searchsorted(np.cumsum(p), random.random(), side="right"))
        return int(ids[min(index, len(ids) - 1)])

    def _penalized(self, logits: Logits, recent: Sequence[int]) -> Logits:
        ids = np.unique(np.asarray(recent[-self.repetition_window :] if self.repetition_window else [], dtype=np.int64))
        logits = logits.copy()
        seen = logits[ids]
        logits[ids] = np.where(seen > 0, seen / self.repetition_penalty, seen * self.repetition_penalty)
        return logits

    def _distribution(self, logits: Logits) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Token ids, most likely first, and their probabilities, after the cuts."""
        count = min(self.top_k or len(logits), len(logits))
        ids = np.argpartition(-logits, count - 1)[:count] if count < len(logits) else np.arange(len(logits))
        ids = ids[np.lexsort((ids, -logits[ids]))]
        scaled = logits[ids].astype(np.float64) / self.temperature
        p = np.exp(scaled - scaled[0])
        p /= p.sum()
        keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1 if self.top_p < 1 else len(p)
        if self.min_p > 0:
            keep = min(keep, int(np.count_nonzero(p >= self.min_p * p[0])))
        p = p[:keep]
        return ids[:keep], p / p.sum()
