"""Waking a loop from another thread, with what the system has for that and without."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from gguflike.serve.bell import bell

OPEN = Path("/proc/self/fd")


@pytest.fixture(params=["eventfd", "call"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "call":
        monkeypatch.delattr(os, "eventfd", raising=False)


def test_it_wakes_the_loop() -> None:
    heard: list[threading.Thread] = []

    async def main() -> None:
        woken = asyncio.Event()

        def call() -> None:
            heard.append(threading.current_thread())
            woken.set()

        made = bell(call)
        for _ in range(3):
            ringing = threading.Thread(target=made.ring)
            ringing.start()
            await asyncio.wait_for(woken.wait(), 60)
            woken.clear()
            ringing.join()
        made.close()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert heard == [threading.current_thread()] * 3


def test_it_may_ring_when_the_loop_has_ended() -> None:
    async def main() -> None:
        made.append(bell(lambda: None))

    made: list[object] = []
    asyncio.run(main())
    made[0].ring()  # type: ignore[attr-defined]


@pytest.mark.skipif(not OPEN.is_dir(), reason="the system does not list open files")
def test_closed_it_holds_no_file() -> None:
    async def main() -> None:
        before = len(list(OPEN.iterdir()))
        for _ in range(3):
            bell(lambda: None).close()
        assert len(list(OPEN.iterdir())) == before

    asyncio.run(main())
