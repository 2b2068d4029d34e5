"""Compiling the kernels that a piece of work will call before it begins: in parallel, and with progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from gguflike.blocks import format_by_name
from gguflike.kernels import dispatch
from gguflike.kernels.table import KERNELS
from gguflike.progress import Progress


class Need(NamedTuple):
    """A kernel that will be called: what it does with which block type, and, for encoders, how."""

    operation: Literal["decode", "encode"]
    type: str
    importance: bool = False
    method: str = "search"


def prepare(needs: Iterable[Need], progress: Progress | None = None) -> None:
    """Compile those kernels that are not in the cache.

    ``progress(done, total, what)`` counts them; it is not called where there are none. ``what`` is COMPILING.
    """
    missing = [need for need in dict.fromkeys(needs) if not _kept(need)]
    if missing:
        from gguflike.kernels.engine.workers import Task, compile_all

        tasks = [Task(_module(need), f"{__name__}:call", need) for need in missing]
        compile_all(tasks, lambda task: call(*task.args), lambda task: _kept(Need(*task.args)), progress)


def call(operation: str, type: str, importance: bool, method: str) -> None:
    """Decode or encode one block, so that the kernel is compiled and kept."""
    fmt = format_by_name(type)
    x = np.zeros((1, fmt.block_size), np.float32)
    blocks = np.zeros((1, fmt.block_bytes), np.uint8)
    if operation == "decode":
        dispatch.decoder(fmt)(blocks, x, 1)
    else:
        dispatch.encoder(fmt)(x, blocks, np.ones(fmt.block_size, np.float32) if importance else None, method, 1)


def _kept(need: Need) -> bool:
    """Whether the kernel is compiled, here or in the cache."""
    from gguflike.kernels.engine.internals import NotKept, only_kept  # and numba

    try:
        with only_kept():
            call(*need)
    except NotKept:
        return False
    return True


def _module(need: Need) -> str:
    row = KERNELS[need.type]
    return str(row.decode if need.operation == "decode" else row.encode).partition(":")[0]
