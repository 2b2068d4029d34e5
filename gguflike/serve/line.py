"""Work that is done one after the other, beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gguflike.machine import trim_heap

Result = TypeVar("Result")


class Line:
    """A thread for work of which only one piece may be done at a time, in the order in which it is asked for.

    Who is cancelled before its turn has none. What has begun goes on to its end, though nobody may wait for it any
    more, and only then comes the next: a lock would be free while the work still goes on. The thread ends with this.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def __call__(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class Texts:
    """Work on the texts of requests, before anything is computed. The `long` ones come one after the other: texts take
    a hundred times their size for as long as they are made to tokens, and short ones need not wait for long ones."""

    def __init__(self) -> None:
        self._line = Line("gguflike-texts")

    async def __call__(self, work: Callable[[], Result], size: int) -> Result:
        """What ``work`` on texts of at most so many bytes returns or raises."""
        if size < LONG:
            return await asyncio.to_thread(work)
        return await self._line(lambda: _tidied(work))


def _tidied(work: Callable[[], Result]) -> Result:
    try:
        return work()
    finally:
        trim_heap()


#: Bytes of a request from which on its texts are long.
LONG = 32 << 10
