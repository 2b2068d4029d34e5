"""The memory in which a team of threads runs programs: numpy structures, and their byte offsets for compiled code.

A program is a header and a record for each op; a team is a few words and a block for each thread, whose ``state`` is
what ops see. All words are int64. What several threads write stands in different cache lines (64 bytes).
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.kernels.engine.args import Offsets

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Words = npt.NDArray[np.int64]
    #: Where memory comes from: `aligned`, or `unbacked` where only its size is asked for.
    Take = Callable[..., npt.NDArray[Any]]

LINE_WORDS = 8  # of a cache line
SCRATCH_BYTES = 1 << 18  # of each thread, which ops use as they like


def _structure(itemsize: int, /, **fields: int | tuple[int, Any]) -> np.dtype[np.void]:
    """Return a structure of ``itemsize`` bytes: fields by name, each the offset of an int64, or (offset, type)."""
    places = {name: field if isinstance(field, tuple) else (field, np.int64) for name, field in fields.items()}
    offsets, formats = zip(*places.values(), strict=True)
    return np.dtype({"names": list(places), "formats": formats, "offsets": offsets, "itemsize": itemsize})


def _offsets(name: str, structure: np.dtype[np.void]) -> Offsets:
    return Offsets(name, {field: int(place[1]) for field, place in (structure.fields or {}).items()})


HEADER_TYPE = _structure(
    64,
    ops=0,  # how many records follow
    tokens=8,  # of the pass
    position=16,  # of its first token
    claims=24,  # address of a claim for each op (interpreter.py), of the first thread's share
    dones=32,  # address of a word for each op: pieces done of the stage that it starts
    claims_stride=40,  # bytes from one thread's claims to the next thread's
    args_stride=48,  # bytes from one thread's argument words to the next thread's
)
RECORD_TYPE = _structure(
    128,
    function=0,  # address of the machine code
    args=8,  # address of the first thread's argument words
    items=16,
    per_tokens=24,  # not 0: as many items again for every so many tokens of the pass, begun ones included
    per_keys=32,  # not 0: as many items again for every so many positions up to the end of the pass
    grain=40,  # items of a piece, the least that is claimed
    each=48,  # items of the op for an item that is claimed
    starts_stage=56,  # 1: every earlier op must be complete first
    chained=64,  # how many ops that follow take over the same items
    own=72,  # 1: each thread does all items for itself
)
STATE_TYPE = _structure(
    128,
    tokens=0,  # of the pass
    position=8,  # of its first token
    thread=16,
    scratch=24,  # address of memory that ops use as they like
    function=32,  # address of the op that the thread has run last
    # Calls of one op, one after the other in one stage, have the same number here, so that what one leaves in scratch
    # is there for the next; 0, outside of a team: it is not.
    series=40,
    panel_series=48,  # in which matmul/few.py has left a panel in scratch,
    panel_codes=56,  # of the activations at this address,
    panel_columns=64,  # of so many columns
)
# One row of a pass (a token). The rows of a sequence stand behind each other, in the order of its text: its *run*.
# Ops that keep something of a sequence keep it in *slots* that lie behind each other in memory, one for each sequence,
# and are told the address of an array of these (``rows``), an element for each row of the pass.
ROW_TYPE = _structure(
    32,
    position=0,  # of the token in its sequence
    slot=8,  # number of the slot that its sequence has
    first=16,  # number of the row that begins its run
    run=24,  # rows of it
)
BLOCK_TYPE = _structure(
    256,
    asleep=0,  # 1: the worker sleeps, or is about to
    post_due=8,  # 1: Python has to wake the worker
    semaphore=(64, "V64"),
    state=(128, STATE_TYPE),
)


def team_type(threads: int) -> np.dtype[np.void]:
    """Return the structure of a team of so many threads."""
    return _structure(
        192 + threads * BLOCK_TYPE.itemsize,
        epoch=0,  # number of the pass
        program=64,  # address of the pass's program
        quit=72,  # 1: workers shall end
        threads=80,
        sem_wait=88,  # addresses of C functions, 0 where Python waits and posts (waiting.py)
        sem_post=96,
        yield_core=104,  # of a C function that offers the core to other threads, or 0
        finished=112,  # number of the last pass that is complete
        busy=128,  # workers that look at a program
        blocks=(192, (BLOCK_TYPE, (threads,))),
    )


HEADER, RECORD, STATE = _offsets("header", HEADER_TYPE), _offsets("record", RECORD_TYPE), _offsets("state", STATE_TYPE)
ROW, ROW_BYTES = _offsets("row", ROW_TYPE), ROW_TYPE.itemsize
BLOCK, TEAM = _offsets("block", BLOCK_TYPE), _offsets("team", team_type(1))
HEADER_BYTES, RECORD_BYTES, BLOCK_BYTES = HEADER_TYPE.itemsize, RECORD_TYPE.itemsize, BLOCK_TYPE.itemsize


def op_state(*, tokens: int = 0, position: int = 0, thread: int = 0, scratch: int = 0) -> npt.NDArray[np.void]:
    """Return the state for an op that is called without a team. ``scratch`` is a 64-byte aligned address."""
    state = np.zeros(1, STATE_TYPE)
    state["tokens"], state["position"], state["thread"], state["scratch"] = tokens, position, thread, scratch
    return state


# Windows has no such flags: anonymous memory is private there.
_PRIVATE: dict[str, int] = {}
if hasattr(mmap, "MAP_PRIVATE") and hasattr(mmap, "MAP_ANONYMOUS"):
    _PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def give_back(array: npt.NDArray[Any]) -> None:
    """Give the pages of an array that `aligned` made, or of a part of one, back to the system: what they held is lost,
    and they are taken again when they are touched. Pages that other parts share stay, and all stay where the system has
    no call for it."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = int(array.ctypes.data) - np.frombuffer(base, np.uint8).ctypes.data
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (first + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        base.madvise(mmap.MADV_DONTNEED, start, stop - start)


def aligned(count: int, dtype: Any = np.uint8, *, huge: bool = False) -> npt.NDArray[Any]:
    """Return a zeroed array on pages of its own, which are taken from the system one by one when they are touched.

    ``huge`` asks for huge pages, for what will be filled: a tenth of the time to take them, and fewer to look up. A
    cache of which a little is used here and there would take it all.
    """
    dtype = np.dtype(dtype)
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1), **_PRIVATE)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None and hasattr(pages, "madvise"):
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(advice)
    return np.frombuffer(pages, dtype, count)


def unbacked(count: int, dtype: Any = np.uint8, *, huge: bool = False) -> npt.NDArray[Any]:
    """Return an array of the size of what `aligned` returns, without its memory, which nobody may write to. Like it, it
    has addresses of its own, where the system has mappings of this kind; elsewhere all its elements are one.

    For who asks how much something takes that need not be there: its ``nbytes`` are those of the real one.
    """
    if _PRIVATE:
        with suppress(OSError):  # a limit on addresses
            pages = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1), **_PRIVATE, prot=mmap.PROT_READ)
            return np.frombuffer(pages, dtype, count)
    one = np.zeros(1, dtype)
    array: npt.NDArray[Any] = np.ndarray((count,), one.dtype, one, strides=(0,))
    return array
