"""The interpreter of programs: two ops, one for the thread that calls and one for its helpers.

A program is a list of ops in order (program.py has the layout). The items of an op are claimed in chunks from a
counter, so a thread that another process holds up does not stop the others from doing its share; a stage (the ops
between two barriers) is complete when all its chunks are, whoever did them. A thread that arrives late finds the
chunks gone and walks on. The claim counter carries the number of the pass in its upper half, so that a thread which
slept through the end of a pass can never claim a chunk of the next.
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
SPINS = 2000  # about 50 to 100 us of pauses before the core is offered to others
CHUNKS_PER_THREAD = 4


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
def _chunk_size(record: int, items: int, threads: int) -> Any:
    pieces = threads * CHUNKS_PER_THREAD if threads > 1 else 1
    grain, share = load_word(record + p.GRAIN), (items + pieces - 1) // pieces
    return grain if grain > share else share


@inner
def _wait_done(team: int, done: int, target: int, epoch: int) -> bool:
    """Wait until ``target`` chunks of a stage are done. False when the pass is over."""
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


@inner
def _execute(team: int, program: int, epoch: int, state: int) -> None:
    """Walk the program, doing what chunks are left. Returns early when the pass is over."""
    threads = load_word(team + p.THREADS)
    # From the program, not from the state: a latecomer must not see a later pass's count before the claims are reset.
    tokens, position = load_acquire(program + p.PASS_TOKENS), load_acquire(program + p.PASS_POSITION)
    stage_done = previous_done = 0
    stage_chunks = previous_chunks = 0
    for index in range(load_word(program)):
        record = program + p.RECORD_BYTES * (index + 1)
        if load_word(record + p.STARTS_STAGE):
            previous_done, previous_chunks = stage_done, stage_chunks
            stage_done, stage_chunks = record + p.DONE, 0
        items = _item_count(record, tokens, position)
        chunk = _chunk_size(record, items, threads)
        chunks = (items + chunk - 1) // chunk
        stage_chunks += chunks
        ready = previous_chunks == 0
        while True:
            claim = load_acquire(record + p.CLAIM)
            if claim >> 32 != epoch:
                return
            taken = claim & COUNT_MASK
            if taken >= chunks:
                break
            if not ready:
                if not _wait_done(team, previous_done, previous_chunks, epoch):
                    return
                ready = True
                continue
            if compare_swap(record + p.CLAIM, claim, claim + 1):
                first = taken * chunk
                stop = first + chunk if first + chunk < items else items
                call_op(load_word(record + p.FUNCTION), load_word(record + p.ARGS), state, first, stop)
                fetch_add(stage_done, 1)
    if state == team + p.THREAD_BLOCKS + p.STATE:
        _wait_done(team, stage_done, stage_chunks, epoch)


@op("interpreter:run")
def run(team: int, program: int, tokens: int, position: int) -> None:
    """One pass of ``program`` over ``tokens`` tokens, the first at ``position``, with the team's workers."""
    epoch = load_word(team + p.EPOCH) + 1
    for index in range(load_word(program)):
        record = program + p.RECORD_BYTES * (index + 1)
        store_release(record + p.CLAIM, epoch << 32)
        store_release(record + p.DONE, 0)
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
