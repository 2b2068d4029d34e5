"""A model in several files, planned: which tensors go where, as llama.cpp's gguf-split divides them.

The first file has all metadata, every file says which it is (``split.no``, ``split.count``) and how many tensors there
are in all (``split.tensors.count``). shards.py reads what is written so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from gguflike.amounts import bytes_of
from gguflike.container.layout import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, TensorSpec, align_up
from gguflike.container.plan import FilePlan, plan
from gguflike.container.shards import COUNT_KEY, MAX_SHARDS, NUMBER_KEY, PREFIX, TENSORS_KEY
from gguflike.container.values import Typed, ValueType
from gguflike.errors import ArgumentError, check_integer

StrPath = str | os.PathLike[str]

EXTENSION = ".gguf"


@dataclass(frozen=True)
class Split:
    """Where to begin a new file: before ``max_bytes`` of tensors are exceeded, or behind ``max_tensors`` of them.

    A tensor that is larger than ``max_bytes`` has a file of its own. ``metadata_first``: the first file has no tensors.
    ``counts``: how many tensors each file has, in place of limits.
    """

    max_bytes: int | None = None
    max_tensors: int | None = None
    metadata_first: bool = False
    counts: tuple[int, ...] = ()

    def groups(self, tensors: Sequence[TensorSpec]) -> list[list[TensorSpec]]:
        """The tensors of each file, in order."""
        if self.counts:
            ends = list(accumulate(self.counts))
            return [list(tensors[end - count : end]) for end, count in zip(ends, self.counts, strict=True)]
        groups: list[list[TensorSpec]] = [[], []] if self.metadata_first else [[]]
        filled = 0
        for tensor in tensors:
            size = align_up(tensor.format.tensor_bytes(tensor.shape), DEFAULT_ALIGNMENT)
            over = self.max_bytes is not None and filled + size > self.max_bytes
            over = over or (self.max_tensors is not None and len(groups[-1]) >= self.max_tensors)
            if over and groups[-1]:
                groups.append([])
                filled = 0
            groups[-1].append(tensor)
            filled += size
        return groups


def split_of(max_size: int | str | None, max_tensors: int | None, metadata_first: bool) -> Split | None:
    """What the arguments ask for; None where they set no limit. ArgumentError for those that make no sense."""
    if max_tensors is not None:
        check_integer("split_max_tensors", max_tensors, 1)
    size = None if max_size is None else _bytes(max_size)
    if size is None and max_tensors is None and not metadata_first:
        return None
    return Split(size, max_tensors, metadata_first)


def _bytes(size: int | str) -> int:
    count = None if isinstance(size, bool | float) else bytes_of(str(size))  # K, M, G are thousands, as in llama.cpp
    if not count:
        raise ArgumentError(
            "not a size",
            field="split_max_size",
            expected="bytes, or such as 4G or 500MB",
            got=repr(size),
        )
    return count


def plan_split(
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    split: Split,
    *,
    always: bool = False,
    digests: bool = True,
    long_names: bool = False,
) -> list[FilePlan]:
    """Lay out the files. A model that fits into one is not split, unless ``always``: then it is the first of one.

    ``digests`` and ``long_names`` are those of ``plan``. GGUFError as of ``plan``, ArgumentError where there would be
    too many.
    """
    groups = split.groups(tensors)
    if len(groups) == 1 and not always:
        return [plan(_unsplit(metadata), tensors, digests=digests, long_names=long_names)]
    if len(groups) > MAX_SHARDS:
        raise ArgumentError(
            "the model would be split into too many files",
            expected=f"at most {MAX_SHARDS}",
            got=len(groups),
            remedy="allow more in each file",
        )
    shared = {ALIGNMENT_KEY: metadata[ALIGNMENT_KEY]} if ALIGNMENT_KEY in metadata else {}
    return [
        plan(
            {**(_unsplit(metadata) if number == 0 else shared), **_place(number, len(groups), len(tensors))},
            group,
            digests=digests,
            long_names=long_names,
        )
        for number, group in enumerate(groups)
    ]


def _unsplit(metadata: Mapping[str, Any]) -> dict[str, Any]:
    typed = getattr(metadata, "typed", metadata.__getitem__)  # another file's metadata keep their types
    return {key: typed(key) for key in metadata if not key.startswith(PREFIX)}


def _place(number: int, count: int, tensors: int) -> dict[str, Typed]:
    return {
        NUMBER_KEY: Typed(number, ValueType.UINT16),
        COUNT_KEY: Typed(count, ValueType.UINT16),
        TENSORS_KEY: Typed(tensors, ValueType.INT32),
    }


def shard_path(path: StrPath, number: int, count: int) -> str:
    """The name of a shard, counted from 0, of a model that is called ``path``: model.gguf has model-00001-of-00003.gguf
    as its first of three."""
    return f"{os.fspath(path).removesuffix(EXTENSION)}-{number + 1:05}-of-{count:05}{EXTENSION}"


def paths_of(path: StrPath, plans: FilePlan | Sequence[FilePlan]) -> list[tuple[StrPath, FilePlan]]:
    """Each file that is written, and its plan: ``path`` itself, or the shards of the model that is called so."""
    if isinstance(plans, FilePlan):
        return [(path, plans)]
    return [(shard_path(path, number, len(plans)), each) for number, each in enumerate(plans)]
