"""Several texts at the same time: each in a slot of its own, and a pass computes tokens of many.

A text gives the same bits whatever else is computed beside it, and however it is cut into runs: those that
`Model.generate` gives. Where products of its weights with one token and with several are not the same bits
(`Weights.exact`), runs of prompts are computed as several, and all others as one token after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.runner.passes import Run

if TYPE_CHECKING:
    from gguflike.errors import GGUFLikeError
    from gguflike.runner.mtp import MTPHeads
    from gguflike.runner.network import Network
    from gguflike.runner.passes import Floats, Passes
    from gguflike.runner.slots import Slot


class Together:
    """What `Model.together` gives. For one thread at a time; the model may be used beside it."""

    def __init__(self, model: Network, passes: Passes) -> None:
        self._model, self._passes = model, passes

    def own_heads(self) -> MTPHeads:
        """What guesses for these texts by the model's multi-token-prediction heads. UnsupportedError where there is
        none."""
        from gguflike.runner.mtp import MTPHeads

        return MTPHeads(self._model, self._passes)

    @property
    def slots(self) -> list[Slot]:
        """The places for texts."""
        return self._passes.slots

    @property
    def batch(self) -> int:
        """Tokens for which a pass has room, of all its runs."""
        return self._passes.batch

    def compute(self, runs: Sequence[Run]) -> list[Floats | GGUFLikeError]:
        """Logits (``Run.logits``, vocab) of each run, or the error that ends its text: they are not finite, and its
        slot holds nothing any more. ArgumentError where the model is closed."""
        with self._model.computing():
            found = self._passes.together(runs)
        return [self._checked(run, rows) for run, rows in zip(runs, found, strict=True)]

    def close(self) -> None:
        """Let the threads go."""
        self._passes.close()

    def _checked(self, run: Run, rows: Floats) -> Floats | GGUFLikeError:
        if not len(rows):
            return rows
        wrong = self._model.not_finite(rows, "logits")
        if wrong is not None:
            run.slot.lose()
        return rows if wrong is None else wrong


__all__ = ["Run", "Together"]
