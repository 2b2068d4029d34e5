"""What `fisher` finds of a whole model, kept in a folder: of which rounding takes one matrix's at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from gguflike.calibrate import files
from gguflike.calibrate.fisher import Sensitivity, fisher, token_weights
from gguflike.calibrate.statistics import Stack, Statistics
from gguflike.calibrate.steps import Steps
from gguflike.calibrate.tables import Table
from gguflike.families.parts import Graph
from gguflike.frozen import replace
from gguflike.kernels.engine.memory import give_back
from gguflike.progress import Progress

Floats = npt.NDArray[np.float32]
ROWS = 256
"""Of a factor, that are written together."""


class Sensitivities:
    """The factors H_O of matrices and how much tokens matter to them, read from a ``folder`` that `measure` wrote:
    of matrices with these ``scales``, and of ``tables``."""

    def __init__(self, folder: Path, scales: Mapping[str, list[float]], tables: Collection[str]) -> None:
        self._folder, self._scales, self._tables = folder, scales, tables

    def __contains__(self, name: str) -> bool:
        return name in self._scales

    @property
    def mean(self) -> float:
        """The mean of all scales."""
        return float(np.mean([each for scales in self._scales.values() for each in scales]))

    def scale(self, name: str, member: int = 0) -> float:
        """What the mean diagonal of H_O is for a token of the text: the mean square of the loss's gradient by an output
        of the matrix."""
        return self._scales[name][member]

    def output(self, name: str, member: int = 0) -> Floats | None:
        """H_O of a matrix, or of one of a stack, of mean diagonal 1; None where none is known."""
        if name not in self._scales:
            return None
        return np.array(np.load(self._folder / f"{name}.output.npy", mmap_mode="r")[member])

    def table(self, name: str) -> Table | None:
        """What is known of the embedding or the output matrix; None where nothing is."""
        if name not in self._tables:
            return None
        with np.load(self._folder / f"{name}.table.npz") as file:
            return Table(*(file[field] for field in Table._fields))

    @overload
    def beside(self, name: str, statistics: Statistics) -> Statistics: ...
    @overload
    def beside(self, name: str, statistics: Sequence[Statistics]) -> Sequence[Statistics]: ...
    def beside(self, name: str, statistics: Statistics | Sequence[Statistics]) -> Statistics | Sequence[Statistics]:
        """``statistics`` with H_O beside them; those of a stack are made when they are asked for."""
        if isinstance(statistics, Statistics):
            return replace(statistics, output=self.output(name))
        return _Beside(self, name, statistics)

    def counting(self, power: float = 0.5) -> Callable[[tuple[str, ...]], Floats | None]:
        """How much each token counts in what a group of matrices multiply (`token_weights`), for `stream`."""

        def count(names: tuple[str, ...]) -> Floats | None:
            known = [name for name in names if name in self._scales]
            tokens = (np.load(self._folder / f"{name}.tokens.npy") for name in known)
            none, reached = np.zeros((1, 1, 1), np.float32), np.zeros(1, np.int64)
            return token_weights([Sensitivity(none, each, reached) for each in tokens], power) if known else None

        return count


class _Beside(Stack):
    """Statistics of a stack, each with its H_O."""

    def __init__(self, found: Sensitivities, name: str, statistics: Sequence[Statistics]) -> None:
        self._found, self._name, self._statistics = found, name, statistics

    def __len__(self) -> int:
        return len(self._statistics)

    def member(self, index: int) -> Statistics:
        return replace(self._statistics[index], output=self._found.output(self._name, index))


def measure(
    graph: Graph,
    read: Callable[[str], Floats],
    sequences: Sequence[Sequence[int]],
    folder: Path,
    *,
    length: int = 0,
    seed: int = 0,
    key: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sensitivities:
    """Run `fisher` and keep what it finds in ``folder``. What a run with this ``key`` (which should say which model it
    is) and these arguments has left there is taken, if it is whole: one that was cut off goes on. Errors as of
    `fisher`."""
    asked = repr((graph, [list(map(int, each)) for each in sequences], length, seed, key))
    digest = hashlib.sha256(asked.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(folder, digest)
    scales: dict[str, list[float]] = steps.notes.setdefault("scales", {})
    tables: list[str] = steps.notes.setdefault("tables", [])

    def keep_table(name: str, table: Table) -> None:
        np.savez(folder / f"{name}.table.npz", **table._asdict())
        steps.leave(folder / f"{name}.table.npz")
        tables.append(name)

    def keep(name: str, found: Sensitivity) -> None:
        first, count = found.output(0), len(found.reached)
        path, shape = folder / f"{name}.output.npy", (count, *first.shape)
        kept = files.npy_zeros(path, shape)
        for member in range(count):
            output = found.output(member) if member else first
            for start in range(0, len(output), ROWS):
                kept[member, start : start + ROWS] = output[start : start + ROWS]
                give_back(kept[member, start : start + ROWS])  # the memory, which the system writes
        np.save(folder / f"{name}.tokens.npy", found.tokens)
        for each in (path, folder / f"{name}.tokens.npy"):
            steps.leave(each)
        # Of a stack, the sum over a token's matrices is known: it is divided as the tokens are.
        every = float(found.tokens.mean(dtype=np.float64)) / max(float(found.reached.sum()) / len(found.tokens), 1e-12)
        scales[name] = [every * float(reached) / len(found.tokens) for reached in found.reached]

    fisher(
        graph,
        read,
        sequences,
        keep,
        folder,
        tables=keep_table,
        length=length,
        seed=seed,
        steps=steps,
        threads=threads,
        progress=progress,
    )
    return Sensitivities(folder, scales, tables)
