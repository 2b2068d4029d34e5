"""Statistics in a folder, to be used again: what they cost is hours, what they take is a matrix of each width.

``index.json`` says of each group of matrices that share an input its ``names``, ``columns`` and ``tokens``, one number
for each matrix of a stack, and the SHA-256 of what the matrices are. The group's file, called as the first of its
names, is an array of numpy: float32 (matrices, columns * (columns + 1) / 2), the upper triangle of each Gram matrix
row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gguflike.calibrate import files
from gguflike.calibrate.statistics import Floats, Stack, StackStatistics, Statistics, shrunk
from gguflike.errors import CheckpointError, OutputError

INDEX, FORMAT = "index.json", 2
HEADER = 128
"""Bytes of a file of numpy before its values."""


class Group(NamedTuple):
    """Matrices that share an input of ``columns`` values: their ``names``, and how many ``tokens`` each matrix of the
    stacks saw, or the one that there is. ``sha256``: of each tensor's values, float32 in GGUF's order."""

    names: tuple[str, ...]
    columns: int
    tokens: tuple[int, ...]
    stacked: bool
    sha256: tuple[str, ...] = ()


class Store(Mapping[str, "Statistics | Sequence[Statistics]"]):
    """Statistics by the names of tensors: a `Statistics`, or of a stack a sequence with one for each matrix, `shrunk`.

    They are read from ``folder`` when they are asked for. ``about`` is what was noted of how they were made,
    ``groups`` are those of tensors that share one. CheckpointError where the folder holds none, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, folder / INDEX
        try:
            index = json.loads(self.index.read_text(encoding="utf-8"))
            said = index["format"]
            if said != FORMAT:
                raise CheckpointError("statistics of another format", path=self.index, expected=FORMAT, got=said)
            self.about: dict[str, Any] = index["about"]
            self.groups = [_group(each) for each in index["groups"]]
        except OSError as error:
            remedy = "give the folder that `gguflike calibrate --hessians` has written"
            raise CheckpointError(
                f"no statistics in this folder: {error.strerror}", path=self.index, remedy=remedy
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError("not an index of statistics", path=self.index, got=repr(error)[:80]) from None
        self._groups = {name: group for group in self.groups for name in group.names}

    def group(self, name: str) -> Group:
        """The group of a tensor."""
        return self._groups[name]

    def path(self, group: Group) -> Path:
        """The file of a group."""
        return self.folder / f"{group.names[0]}.npy"

    def __getitem__(self, name: str) -> Statistics | Sequence[Statistics]:
        group = self._groups[name]
        path, columns, tokens = self.path(group), group.columns, group.tokens
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


def size(columns: int, matrices: int) -> int:
    """Bytes of the Gram matrices of a group: of so many ``matrices`` of stacks, or of one."""
    return HEADER + matrices * columns * (columns + 1) // 2 * 4


def missing(folder: Path, sizes: Mapping[str, int]) -> int:
    """Bytes that a folder still takes when files of these ``sizes``, by the first names of their groups, are there."""
    paths = {folder / f"{name}.npy": size for name, size in sizes.items()}
    return sum(max(size - files.taken([path]), 0) for path, size in paths.items())


def begin(folder: Path) -> None:
    """Say that what a folder held before no longer counts: some of it is about to be replaced. OutputError where that
    cannot be."""
    with _output_errors(folder / INDEX):
        (folder / INDEX).unlink(missing_ok=True)


def save(folder: Path, names: Sequence[str], found: Statistics | StackStatistics) -> None:
    """Put the statistics of a group of matrices, by the names of its tensors, into a folder. They count as there when
    `finish` has written the index. OutputError where they cannot be written."""
    each = (found.own(i) for i in range(len(found))) if isinstance(found, StackStatistics) else iter([found])
    count = len(found) if isinstance(found, StackStatistics) else 1
    path = folder / f"{names[0]}.npy"
    with _output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for number, one in enumerate(each):
                columns = len(one.gram)
                if number == 0:
                    shape = (count, columns * (columns + 1) // 2)
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                for i, row in enumerate(one.gram):
                    file.write(row[i:].astype("<f4", copy=False).tobytes())


def finish(folder: Path, about: Mapping[str, Any], groups: Sequence[Group]) -> None:
    """Write the index of a folder with the statistics of ``groups``. OutputError where it cannot be written."""
    document = {"format": FORMAT, "about": dict(about), "groups": [each._asdict() for each in groups]}
    temporary = folder / f".{INDEX}"
    with _output_errors(folder / INDEX):
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        temporary.replace(folder / INDEX)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"statistics cannot be written: {error.strerror}", path=path) from error


def _group(said: Mapping[str, Any]) -> Group:
    """A group as the index says it. TypeError or ValueError where it says something else."""
    names, tokens, digests = (tuple(said[each]) for each in ("names", "tokens", "sha256"))
    group = Group(names, said["columns"], tokens, bool(said["stacked"]), digests)
    texts, numbers = (*group.names, *group.sha256), (group.columns, *group.tokens)
    if len(group.sha256) != len(group.names) or not all(isinstance(each, str) for each in texts):
        raise ValueError(f"names and their digests: {texts}")
    if not group.names or any(Path(name).name != name for name in group.names):
        raise ValueError(f"not names of tensors: {group.names}")
    if not all(isinstance(each, int) and each >= 0 for each in numbers) or len(numbers) < 2:
        raise ValueError(f"columns and tokens: {numbers}")
    return group


def _unpacked(upper: Floats, columns: int) -> Floats:
    """A symmetric matrix from its upper triangle."""
    gram = np.empty((columns, columns), np.float32)
    start = 0
    for i in range(columns):
        row = upper[start : start + columns - i]
        gram[i, i:] = row
        gram[i:, i] = row
        start += columns - i
    return gram
