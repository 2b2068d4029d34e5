"""The interpreter of programs under stress: many threads, many stages, changing sizes, both ways to wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from gguflike.errors import UnsupportedError
from gguflike.kernels.args import RMS_NORM, SILU_MUL
from gguflike.kernels.engine import waiting
from gguflike.kernels.engine.args import Own, float_bits
from gguflike.kernels.engine.memory import BLOCK, HEADER, RECORD, STATE, TEAM, team_type
from gguflike.kernels.engine.program import Program, Team


@pytest.fixture(params=["posix", "python"], autouse=True)
def wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with both ways to wait."""
    kind = str(request.param)
    if kind == "posix" and os.name == "nt":
        pytest.skip("no POSIX semaphores")
    monkeypatch.setenv(waiting.VARIABLE, kind)
    return kind


@pytest.fixture
def team() -> Iterator[Team]:
    team = Team(2)
    yield team
    team.close()


def at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def chain(stages: int, tokens: int, columns: int = 64) -> tuple[Program, np.ndarray, np.ndarray, np.ndarray]:
    """Stage after stage, each normalizes what the one before wrote: a barrier that leaks changes the result."""
    a, b = (np.zeros((tokens, columns), np.float32) for _ in range(2))
    weight = np.random.default_rng(0).standard_normal(columns, np.float32)
    program = Program(keep=[a, b, weight])
    for stage in range(stages):
        source, target = (a, b) if stage % 2 == 0 else (b, a)
        # The item is a value of 32: rows are cut among threads, differently in every other stage.
        words = SILU_MUL.pack(gate=at(source), up=at(source), out=at(target))
        program.add("ops:silu_mul", words, items=columns // 32, per_tokens=1, grain=stage % 3 + 1)
        words = RMS_NORM.pack(x=at(target), columns=columns, weight=at(weight), eps=float_bits(1e-5), out=at(target))
        program.add("ops:rms_norm", words, items=1, per_tokens=1)
    return program, a, b, weight


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_barriers_hold_with_any_number_of_threads(threads: int) -> None:
    team, one = Team(threads), Team(1)
    x = np.random.default_rng(1).standard_normal((64, 64), np.float32)
    program, a, _, _ = chain(40, 64)
    reference, want, _, _ = chain(40, 64)
    program.link()
    reference.link()
    for tokens in (64, 1, 7, 64, 33):
        want[:] = x
        one.run(reference, tokens)
        for _ in range(10):
            a[:] = x
            team.run(program, tokens)
            assert np.array_equal(a[:tokens], want[:tokens])
    team.close()


def test_programs_alternate_without_mixing(team: Team) -> None:
    """Late threads must not take work of the next pass for that of the last."""
    first, a, _, _ = chain(6, 9)
    second, c, _, _ = chain(3, 40)
    first.link()
    second.link()
    x = np.random.default_rng(1).standard_normal((40, 64), np.float32)
    wants = []
    for repeat in range(300):
        a[:], c[:] = x[:9], x
        team.run(first, 9)
        team.run(second, 40 - repeat % 3)
        got = a.copy(), c[:30].copy()
        wants = wants or list(got)
        assert all(np.array_equal(g, w) for g, w in zip(got, wants, strict=True))


def test_independent_ops_share_a_stage(team: Team) -> None:
    x, weight = np.random.default_rng(0).standard_normal((4, 64), np.float32), np.ones(64, np.float32)
    outs = [np.zeros_like(x) for _ in range(3)]
    program = Program()
    for index, out in enumerate(outs):
        words = RMS_NORM.pack(x=at(x), columns=64, weight=at(weight), eps=float_bits(0.0), out=at(out))
        program.add("ops:rms_norm", words, items=1, per_tokens=1, barrier=index == 0)
    last = np.zeros_like(x)
    words = SILU_MUL.pack(gate=at(outs[2]), up=at(outs[1]), out=at(last))
    program.add("ops:silu_mul", words, items=2, per_tokens=1)
    team.run(program.link(), 4)
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])
    assert last.any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_thread_has_its_own(threads: int) -> None:
    """Every thread normalizes for itself; what follows reads its thread's copy, and ends the stage for all."""
    team, stages, columns = Team(threads), 20, 1024
    rng = np.random.default_rng(0)
    x, weight, scratch = (rng.standard_normal(columns, np.float32) for _ in range(3))
    copies = np.zeros((threads, columns), np.float32)
    own = Own(at(copies), copies.strides[0])
    program = Program()
    for _ in range(stages):
        words = RMS_NORM.pack(x=at(x), columns=columns, weight=at(weight), eps=float_bits(0.0), out=own)
        program.add("ops:rms_norm", words, items=1, own=True)
        words = SILU_MUL.pack(gate=own, up=own, out=at(scratch))
        program.add("ops:silu_mul", words, items=columns // 32, barrier=False)
        words = SILU_MUL.pack(gate=at(scratch), up=at(scratch), out=at(x))
        program.add("ops:silu_mul", words, items=columns // 32)
    program.link()
    first = x.copy()
    for _ in range(20):
        x[:], want = first, first.astype(np.float64)
        team.run(program, 1)
        for _ in range(stages):
            want = want / np.sqrt((want**2).mean()) * weight
            for _ in range(2):
                want = want / (1 + np.exp(-want)) * want
        assert np.allclose(x, want, rtol=1e-3, atol=1e-6)
    team.close()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_chained_ops_follow_on_the_same_items(threads: int) -> None:
    team = Team(threads)
    x = np.random.default_rng(0).standard_normal(32 * 66, np.float32)
    a, b, c, d = (np.zeros_like(x) for _ in range(4))
    program = Program()
    program.add("ops:silu_mul", SILU_MUL.pack(gate=at(x), up=at(x), out=at(a)), items=22, each=3, grain=2)
    program.add("ops:silu_mul", SILU_MUL.pack(gate=at(a), up=at(a), out=at(b)), items=22, each=3, chained=True)
    program.add("ops:silu_mul", SILU_MUL.pack(gate=at(a), up=at(b), out=at(c)), items=22, each=3, chained=True)
    program.add("ops:silu_mul", SILU_MUL.pack(gate=at(c), up=at(b), out=at(d)), items=66)
    program.link()
    steps = [x.astype(np.float64)]
    for gate, up in ((0, 0), (1, 1), (1, 2), (3, 2)):
        steps.append(steps[gate] / (1 + np.exp(-steps[gate])) * steps[up])
    for _ in range(50):
        for out in (a, b, c, d):
            out[:] = np.nan
        team.run(program, 1)
        for out, want in zip((a, b, c, d), steps[1:], strict=True):
            assert np.allclose(out, want, rtol=1e-5, atol=1e-30)
    team.close()


def test_workers_end_with_the_team() -> None:
    before = threading.active_count()
    team = Team(4)
    program, a, _, _ = chain(1, 4)
    program.link()
    team.run(program, 4)
    assert threading.active_count() == before + 3
    team.close()
    assert threading.active_count() == before
    team.run(program, 4)  # and come back
    assert threading.active_count() == before + 3
    del team
    assert threading.active_count() == before
    assert np.isfinite(a).all()


def test_calls_from_several_threads_take_turns(team: Team) -> None:
    results = []

    def work(seed: int) -> None:
        program, a, _, _ = chain(4, 8)
        program.link()
        x = np.random.default_rng(seed).standard_normal((8, 64), np.float32)
        for _ in range(20):
            a[:] = x
            team.run(program, 8)
            results.append((seed, a.tobytes()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 4


# Waiting


def test_the_way_to_wait_is_the_one_asked_for(wait: str) -> None:
    team, program, *_ = Team(2), *chain(1, 1)
    team.run(program.link(), 1)
    assert team._waiting.in_python == (wait == "python")
    assert bool(team._team["sem_wait"][0]) == (wait == "posix")
    team.close()


def test_sleeping_workers_are_woken(wait: str) -> None:
    """A pass that begins when all workers sleep wakes them all, however they sleep."""
    team = Team(3)
    program, a, _, _ = chain(30, 64)
    program.link()
    x = np.random.default_rng(1).standard_normal((64, 64), np.float32)
    results = set()
    for _ in range(5):
        a[:] = x
        team.run(program, 64)
        results.add(a.tobytes())
        deadline = time.monotonic() + 10
        while team._team["blocks"][0]["asleep"][1:].min() == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert team._team["blocks"][0]["asleep"][1:].all()
        assert not team._team["busy"][0]
    assert len(results) == 1
    team.close()


def test_an_interrupted_pass_is_finished_before_the_interrupt_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the publication of a pass and the call that takes part in it. Who hears of it may go on to clear
    what the pass writes, so that nothing may be written afterwards."""
    monkeypatch.setenv(waiting.VARIABLE, "python")
    team = Team(2)
    program, a, _, _ = chain(4, 8)
    x = np.random.default_rng(1).standard_normal((8, 64), np.float32)
    a[:] = x
    team.run(program.link(), 8)
    want = a.copy()

    class Interrupted:
        in_python = True

        def post(self, thread: int) -> None:  # noqa: ARG002  # the signature of Waiting
            raise KeyboardInterrupt

    deadline = time.monotonic() + 10
    while not team._team["blocks"][0]["asleep"][1] and time.monotonic() < deadline:
        time.sleep(0.001)
    real, team._waiting = team._waiting, Interrupted()
    a[:] = x
    with pytest.raises(KeyboardInterrupt):
        team.run(program, 8)
    team._waiting = real
    assert team._team["finished"][0] == team._team["epoch"][0] == 2
    assert np.array_equal(a, want)
    assert list(np.flatnonzero(team._posts_due)) == [1]  # the worker that still has to be woken
    a[:] = 0
    other, b, _, _ = chain(4, 8)
    b[:] = x
    team.run(other.link(), 8)
    assert np.array_equal(b, want)
    assert not a.any()
    assert team._team["finished"][0] == team._team["epoch"][0] == 3
    assert not team._posts_due.any()
    team.close()


def test_an_unknown_way_to_wait_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(waiting.VARIABLE, "pthread")
    team, program, *_ = Team(2), *chain(1, 1)
    with pytest.raises(UnsupportedError, match=r"GGUFLIKE_WAIT.*posix.*python.*pthread"):
        team.run(program.link(), 1)


@pytest.mark.parametrize("missing", ["library", "function", "support"])
def test_python_waits_where_there_are_no_semaphores(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows (no handle), on a library without them, and on macOS (sem_init fails)."""

    class Function:
        def __call__(self, *_: object) -> int:
            return -1

    class Library:
        def __getattr__(self, name: str) -> Function:
            if missing == "function" or name == "sched_yield":
                raise AttributeError(name)
            return Function()

    def library() -> Library:
        if missing == "library":
            raise OSError("no handle")
        return Library()

    monkeypatch.delenv(waiting.VARIABLE)
    monkeypatch.setattr(waiting, "_libc", library)
    team = Team(2)
    program, a, _, _ = chain(4, 8)
    a[:] = 1
    team.run(program.link(), 8)
    assert team._waiting.in_python
    assert not team._team["yield_core"][0]
    assert np.isfinite(a).all()
    team.close()


def test_ops_need_no_function_of_posix() -> None:
    """Their machine code links on systems without semaphores."""
    from gguflike.kernels.engine import interpreter, jit  # noqa: F401  # a warm cache leaves its ops unregistered

    for name in ("engine.interpreter:run", "engine.interpreter:work"):
        code = jit.compile_op(name)
        assert b"sem_" not in code
        assert b"sched_yield" not in code


# Memory


def test_structures_have_the_layout_that_keeps_cache_lines_apart() -> None:
    """Words that different threads write are 64 bytes apart."""
    team, block = team_type(4), team_type(4)["blocks"]
    assert team.itemsize == TEAM.blocks + 4 * 256
    assert block.shape == (4,)
    lines = [offset // 64 for offset in (TEAM.epoch, TEAM.program, TEAM.busy, TEAM.blocks)]
    assert len(set(lines)) == 4
    lines = [offset // 64 for offset in (BLOCK.asleep, BLOCK.semaphore, BLOCK.state)]
    assert len(set(lines)) == 3
    assert (STATE.tokens, STATE.position, STATE.thread, STATE.scratch) == (0, 8, 16, 24)
    assert RECORD.own < 128
    assert HEADER.args_stride < 64
