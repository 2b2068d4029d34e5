"""Adam (Kingma and Ba 2014, arXiv:1412.6980), on arrays that are changed in place."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Adam:
    """Moves ``parameters``, each at a rate of its own, which ``share`` of `step` is multiplied with."""

    def __init__(
        self,
        parameters: Mapping[Hashable, Floats],
        rates: Mapping[Hashable, float],
        decays: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self._parameters, self._rates, self._decays, self._eps = parameters, rates, decays, eps
        self._means = {key: np.zeros_like(value) for key, value in parameters.items()}
        self._squares = {key: np.zeros_like(value) for key, value in parameters.items()}
        self._steps = 0

    @property
    def state(self) -> tuple[int, dict[Hashable, tuple[Floats, Floats]]]:
        """How many steps there were, and the means and mean squares of gradients by parameter."""
        return self._steps, {key: (mean, self._squares[key]) for key, mean in self._means.items()}

    def restore(self, steps: int, moments: Mapping[Hashable, tuple[Floats, Floats]]) -> None:
        """Go on from a `state`."""
        self._steps = steps
        for key, (mean, square) in moments.items():
            self._means[key][...], self._squares[key][...] = mean, square

    def step(self, gradients: Mapping[Hashable, Floats], share: float = 1.0) -> None:
        self._steps += 1
        first, second = self._decays
        corrected = share / (1 - first**self._steps)
        for key, gradient in gradients.items():
            mean, square = self._means[key], self._squares[key]
            mean += np.float32(1 - first) * (gradient - mean)
            square += np.float32(1 - second) * (np.square(gradient) - square)
            spread = np.sqrt(square / np.float32(1 - second**self._steps)) + np.float32(self._eps)
            self._parameters[key][...] -= np.float32(self._rates[key] * corrected) * mean / spread


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """The share of its rate at which step ``step`` of ``steps`` is made: rising at first, then half a cosine to 0."""
    return min(1.0, (step + 1) / max(warm_up, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
