"""The protocol of passes, claims and waits, in every order in which threads can take their steps.

The source of interpreter.py itself is run, as generators that stop before each access to memory which threads share. A
scheduler takes one step of one thread at a time and visits every state that can be reached, sequentially consistent
memory assumed. "AAB" means three passes, of 1, 2 and 3 tokens, the first two of the same program: workers oversleep the
ends of passes, and programs are freed that no pass will need.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from gguflike.kernels.engine import interpreter, native
from gguflike.kernels.engine.memory import BLOCK, BLOCK_BYTES, HEADER, STATE, TEAM, team_type
from gguflike.kernels.engine.program import Program

Request = tuple[Any, ...]
Steps = Generator[Request, int, Any]

STEPS = {"load_acquire", "store_release", "exchange", "fetch_add", "compare_swap", "pause", "call_c"}
SEM_WAIT, SEM_POST, YIELD = 1, 2, 3  # stand for the addresses of C functions
FUNCTIONS = {"first": 11, "second": 12, "own": 13, "third": 14}
ALL = 1 << 30  # preemptions: no limit


class Generators(ast.NodeTransformer):
    """Turns calls of ``STEPS`` into yields, and calls of functions that make such calls into ``yield from``."""

    def __init__(self, tree: ast.Module) -> None:
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        calls = {
            name: {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            for name, node in functions.items()
        }
        self.stepping = {"call_op"}
        for _ in functions:
            self.stepping |= {name for name, called in calls.items() if called & (STEPS | self.stepping)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id not in STEPS | self.stepping:
            return node
        if node.func.id in STEPS:
            return ast.Yield(ast.Tuple([ast.Constant(node.func.id), *node.args], ast.Load()))
        return ast.YieldFrom(node)


def generators(change: tuple[str, str]) -> dict[str, Any]:
    """The functions of interpreter.py as generators, after a change to the source."""
    source = inspect.getsource(interpreter)
    assert change[0] in source
    tree = ast.parse(source.replace(*change))
    tree.body = [node for node in tree.body if not isinstance(node, ast.ImportFrom) or "memory" in str(node.module)]
    code = compile(ast.fix_missing_locations(Generators(tree).visit(tree)), "interpreter", "exec")
    scope: dict[str, Any] = {"NamedTuple": __import__("typing").NamedTuple, "call_op": call_op}
    exec(code, scope)
    scope["SPINS"] = scope["PYTHON_SPINS"] = 1
    return scope


def call_op(function: int, args: int, state: int, start: int, stop: int) -> Steps:
    yield "begin", function, args, state, start, stop
    yield "end", function, args, state, start, stop


class Start:
    """What every run of one exploration starts from: code, and memory by address."""

    def __init__(self, threads: int, in_python: bool, passes: str, change: tuple[str, str]) -> None:
        self.functions, self.threads, self.memory = generators(change), threads, {}
        team = np.zeros(1, team_type(threads))
        team["threads"], team["yield_core"] = threads, YIELD
        team["blocks"][0]["state"]["thread"] = range(threads)
        if not in_python:
            team["sem_wait"], team["sem_post"] = SEM_WAIT, SEM_POST
        programs = {name: laid_out(threads) for name in sorted(set(passes))}
        self.keep = [team, programs]
        self.team = self._add([team])
        addresses = {name: self._add(arrays) for name, arrays in programs.items()}
        self.programs = [addresses[name] for name in passes]
        states = [self.team + TEAM.blocks + thread * BLOCK_BYTES + BLOCK.state for thread in range(threads)]
        # What ops see, and the position, which is always 0 here.
        self.private = {state + STATE.tokens for state in states} | {state + STATE.position for state in states}
        self.private |= {program + HEADER.position for program in self.programs}
        self.notes = {state + word for state in states for word in (STATE.function, STATE.series)}

    def _add(self, arrays: list[Any]) -> int:
        for array in arrays:
            first = int(array.ctypes.data)
            words = array.reshape(-1).view(np.int64).tolist()
            self.memory |= {first + 8 * index: word for index, word in enumerate(words)}
        return int(arrays[0].ctypes.data)


class World:
    """Memory, ops that have run, and threads at their next step."""

    def __init__(self, start: Start) -> None:
        self.memory, self.functions = dict(start.memory), start.functions
        self.team, self.programs = start.team, start.programs
        self.functions["load_word"], self.functions["store_word"] = self.load, self.store
        self.private, self.notes = start.private, start.notes
        self.freed: set[int] = set()
        self.version = 0  # of memory
        self.done: dict[tuple[int, int], tuple[int, ...]] = {}  # items by (pass, function)
        self.own: set[int] = set()  # states of threads that have prepared for the second stage
        self.running = 0  # pass that the caller is in
        self.posts = [0] * start.threads
        lives = [self.caller(), *(self.worker(thread) for thread in range(1, start.threads))]
        self.threads = [Thread(life) for life in lives]

    def block(self, thread: int) -> int:
        return self.team + TEAM.blocks + thread * BLOCK_BYTES

    def load(self, address: int) -> int:
        assert address not in self.freed, "a thread reads a program that was freed"
        return self.memory[address]

    def store(self, address: int, _: int) -> None:
        """What a thread notes for its ops has no part in the protocol: it is not kept."""
        assert address in self.notes, "a plain store to memory that threads share"

    # What Python does

    def caller(self) -> Steps:
        run = self.functions["run"]
        recent: list[int] = []
        for number, program in enumerate(self.programs, 1):
            if not (yield "load_acquire", self.team + TEAM.busy):
                # Headers, which every visitor reads first, of programs that nobody keeps.
                self.freed |= set(recent[:-1]) - {*recent[-1:], *self.programs[number - 1 :]}
                del recent[:-1]
            recent.append(program)
            self.running = number
            self.own.clear()
            yield from run(self.team, program, number, 0)
            due = [t for t in range(1, len(self.posts)) if self.memory[self.block(t) + BLOCK.post_due]]
            for thread in due:
                yield "store_release", self.block(thread) + BLOCK.post_due, 0
                yield "call_c", SEM_POST, self.block(thread) + BLOCK.semaphore
            if due:
                yield from run(self.team, 0, 0, 0)
            for name in ("first", "second", "third"):
                assert self.done_items(name) == tuple(range(number)), "a pass ends before all is done"
            self.running = 0
        yield "store_release", self.team + TEAM.quit, 1
        for thread in range(1, len(self.posts)):
            yield "call_c", SEM_POST, self.block(thread) + BLOCK.semaphore

    def worker(self, thread: int) -> Steps:
        while True:
            yield from self.functions["work"](self.team, thread, 0, 0)
            if (yield "load_acquire", self.team + TEAM.quit):
                return
            yield "call_c", SEM_WAIT, self.block(thread) + BLOCK.semaphore

    # What a step does

    def semaphore(self, address: int) -> int:
        return (address - self.block(0) - BLOCK.semaphore) // BLOCK_BYTES

    def enabled(self, thread: Thread) -> bool:
        request = thread.request
        if request is None or thread.blocked == self.version:
            return False
        return request[:2] != ("call_c", SEM_WAIT) or self.posts[self.semaphore(request[2])] > 0

    def step(self, thread: Thread) -> None:
        name, *arguments = thread.request or ("",)
        result, before = 0, self.version
        assert thread.request is not None
        if name == "pause" or (name == "call_c" and arguments[0] == YIELD):
            # It comes to nothing else until another thread writes, or has written since it began to look.
            thread.blocked, thread.looked = thread.looked, self.version
        elif name == "call_c":
            self.posts[self.semaphore(arguments[1])] += 1 if arguments[0] == SEM_POST else -1
        elif name in ("begin", "end"):
            getattr(self, name)(*arguments)
        else:
            result = self.access(name, *arguments)
        if name not in ("load_acquire", "pause"):
            thread.looked = self.version
        if self.version != before:
            for other in self.threads:
                other.blocked = -1
        thread.go_on(result)
        if thread.request is not None and self.is_private(*thread.request):
            self.step(thread)

    def is_private(self, name: str, *arguments: int) -> bool:
        """Whether a step cannot matter to other threads, nor they to it, so that it may as well follow at once."""
        if name in ("begin", "pause") or (name == "end" and arguments[0] == FUNCTIONS["own"]):
            return True
        return name != "call_c" and arguments[0] in self.private

    def access(self, name: str, address: int, *values: int) -> int:
        old = self.load(address)
        new = {
            "load_acquire": lambda: old,
            "store_release": lambda: values[0],
            "exchange": lambda: values[0],
            "fetch_add": lambda: old + values[0],
            "compare_swap": lambda: values[1] if old == values[0] else old,
        }[name]()
        if new != old:
            self.memory[address] = new
            self.version += 1
        return int(old == values[0]) if name == "compare_swap" else old

    def begin(self, function: int, args: int, state: int, start: int, stop: int) -> None:
        if function == FUNCTIONS["own"]:
            # It may be late: it writes to memory of its thread, which does it again in the next pass.
            self.own.add(state)
            return
        assert self.load(args) == self.programs[self.running - 1], "an op runs outside of its pass"
        assert 0 <= start < stop <= self.running, "an op runs over items of another pass"
        if function == FUNCTIONS["second"]:
            assert set(range(start, stop)) <= set(self.done_items("first")), "a chained op runs first"
        if function == FUNCTIONS["third"]:
            for earlier in ("first", "second"):
                assert self.done_items(earlier) == tuple(range(self.running)), "a stage begins before its turn"
            assert state in self.own, "a thread did not prepare for a stage"

    def end(self, function: int, args: int, _: int, start: int, stop: int) -> None:
        if function == FUNCTIONS["own"]:
            return
        assert self.load(args) == self.programs[self.running - 1], "an op runs on behind the end of its pass"
        done = sorted([*self.done.get((self.running, function), ()), *range(start, stop)])
        assert len(set(done)) == len(done), "an item is done twice"
        self.done[self.running, function] = tuple(done)

    def done_items(self, op: str) -> tuple[int, ...]:
        """Items of the pass that are done, in order."""
        return self.done.get((self.running, FUNCTIONS[op]), ())

    def key(self) -> tuple[Any, ...]:
        """All of the state; equal keys go on equally."""
        words = tuple(self.memory.values())
        done = tuple(sorted(self.done.items())), frozenset(self.own), frozenset(self.freed)
        return words, done, tuple(self.posts), tuple(thread.key(self.version) for thread in self.threads)


class Thread:
    """A generator and the step that it stands before; None at its end."""

    def __init__(self, life: Steps) -> None:
        self.life = life
        self.blocked = -1  # the version of memory in which it has nothing to do
        self.looked = 0  # the version of memory when it last did more than to look
        self.result = 0
        self.request: Request | None = next(life)

    def go_on(self, result: int) -> None:
        self.result = result
        try:
            self.request = self.life.send(result)
        except StopIteration:
            self.request = None

    def key(self, version: int) -> tuple[Any, ...]:
        frames, life = [], self.life
        while life is not None and life.gi_frame is not None:
            names = {k: v for k, v in life.gi_frame.f_locals.items() if isinstance(v, int | tuple)}
            frames.append((life.gi_frame.f_lasti, tuple(names.items())))
            life = life.gi_yieldfrom  # type: ignore[assignment]
        return self.request, self.result, self.blocked == version, self.looked == version, tuple(frames)


def laid_out(threads: int) -> list[Any]:
    """A program: two ops, the second chained to the first; then each thread's own, and another."""
    program = Program()
    program.add("first", (0,), items=1, per_tokens=1)
    program.add("second", (0,), items=1, per_tokens=1, chained=True)
    program.add("own", (0,), items=1, own=True)
    program.add("third", (0,), items=1, per_tokens=1, barrier=False)
    layout = program._laid_out(threads)
    layout.args[:] = layout.program.ctypes.data  # by which ops tell whose they are
    return list(layout)


def explore(start: Start, preemptions: int) -> Iterator[World]:
    """Visit every state that is reached with so many preemptions; yields the world at each end.

    A preemption is a switch to another thread where the one before could go on (Musuvathi and Qadeer, "Iterative
    context bounding for systematic testing of multithreaded programs", 2007: most faults need two at most).
    """
    seen: dict[int, int] = {}  # how many preemptions were left at best in a state
    schedules: list[tuple[list[int], int]] = [([], preemptions)]
    while schedules:
        schedule, left = schedules.pop()
        world = World(start)
        for thread in schedule:
            world.step(world.threads[thread])
        while True:
            current = schedule[-1] if schedule else 0
            key = hash((world.key(), current if left < ALL else 0))
            if seen.get(key, -1) >= left:
                break
            seen[key] = left
            able = [index for index, thread in enumerate(world.threads) if world.enabled(thread)]
            if not able:
                yield world
                break
            following = current if current in able else able[0]
            cost = int(current in able and left < ALL)
            if left >= cost:
                schedules += [([*schedule, other], left - cost) for other in able if other != following]
            schedule = [*schedule, following]
            world.step(world.threads[following])


@pytest.fixture(autouse=True)
def no_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda names: {name: FUNCTIONS[name] for name in names})


def run_all(threads: int, in_python: bool, preemptions: int, passes: str, change: tuple[str, str] = ("", "")) -> int:
    """Explore; AssertionError where a state is wrong. How many ends there are."""
    ends = 0
    for world in explore(Start(threads, in_python, passes, change), preemptions):
        assert all(thread.request is None for thread in world.threads), "threads wait for each other for ever"
        ends += 1
    return ends


@pytest.mark.parametrize("in_python", [False, True])
def test_every_interleaving_of_a_pass_does_everything_once(in_python: bool) -> None:
    assert run_all(2, in_python, ALL, "A")


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize("passes", ["AA", "ABC"])
def test_late_workers_do_no_harm_to_later_passes(passes: str, in_python: bool) -> None:
    assert run_all(2, in_python, 2, passes)


def test_three_threads() -> None:
    assert run_all(3, False, 1, "A")


@pytest.mark.parametrize(
    ("passes", "change", "message"),
    [
        ("AA", ("EPOCH_MASK, PIECE_MASK = (1 << 23) - 1,", "EPOCH_MASK, PIECE_MASK = 0,"), "twice|outside|before"),
        ("A", ("not _wait_done(team, before, epoch)", "False"), "before its turn"),
        ("A", ("        _wait_done(team, stage, epoch)\n\n", "        pass\n\n"), "before all is done"),
        (
            "A",
            ("                    _run_own_ops(first_record", "                    (first_record"),
            "did not prepare",
        ),
        ("A", ("compare_swap(place, word, claimed)", "compare_swap(place, word, claimed) >= 0"), "twice"),
        ("A", ("word >> FRONT_SHIFT & PIECE_MASK", "word >> FRONT_SHIFT & 0"), "twice"),
        ("ABC", ("fetch_add(team + TEAM.busy, 1)", "pause()"), "freed"),
    ],
)
def test_a_fault_in_the_protocol_is_found(passes: str, change: tuple[str, str], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run_all(2, False, 2, passes, change)
