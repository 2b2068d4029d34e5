"""Statistics in a folder, to be used again: what they cost is hours, what they take is a matrix of each width.

``index.json`` says of each group of matrices that share an input its ``names``, ``columns`` and ``tokens``, one number
for each matrix of a stack. The group's file, called as the first of its names, is an array of numpy: float32
(matrices, columns * (columns + 1) / 2), the upper triangle of each Gram matrix row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gguflike.calibrate.statistics import Floats, Stack, StackStatistics, Statistics, shrunk
from gguflike.errors import CheckpointError

INDEX, FORMAT = "index.json", 1


class Group(NamedTuple):
    """Matrices that share an input of ``columns`` values: their ``names``, and how many ``tokens`` each matrix of the
    stacks saw, or the one that there is."""

    names: tuple[str, ...]
    columns: int
    tokens: tuple[int, ...]
    stacked: bool


class Store(Mapping[str, "Statistics | Sequence[Statistics]"]):
    """Statistics by the names of tensors: a `Statistics`, or of a stack a sequence with one for each matrix, `shrunk`.

    They are read when they are asked for. ``about`` is what was noted of how they were made. CheckpointError where the
    folder holds none, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            said = index["format"]
            self.about: dict[str, Any] = index["about"]
            groups = [Group(**{**each, "tokens": tuple(each["tokens"])}) for each in index["groups"]]
            self._groups = {name: group for group in groups for name in group.names}
        except OSError as error:
            raise CheckpointError(f"no statistics in this folder: {error.strerror}", path=folder / INDEX) from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError("not an index of statistics", path=folder / INDEX, got=repr(error)[:80]) from None
        if said != FORMAT:
            raise CheckpointError("statistics of another format", path=folder / INDEX, expected=FORMAT, got=said)

    def __getitem__(self, name: str) -> Statistics | Sequence[Statistics]:
        group = self._groups[name]
        path = self.folder / f"{group.names[0]}.npy"
        columns, tokens = group.columns, group.tokens
        try:
            packed = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError("statistics cannot be read", path=path, got=str(error)[:80]) from None
        expected = (len(tokens), columns * (columns + 1) // 2)
        if packed.shape != expected or packed.dtype != np.float32:
            got = f"{packed.dtype} {packed.shape}"
            raise CheckpointError("statistics of the wrong shape", path=path, expected=f"float32 {expected}", got=got)
        if group.stacked:
            return _Kept(packed, tokens, columns)
        return Statistics(_unpacked(packed[0], columns), None, tokens[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


class _Kept(Stack):
    """Those of a file."""

    def __init__(self, packed: Floats, tokens: tuple[int, ...], columns: int) -> None:
        self._packed, self._tokens, self._columns = packed, tokens, columns
        weights = np.asarray(tokens, np.float32) / np.float32(max(sum(tokens), 1))
        mean = sum(weight * row for weight, row in zip(weights, packed, strict=True))
        self._layer = Statistics(_unpacked(np.asarray(mean, np.float32), columns), None, sum(tokens))

    def __len__(self) -> int:
        return len(self._tokens)

    def member(self, index: int) -> Statistics:
        own = Statistics(_unpacked(self._packed[index], self._columns), None, self._tokens[index])
        return shrunk(own, self._layer)


def save(folder: Path, names: Sequence[str], found: Statistics | StackStatistics) -> None:
    """Put the statistics of a group of matrices, by the names of its tensors, into a folder. They count as there when
    `finish` has written the index."""
    folder.mkdir(parents=True, exist_ok=True)
    each = (found.own(i) for i in range(len(found))) if isinstance(found, StackStatistics) else iter([found])
    count = len(found) if isinstance(found, StackStatistics) else 1
    out = None
    for i, one in enumerate(each):
        upper = one.gram[np.triu_indices(len(one.gram))]
        if out is None:
            path = folder / f"{names[0]}.npy"
            out = np.lib.format.open_memmap(path, "w+", np.float32, (count, len(upper)))
        out[i] = upper
    assert out is not None, "a stack has matrices"
    out.flush()


def finish(folder: Path, about: Mapping[str, Any], groups: Sequence[Group]) -> None:
    """Write the index of a folder with the statistics of ``groups``."""
    document = {"format": FORMAT, "about": dict(about), "groups": [each._asdict() for each in groups]}
    temporary = folder / f".{INDEX}"
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    temporary.replace(folder / INDEX)


def _unpacked(upper: Floats, columns: int) -> Floats:
    """A symmetric matrix from its upper triangle."""
    gram = np.zeros((columns, columns), np.float32)
    gram[np.triu_indices(columns)] = upper
    gram += np.triu(gram, 1).T
    return gram
