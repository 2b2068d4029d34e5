"""Compiling the kernels that a piece of work will call before it begins: in parallel, and with progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from gguflike.blocks import format_by_name
from gguflike.kernels import dispatch
from gguflike.kernels.engine import native
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
    ops, others = set(), []
    for need in dict.fromkeys(needs):
        fmt = format_by_name(need.type)
        if need.operation == "decode":
            op = dispatch.decode_op(fmt)
        else:
            op = dispatch.encode_op(fmt, need.importance, need.method)
        if op is not None:
            ops.add(op)
        elif need.operation == "encode" and not _kept(need):
            others.append(need)
    if ops:
        native.load(sorted(ops), progress)
    if others:
        from gguflike.kernels.engine.workers import Task, compile_all

        tasks = [Task(_module(need), f"{__name__}:encode", need[1:]) for need in others]
        compile_all(tasks, lambda task: encode(*task.args), lambda task: _kept(Need("encode", *task.args)), progress)


def encode(type: str, importance: bool, method: str) -> None:
    """Encode one block, so that the kernel is compiled and kept."""
    fmt = format_by_name(type)
    x = np.zeros((1, fmt.block_size), np.float32)
    blocks = np.zeros((1, fmt.block_bytes), np.uint8)
    dispatch.encoder(fmt)(x, blocks, np.ones(fmt.block_size, np.float32) if importance else None, method, 1)


def _kept(need: Need) -> bool:
    """Whether an encoder that is no op is compiled, here or in the cache."""
    from gguflike.kernels.engine.internals import NotKept, only_kept  # and numba

    try:
        with only_kept():
            encode(*need[1:])
    except NotKept:
        return False
    return True


def _module(need: Need) -> str:
    return str(KERNELS[need.type].encode).partition(":")[0]
