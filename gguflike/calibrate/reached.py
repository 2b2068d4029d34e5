"""How far a training has come: what its marks said, the best numbers, and all of it in a file to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.adam import Adam
from gguflike.calibrate.forms import Stored, stored

Floats = npt.NDArray[np.float32]


class Mark(NamedTuple):
    """Mean divergences after ``step`` steps, in nats: of the sequences trained on since the last mark (None before the
    first step), and of the other text."""

    step: int
    trained: float | None
    held_out: float


class Tuned(NamedTuple):
    """The best numbers by matrix, the best values of gains and biases by name, and how training went."""

    numbers: dict[str, Stored]
    values: dict[str, Floats]
    marks: list[Mark]


def lowest(marks: Sequence[Mark]) -> float:
    """The least divergence of the other text, in nats; infinite where none was finite."""
    return min((mark.held_out for mark in marks if np.isfinite(mark.held_out)), default=float("inf"))


def worse(marks: Sequence[Mark]) -> int:
    """How many of the last marks were no better than the best before them."""
    held_out = [mark.held_out if np.isfinite(mark.held_out) else np.inf for mark in marks]
    return len(marks) - 1 - int(np.argmin(held_out))


def save(path: Path, **arrays: Any) -> None:
    """Write arrays to a file that is there when all of them are, in place of what is there."""
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Kept:
    """What was reached, in a file at ``path`` for a training that is called ``key``."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def write(self, parameters: Mapping[Hashable, Floats], adam: Adam, reached: Tuned) -> None:
        """Keep it in place of what is there."""
        steps, moments = adam.state
        arrays: dict[str, Any] = {}
        for place, (key, value) in enumerate(parameters.items()):
            arrays[f"value{place}"], (arrays[f"mean{place}"], arrays[f"square{place}"]) = value, moments[key]
        for place, numbers in enumerate(reached.numbers.values()):
            arrays |= {f"best{place}.{field}": each for field, each in numbers._asdict().items()}
        arrays |= {f"best-value{place}": each for place, each in enumerate(reached.values.values())}
        said = {
            "key": self._key,
            "steps": steps,
            "marks": reached.marks,
            "numbers": list(reached.numbers),
            "values": list(reached.values),
        }
        save(self._path, said=json.dumps(said), **arrays)

    def read(self, parameters: Mapping[Hashable, Floats], adam: Adam) -> Tuned | None:
        """What was reached, where it is of this training: ``parameters`` and ``adam`` are set to it. Else None."""
        try:
            file = np.load(self._path)
        except (OSError, ValueError):
            return None
        with file:
            said = json.loads(str(file["said"]))
            if said["key"] != self._key:
                return None
            moments = {}
            for place, (key, value) in enumerate(parameters.items()):
                value[...] = file[f"value{place}"]
                moments[key] = file[f"mean{place}"], file[f"square{place}"]
            adam.restore(said["steps"], moments)
            best: list[dict[str, Any]] = [{} for _ in said["numbers"]]
            for key in file.files:
                place, dot, field = key.removeprefix("best").partition(".")
                if dot:
                    best[int(place)][field] = file[key]
            numbers = {name: stored(arrays) for name, arrays in zip(said["numbers"], best, strict=True)}
            values = {name: file[f"best-value{place}"] for place, name in enumerate(said["values"])}
            return Tuned(numbers, values, [Mark(*mark) for mark in said["marks"]])
