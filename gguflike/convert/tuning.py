"""How a conversion is tuned end to end: what moves, for how long, and what a file says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguflike.amounts import duration, size
from gguflike.calibrate.reached import Mark, lowest
from gguflike.calibrate.trained import Moves
from gguflike.container import Typed, ValueType


@dataclass(frozen=True)
class TuningPlan:
    """How a conversion is tuned: what moves, how many bytes of ``memory`` that takes at most and about how many
    ``seconds``; ``held_out`` names the texts that it must not make worse.

    At most so many ``steps`` are made, each of ``batch`` sequences of at most ``sequence`` tokens. Integers move only
    of types of at most ``bits`` for each weight.
    """

    moves: Moves
    memory: int
    seconds: float
    held_out: tuple[str, ...]
    bits: float
    steps: int
    batch: int
    sequence: int

    def lines(self) -> list[str]:
        """What a plan says of it."""
        codes = f", scales and codes of types of up to {self.bits:g} bits" if self.moves == "codes" else ""
        return [
            f"then super-scales{codes} and norm gains are trained end to end, in up to {self.steps} steps of "
            f"{self.batch} sequences of up to {self.sequence} tokens, while that helps on {', '.join(self.held_out)}",
            f"training takes about {duration(self.seconds)} and at most {size(self.memory)} of memory, the whole "
            "model in float32 several times",
        ]


def metadata(tuning: TuningPlan, marks: Sequence[Mark] = ()) -> dict[str, Any]:
    """What a file says of its tuning; before it is done, as many bytes."""
    reached = [marks[0].held_out, lowest(marks)] if marks else [0.0, 0.0]
    return {
        "gguflike.tuning.moves": tuning.moves,
        "gguflike.tuning.held_out": list(tuning.held_out),
        "gguflike.tuning.steps": Typed(marks[-1].step if marks else 0, ValueType.UINT32),
        "gguflike.tuning.divergence": Typed(reached, ValueType.ARRAY, ValueType.FLOAT64),
    }
