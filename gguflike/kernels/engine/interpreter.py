"""The interpreter of programs: two ops, one for the thread that calls and one for its helpers.

A program is a list of ops in order (program.py has the layout). The items of an op are cut into a share for each
thread, which it takes from the front, half of what is left at a time: memory is read in long runs. Who is done with its
own takes from the back of the others' shares, so that a thread which another process holds up does not stop the others,
and all end together. A stage (the ops between two barriers) is complete when all its pieces are, whoever did them. A
thread that arrives late finds nothing left and walks on. Claims carry the number of the pass, so that a thread which
slept through the end of a pass can never claim a piece of the next.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.engine.atomics import (
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
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import BLOCK, BLOCK_BYTES, HEADER, HEADER_BYTES, RECORD, RECORD_BYTES, STATE, TEAM

PASS_SHIFT, FRONT_SHIFT = 40, 20
PASS_MASK, PIECE_MASK = (1 << 23) - 1, (1 << 20) - 1
FEW = 4  # pieces that a thread takes of its own share without leaving any
SPINS = 4000  # about 100 us of pauses before the core is offered to others


@inner(inline="always")
def _item_count(record: int, tokens: int, position: int) -> Any:
    items = load_word(record + RECORD.items)
    each, keys = load_word(record + RECORD.per_tokens), load_word(record + RECORD.per_keys)
    if each:
        items *= (tokens + each - 1) // each
    if keys:
        items *= (position + tokens + keys - 1) // keys
    return items


@inner
def _wait_done(team: int, done: int, target: int, epoch: int) -> bool:
    """Wait until ``target`` items of a stage are done. False when the pass is over."""
    spins = 0
    while load_acquire(done) < target:
        if load_acquire(team + TEAM.epoch) != epoch:
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
    each = load_word(record + RECORD.each)
    call_op(
        load_word(record + RECORD.function), load_word(record + RECORD.args) + own, state, start * each, stop * each
    )


@inner
def _execute(team: int, program: int, epoch: int, state: int) -> None:
    """Walk the program, doing what is left. Returns early when the pass is over."""
    threads, thread = load_word(team + TEAM.threads), load_word(state + STATE.thread)
    own = thread * load_word(program + HEADER.args_stride)
    # From the program, not from the state: a latecomer must not see a later pass's count before the claims are reset.
    tokens, position = load_acquire(program + HEADER.tokens), load_acquire(program + HEADER.position)
    count, claims, dones = (
        load_word(program + HEADER.ops),
        load_word(program + HEADER.claims),
        load_word(program + HEADER.dones),
    )
    stage_done = previous_done = 0
    stage_pieces = previous_pieces = 0
    ready, prologue, index = True, 0, 0
    while index < count:
        record = program + HEADER_BYTES + RECORD_BYTES * index
        if load_word(record + RECORD.starts_stage):
            previous_done, previous_pieces = stage_done, stage_pieces
            stage_done, stage_pieces = dones + 8 * index, 0
            ready, prologue = previous_pieces == 0, record
        op_claims, chained = claims + 8 * index, load_word(record + RECORD.chained)
        index += 1 + chained
        if load_word(record + RECORD.own):
            continue
        items, grain = _item_count(record, tokens, position), load_word(record + RECORD.grain)
        pieces = (items + grain - 1) // grain
        stage_pieces += pieces
        for turn in range(threads):
            whose = (thread + turn) % threads
            begin, end = pieces * whose // threads, pieces * (whose + 1) // threads
            claim_at = op_claims + whose * load_word(program + HEADER.claims_stride)
            while True:
                claim = load_acquire(claim_at)
                if claim >> PASS_SHIFT != epoch & PASS_MASK:
                    return
                first, last = begin + (claim >> FRONT_SHIFT & PIECE_MASK), end - (claim & PIECE_MASK)
                if first >= last:
                    break
                if not ready:
                    if not _wait_done(team, previous_done, previous_pieces, epoch):
                        return
                    ready = True
                    continue
                while load_word(prologue + RECORD.own):
                    _run_op(prologue, own, state, 0, _item_count(prologue, tokens, position))
                    prologue += RECORD_BYTES
                left = last - first
                size = left if threads == 1 or (left < FEW and not turn) else (left + 1) // 2
                if compare_swap(claim_at, claim, claim + (size if turn else size << FRONT_SHIFT)):
                    start = (last - size if turn else first) * grain
                    stop = start + size * grain if start + size * grain < items else items
                    for follower in range(1 + chained):
                        _run_op(record + RECORD_BYTES * follower, own, state, start, stop)
                    fetch_add(stage_done, size)
    if thread == 0:
        _wait_done(team, stage_done, stage_pieces, epoch)


@op("engine.interpreter:run")
def run(team: int, program: int, tokens: int, position: int) -> None:
    """One pass of ``program`` over ``tokens`` tokens, the first at ``position``, with the team's workers."""
    epoch = load_word(team + TEAM.epoch) + 1
    claims, dones = load_word(program + HEADER.claims), load_word(program + HEADER.dones)
    threads, count = load_word(team + TEAM.threads), load_word(program + HEADER.ops)
    for index in range(count):
        store_release(dones + 8 * index, 0)
    for thread in range(threads):
        for index in range(count):
            place = claims + thread * load_word(program + HEADER.claims_stride) + 8 * index
            store_release(place, (epoch & PASS_MASK) << PASS_SHIFT)
    store_release(program + HEADER.tokens, tokens)
    store_release(program + HEADER.position, position)
    for thread in range(threads):
        state = team + TEAM.blocks + thread * BLOCK_BYTES + BLOCK.state
        store_release(state + STATE.tokens, tokens)
        store_release(state + STATE.position, position)
    store_release(team + TEAM.program, program)
    exchange(team + TEAM.epoch, epoch)
    for thread in range(1, threads):
        block = team + TEAM.blocks + thread * BLOCK_BYTES
        if exchange(block + BLOCK.asleep, 0):
            sem_post(block + BLOCK.semaphore)
    _execute(team, program, epoch, team + TEAM.blocks + BLOCK.state)


@op("engine.interpreter:work")
def work(team: int, thread: int, unused: int, also_unused: int) -> None:
    """A worker's life: wait for a pass, help with it, until told to quit."""
    block = team + TEAM.blocks + thread * BLOCK_BYTES
    seen = spins = 0
    while not load_acquire(team + TEAM.quit):
        epoch = load_acquire(team + TEAM.epoch)
        if epoch != seen:
            # Busy first, then which program: the caller frees no program that a busy worker may have found.
            fetch_add(team + TEAM.busy, 1)
            seen, spins = load_acquire(team + TEAM.epoch), 0
            _execute(team, load_acquire(team + TEAM.program), seen, block + BLOCK.state)
            fetch_add(team + TEAM.busy, -1)
        elif spins < SPINS:
            pause()
            spins += 1
        else:
            # Whoever clears the flag, the caller or this thread, decides whether a post is due.
            exchange(block + BLOCK.asleep, 1)
            woken = load_acquire(team + TEAM.epoch) != seen or load_acquire(team + TEAM.quit) != 0
            if not woken or not exchange(block + BLOCK.asleep, 0):
                sem_wait(block + BLOCK.semaphore)
            spins = 0
