"""What recurrent mixers keep: a state of fixed size, and copies of it from earlier positions.

A recurrent state stands at one position: what it was before cannot be told from it. To go on from an earlier position,
it is put back to the nearest *checkpoint* at or before that, and the tokens since are computed again. A checkpoint is
taken before each pass of several tokens (of a prompt, or of guesses that may be wrong), and where such a pass ended
when single tokens follow. At most CHECKPOINTS are kept for a model, so all of them take at most that many times the
bytes of the state: the newest, and older ones the farther apart the older they are.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.kernels.engine.memory import aligned

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Take

    Copy = list[npt.NDArray[Any]]

CHECKPOINTS = 6


class Recurrent:
    """The state of one mixer: float32 ``past`` (kernel - 1, channels), the last inputs of its convolution, and
    ``matrices`` of so many values. Both begin with zeros."""

    forgets = True

    def __init__(self, kernel: int, channels: int, matrices: int = 0) -> None:
        self._sizes = max((kernel - 1) * channels, 1), max(matrices, 1)
        self._past: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self._matrices: npt.NDArray[np.float32] = self._past
        self._stand = 0  # positions that it has seen
        self._several = False  # whether the last pass was of several tokens
        self._checkpoints: dict[int, Copy] = {}  # copies, never changed, by positions seen; in rising order

    @property
    def nbytes(self) -> int:
        """Bytes of the state and of as many checkpoints as there may be."""
        return (1 + CHECKPOINTS) * self.read_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes of the state, all of which a token reads."""
        return 4 * sum(self._sizes)

    @property
    def past(self) -> int:
        """Address of the convolution's last inputs."""
        return int(self._past.ctypes.data)

    @property
    def matrices(self) -> int:
        """Address of the matrices."""
        return int(self._matrices.ctypes.data)

    def before(self, start: int, count: int) -> None:
        """A pass is going to compute ``count`` positions from ``start`` on, where it stands."""
        if start and start not in self._checkpoints and (count > 1 or self._several):
            self._checkpoints[start] = [self._past.copy(), self._matrices.copy()]
            if len(self._checkpoints) > CHECKPOINTS:
                del self._checkpoints[_least_missed(list(self._checkpoints))]

    def advance(self, start: int, count: int) -> None:
        """It has seen ``count`` positions from ``start`` on."""
        self._stand, self._several = start + count, count > 1

    def reusable(self, count: int) -> int:
        """``count`` where it stands there, else the position of the nearest checkpoint before, or 0."""
        if self._stand == count:
            return count
        return max((position for position in self._checkpoints if position <= count), default=0)

    def cut(self, count: int) -> None:
        """Stand at ``count``, which is what `reusable` gave. Checkpoints behind it are of another text from now on."""
        if count == 0:
            self._past[:] = self._matrices[:] = 0
        elif count != self._stand:
            self._past[:], self._matrices[:] = self._checkpoints[count]
        self._several = self._several and count == self._stand
        self._stand = count
        self._checkpoints = {position: held for position, held in self._checkpoints.items() if position <= count}

    def save(self, count: int) -> Copy:  # noqa: ARG002 - it stands at one position only
        """A copy of it, with its checkpoints."""
        positions = np.array([self._stand, self._several, *self._checkpoints])
        kept = [array for held in self._checkpoints.values() for array in held]
        return [positions, self._past.copy(), self._matrices.copy(), *kept]

    def restore(self, saved: Copy) -> None:
        """Put back what ``save`` copied."""
        (stand, several, *positions), self._past[:], self._matrices[:], *kept = saved
        self._stand, self._several = int(stand), bool(several)
        pairs = zip(kept[::2], kept[1::2], strict=True)
        self._checkpoints = {int(position): [*pair] for position, pair in zip(positions, pairs, strict=True)}

    def give_back(self) -> None:
        """As of a state (state.py): it keeps its memory, which does not grow, but no checkpoints."""
        self.cut(0)

    def in_slots(self, count: int, take: Take = aligned) -> list[Recurrent]:
        """As of a state (state.py)."""
        past, matrices = (take(count * size, np.float32).reshape(count, -1) for size in self._sizes)
        slots = [self, *(copy(self) for _ in range(1, count))]
        for number, slot in enumerate(slots):
            slot._past, slot._matrices, slot._checkpoints = past[number], matrices[number], {}
        return slots


def _least_missed(positions: list[int]) -> int:
    """Which of the positions to give up: never the newest, and else the one whose neighbours are closest together for
    how old it is."""

    def missed(index: int) -> float:
        before = positions[index - 1] if index else 0
        return (positions[index + 1] - before) / (positions[-1] - positions[index])

    return positions[min(range(len(positions) - 1), key=missed)]
