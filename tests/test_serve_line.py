"""Work in line: one piece at a time, in order, none for who has left; long texts of requests go through one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.checkpoint.encoder import Turns
from gguflike.runner.tokenizer import Tokenizer
from gguflike.serve import line as line_module
from gguflike.serve.line import LONG, Line, Texts
from tests.serving import model, post, serving


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


class Gate:
    """Work that notes its begin and waits until it is let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.most, self._at_once, self._lock = 0, 0, threading.Lock()
        self.open = threading.Event()

    def work(self, number: int) -> Callable[[], int]:
        def worked() -> int:
            with self._lock:
                self.begun.append(number)
                self._at_once += 1
                self.most = max(self.most, self._at_once)
            self.open.wait(30)
            with self._lock:
                self._at_once -= 1
            return number

        return worked

    async def has_begun(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.sleep(0.001)


def test_one_at_a_time_in_the_order_of_asking() -> None:
    async def asked() -> None:
        line, gate = Line("test"), Gate()
        made = [asyncio.ensure_future(line(gate.work(number))) for number in range(5)]
        await gate.has_begun(1)
        gate.open.set()
        assert await asyncio.gather(*made) == [0, 1, 2, 3, 4]
        assert (gate.begun, gate.most) == ([0, 1, 2, 3, 4], 1)

    run(asked())


def test_who_leaves_has_no_turn_and_what_has_begun_is_not_overtaken() -> None:
    async def asked() -> None:
        line, gate = Line("test"), Gate()
        made = [asyncio.ensure_future(line(gate.work(number))) for number in range(3)]
        await gate.has_begun(1)
        for each in made[:2]:  # one that is being done, and one that waits
            each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await made[0]
        await asyncio.sleep(0.05)
        assert gate.begun == [0]  # which goes on, alone
        gate.open.set()
        assert await made[2] == 2
        assert (gate.begun, gate.most) == ([0, 2], 1)

    run(asked())


def test_errors_are_those_of_the_work() -> None:
    async def asked() -> None:
        line = Line("test")
        with pytest.raises(ZeroDivisionError):
            await line(lambda: 1 // 0)
        assert await line(lambda: 1) == 1  # and the next has its turn

    run(asked())


def test_short_texts_do_not_wait_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[float] = []
    monkeypatch.setattr(line_module, "trim_heap", lambda: tidied.append(time.monotonic()))

    async def asked() -> None:
        texts, gate = Texts(), Gate()
        long = [asyncio.ensure_future(texts(gate.work(number), LONG)) for number in range(40)]
        await gate.has_begun(1)
        assert await texts(lambda: "short", LONG - 1) == "short"
        assert tidied == []
        gate.open.set()
        assert await asyncio.gather(*long) == list(range(40))
        assert gate.most == 1
        assert len(tidied) == 40

    run(asked())


WORDS = "word " * (LONG // 4)
SAYS = {"messages": [{"role": "user", "content": WORDS}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", SAYS, 400),
        ("/v1/completions", {"prompt": WORDS}, 400),
        ("/completion", {"prompt": WORDS}, 400),
        ("/v1/responses", {"input": WORDS}, 400),
        ("/v1/messages/count_tokens", {"messages": SAYS["messages"]}, 200),
        ("/tokenize", {"content": WORDS}, 200),
    ],
)
def test_long_texts_of_requests_become_tokens_one_by_one(
    path: str, body: dict[str, Any], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = threading.Lock(), {"now": 0, "most": 0}
    encode = Tokenizer.encode

    def encoded(self: Tokenizer, text: str, *more: Any, **named: Any) -> list[int]:
        with lock:
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
        time.sleep(0.02)
        try:
            return encode(self, text, *more, **named)
        finally:
            with lock:
                seen["now"] -= 1

    with serving(model(tmp_path)) as server:
        post(server, path, body)
        monkeypatch.setattr(Tokenizer, "encode", encoded)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: post(server, path, body), range(6)))
    assert {each.status for each in answers} == {status}
    assert seen["most"] == 1


def test_a_long_text_leaves_others_their_python_and_the_encoder(tmp_path: Path) -> None:
    """While one becomes tokens, short ones do so again and again on another thread, which waits for nothing longer
    than it sleeps itself."""
    tokenizer = Tokenizer(gguflike.open(model(tmp_path)).metadata)
    long, short = "some words of a text " * 60_000, "some words"
    want = tokenizer.encode(short)
    tokenizer.encode("x" * 10_000)  # has all of the vocabulary ready
    with ThreadPoolExecutor(1) as pool:
        making, done = pool.submit(tokenizer.encode, long), 0
        while not making.done():
            assert tokenizer.encode(short) == want
            time.sleep(0.001)
            done += 1
    assert done >= 20
    assert len(making.result()) > 60_000


def test_texts_with_and_without_markup_at_the_same_time(tmp_path: Path) -> None:
    tokenizer = Tokenizer(gguflike.open(model(tmp_path)).metadata)
    text = "<s>a</s>" * 2000
    want = {markup: tokenizer.encode(text, True, markup) for markup in (True, False)}
    assert want[True] != want[False]
    with ThreadPoolExecutor(8) as pool:
        made = [(number % 3 == 0, pool.submit(tokenizer.encode, text, True, number % 3 == 0)) for number in range(60)]
    assert all(each.result() == want[markup] for markup, each in made)


def test_turns_are_taken_in_the_order_of_coming() -> None:
    turns, changed, order = Turns(), [], []
    inside, leave = threading.Semaphore(0), threading.Event()

    def enter(name: str, state: bool) -> None:
        with turns(state, lambda: changed.append(state)):
            order.append(name)
            inside.release()
            assert leave.wait(60)

    def start(name: str, state: bool) -> threading.Thread:
        thread = threading.Thread(target=enter, args=(name, state))
        thread.start()
        return thread

    begun = [start("a", True), start("b", True)]
    assert all(inside.acquire(timeout=60) for _ in begun)  # at the same time
    begun.append(start("c", False))
    while len(turns._waiting) < 1:
        time.sleep(0.001)
    begun.append(start("d", True))  # would fit in, but has come later
    while len(turns._waiting) < 2:
        time.sleep(0.001)
    assert (sorted(order), changed) == (["a", "b"], [True])
    leave.set()
    for thread in begun:
        thread.join(60)
    assert (order[2:], changed) == (["c", "d"], [True, False, True])
