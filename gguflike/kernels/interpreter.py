"""The interpreter of programs: two ops, one for the thread that calls and one for its helpers.

A program is a list of ops in order (program.py has the layout). The items of an op are claimed in chunks from a
counter, so a thread that another process holds up does not stop the others from doing its share; a stage (the ops
between two barriers) is complete when all its items are, whoever did them. Chunks get smaller as the op nears its end,
so that claims are few and threads end together. A thread that arrives late finds nothing left and walks on. The claim
counter carries the number of the pass in its upper half, so that a thread which slept through the end of a pass can
never claim a chunk of the next.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels import program as p
from gguflike.kernels._jit import inner, op
from gguflike.kernels.atomics import (
    call_op,
    compare_swap,
    exchange,
    fetch_add,
    load_acquire,
    load_word,
    pause,
    sched_yield,
    sem_post,
    sem_wait,
    store_release,
)

COUNT_MASK = (1 << 32) - 1
SPINS = 4000  # about 100 us of pauses before the core is offered to others
SHARES = 2  # a chunk is what is left, cut into as many pieces for each thread


@inner(inline="always")
def _item_count(record: int, tokens: int, position: int) -> Any:
    items = load_word(record + p.ITEMS)
    each, keys = load_word(record + p.PER_TOKENS), load_word(record + p.PER_KEYS)
    if each:
        items *= (tokens + each - 1) // each
    if keys:
        items *= (position + tokens + keys - 1) // keys
    return items


@inner(inline="always")
def _chunk_size(record: int, left: int, threads: int) -> Any:
    """Items to claim of the ``left`` ones: a multiple of the grain, unless they are the last."""
    if threads == 1:
        return left
    grain, pieces = load_word(record + p.GRAIN), threads * SHARES
    size = ((left + pieces - 1) // pieces + grain - 1) // grain * grain
    return size if size < left else left


@inner
def _wait_done(team: int, done: int, target: int, epoch: int) -> bool:
    """Wait until ``target`` items of a stage are done. False when the pass is over."""
    spins = 0
    while load_acquire(done) < target:
        if load_acquire(team + p.EPOCH) != epoch:
            return False
        if spins < SPINS:
            pause()
            spins += 1
        else:
            sched_yield()
    return True


@inner(inline="always")
def _run_op(record: int, own: int, state: int, start: int, stop: int) -> None:
    """Items ``start`` to ``stop`` as claims count them; ``own``: from the first thread's arguments to this one's."""
    each = load_word(record + p.EACH)
    call_op(load_word(record + p.FUNCTION), load_word(record + p.ARGS) + own, state, start * each, stop * each)


@inner
def _execute(team: int, program: int, epoch: int, state: int) -> None:
    """Walk the program, doing what is left. Returns early when the pass is over."""
    threads = load_word(team + p.THREADS)
    own = load_word(state + p.THREAD) * load_word(program + p.ARGS_STRIDE)
    # From the program, not from the state: a latecomer must not see a later pass's count before the claims are reset.
    tokens, position = load_acquire(program + p.PASS_TOKENS), load_acquire(program + p.PASS_POSITION)
    count, claims, dones = load_word(program), load_word(program + p.CLAIMS), load_word(program + p.DONES)
    stage_done = previous_done = 0
    stage_items = previous_items = 0
    ready, prologue, index = True, 0, 0
    while index < count:
        record = program + p.HEADER_BYTES + p.RECORD_BYTES * index
        if load_word(record + p.STARTS_STAGE):
            previous_done, previous_items = stage_done, stage_items
            stage_done, stage_items = dones + 8 * index, 0
            ready, prologue = previous_items == 0, record
        claim_at = claims + 8 * index
        chained = load_word(record + p.CHAINED)
        index += 1 + chained
        if load_word(record + p.OWN):
            continue
        items = _item_count(record, tokens, position)
        stage_items += items
        while True:
            claim = load_acquire(claim_at)
            if claim >> 32 != epoch:
                return
            taken = claim & COUNT_MASK
            if taken >= items:
                break
            if not ready:
                if not _wait_done(team, previous_done, previous_items, epoch):
                    return
                ready = True
                continue
            while load_word(prologue + p.OWN):
                _run_op(prologue, own, state, 0, _item_count(prologue, tokens, position))
                prologue += p.RECORD_BYTES
            size = _chunk_size(record, items - taken, threads)
            if compare_swap(claim_at, claim, claim + size):
                for follower in range(1 + chained):
                    _run_op(record + p.RECORD_BYTES * follower, own, state, taken, taken + size)
                fetch_add(stage_done, size)
    if state == team + p.THREAD_BLOCKS + p.STATE:
        _wait_done(team, stage_done, stage_items, epoch)


@op("interpreter:run")
def run(team: int, program: int, tokens: int, position: int) -> None:
    """One pass of ``program`` over ``tokens`` tokens, the first at ``position``, with the team's workers."""
    epoch = load_word(team + p.EPOCH) + 1
    claims, dones = load_word(program + p.CLAIMS), load_word(program + p.DONES)
    for index in range(load_word(program)):
        store_release(claims + 8 * index, epoch << 32)
        store_release(dones + 8 * index, 0)
    store_release(program + p.PASS_TOKENS, tokens)
    store_release(program + p.PASS_POSITION, position)
    threads = load_word(team + p.THREADS)
    for thread in range(threads):
        state = team + p.THREAD_BLOCKS + thread * p.THREAD_BYTES + p.STATE
        store_release(state + p.TOKENS, tokens)
        store_release(state + p.POSITION, position)
    store_release(team + p.PROGRAM, program)
    exchange(team + p.EPOCH, epoch)
    for thread in range(1, threads):
        block = team + p.THREAD_BLOCKS + thread * p.THREAD_BYTES
        if exchange(block + p.ASLEEP, 0):
            sem_post(block + p.SEMAPHORE)
    _execute(team, program, epoch, team + p.THREAD_BLOCKS + p.STATE)


@op("interpreter:work")
def work(team: int, thread: int, unused: int, also_unused: int) -> None:
    """A worker's life: wait for a pass, help with it, until told to quit."""
    block = team + p.THREAD_BLOCKS + thread * p.THREAD_BYTES
    seen = spins = 0
    while not load_acquire(team + p.QUIT):
        epoch = load_acquire(team + p.EPOCH)
        if epoch != seen:
            # Busy first, then which program: the caller frees no program that a busy worker may have found.
            fetch_add(team + p.BUSY, 1)
            seen, spins = load_acquire(team + p.EPOCH), 0
            _execute(team, load_acquire(team + p.PROGRAM), seen, block + p.STATE)
            fetch_add(team + p.BUSY, -1)
        elif spins < SPINS:
            pause()
            spins += 1
        else:
            # Whoever clears the flag, the caller or this thread, decides whether a post is due.
            exchange(block + p.ASLEEP, 1)
            woken = load_acquire(team + p.EPOCH) != seen or load_acquire(team + p.QUIT) != 0
            if not woken or not exchange(block + p.ASLEEP, 0):
                sem_wait(block + p.SEMAPHORE)
            spins = 0
