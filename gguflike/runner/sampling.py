"""Choosing the next token from logits.

The order is the usual one: repetition penalty, then top-k, top-p and min-p on the distribution at the given
temperature, then one draw. Temperature 0 is the argmax (the lowest id among equals).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflike.errors import check_integer, check_number
from gguflike.frozen import frozen

if TYPE_CHECKING:
    import numpy.typing as npt

    Logits = npt.NDArray[np.float32]


@frozen
class Sampler:
    """Settings of one generation. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``repetition_penalty`` 1 mean off.

    ArgumentError for a value out of range, ArgumentTypeError for what is no number.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, "0 or more, finite", lambda x: x >= 0)
        check_integer("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, "above 0, at most 1", lambda x: 0 < x <= 1)
        check_number("min_p", self.min_p, "at least 0, below 1", lambda x: 0 <= x < 1)
        check_number("repetition_penalty", self.repetition_penalty, "1e-6 to 1e6", lambda x: 1e-6 <= x <= 1e6)
        check_integer("repetition_window", self.repetition_window, 0)

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
        below = logits[ids].astype(np.float64) - float(logits[ids[0]])
        with np.errstate(over="ignore"):  # a temperature near 0 leaves only the likeliest
            p = np.exp(below / self.temperature)
        p /= p.sum()
        keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1 if self.top_p < 1 else len(p)
        if self.min_p > 0:
            keep = min(keep, int(np.count_nonzero(p >= self.min_p * p[0])))
        p = p[:keep]
        return ids[:keep], p / p.sum()
