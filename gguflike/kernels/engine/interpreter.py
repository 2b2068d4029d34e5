"""The interpreter of programs: two ops, one for the thread that calls and one for its workers.

A program is a list of ops in order (memory.py has the layout). The items of an op are taken in pieces of ``grain``
items, and its pieces are cut into a share for each thread, which it takes from the front, half of what is left at a
time: memory is read in long runs. Who is done with its own takes from the back of the others' shares, so that a thread
which another process holds up does not stop the others, and all end together. A stage (the ops between two barriers) is
complete when all its pieces are done, whoever did them. A thread that arrives late finds nothing left and walks on.

The claim of a share is one word: the number of the pass, and how many pieces are taken from its front and its back.
The number of the pass is there so that a thread which slept through the end of a pass can never claim a piece of the
next.
"""

from __future__ import annotations

from typing import NamedTuple

from gguflike.kernels.engine.atomics import (
    call_c,
    call_op,
    compare_swap,
    exchange,
    fetch_add,
    load_acquire,
    load_word,
    pause,
    store_release,
    store_word,
)
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import BLOCK, BLOCK_BYTES, HEADER, HEADER_BYTES, RECORD, RECORD_BYTES, STATE, TEAM

EPOCH_SHIFT, FRONT_SHIFT = 40, 20
EPOCH_MASK, PIECE_MASK = (1 << 23) - 1, (1 << 20) - 1
FEW = 4  # pieces that a thread takes of its own share without leaving any
SPINS = 4000  # about 100 us of pauses before the core is offered to others
PYTHON_SPINS = 5 * SPINS  # of a worker that then waits in Python, where it takes that much longer to wake


class Claim(NamedTuple):
    """What is taken of a share: in which pass (its low 23 bits), pieces from the front, pieces from the back."""

    epoch: int
    front: int
    back: int


class Stage(NamedTuple):
    """A stage as far as it has been walked: the address of its count of pieces done, and how many there are."""

    done: int
    pieces: int


@inner(inline="always")
def pack_claim(epoch: int, front: int, back: int) -> int:
    """Return the word of a claim."""
    return (epoch & EPOCH_MASK) << EPOCH_SHIFT | front << FRONT_SHIFT | back


@inner(inline="always")
def unpack_claim(word: int) -> Claim:
    """Return the fields of a claim's word."""
    return Claim(word >> EPOCH_SHIFT, word >> FRONT_SHIFT & PIECE_MASK, word & PIECE_MASK)


@inner(inline="always")
def _claim_size(left: int, is_own: bool, threads: int) -> int:
    """Return how many of the ``left`` pieces of a share to take at once."""
    if threads == 1 or (is_own and left < FEW):
        return left
    return (left + 1) // 2


@inner(inline="always")
def _item_count(record: int, tokens: int, position: int) -> int:
    """Return the items of an op in a pass of ``tokens`` tokens, the first at ``position``."""
    items = load_word(record + RECORD.items)
    per_tokens, per_keys = load_word(record + RECORD.per_tokens), load_word(record + RECORD.per_keys)
    if per_tokens:
        items *= (tokens + per_tokens - 1) // per_tokens
    if per_keys:
        items *= (position + tokens + per_keys - 1) // per_keys
    return items  # type: ignore[no-any-return]  # load_word is untyped


@inner
def _wait_done(team: int, stage: Stage, epoch: int) -> bool:
    """Wait until all pieces of a stage are done. Returns False when the pass is over."""
    spins = 0
    while load_acquire(stage.done) < stage.pieces:
        if load_acquire(team + TEAM.epoch) != epoch:
            return False
        yield_core = load_word(team + TEAM.yield_core)
        if spins < SPINS or not yield_core:
            pause()
            spins += 1
        else:
            call_c(yield_core, 0)
    return True


@inner(inline="always")
def _begin_series(state: int) -> None:
    """Let nobody rely on what the thread's scratch memory holds."""
    store_word(state + STATE.series, load_word(state + STATE.series) + 1)


@inner(inline="always")
def _run_op(record: int, own_args: int, state: int, start: int, stop: int) -> None:
    """Run an op over items ``start`` to ``stop``, as claims count them.

    ``own_args`` is the distance from the first thread's argument words to this thread's.
    """
    each, function = load_word(record + RECORD.each), load_word(record + RECORD.function)
    if function != load_word(state + STATE.function):
        store_word(state + STATE.function, function)
        _begin_series(state)
    call_op(function, load_word(record + RECORD.args) + own_args, state, start * each, stop * each)


@inner
def _run_own_ops(record: int, own_args: int, state: int, tokens: int, position: int) -> None:
    """Run the ops at the start of a stage that every thread does for itself."""
    while load_word(record + RECORD.own):
        _run_op(record, own_args, state, 0, _item_count(record, tokens, position))
        record += RECORD_BYTES


@inner
def _execute(team: int, program: int, epoch: int, state: int) -> None:
    """Walk the program, doing what is left of it. Returns early when the pass is over.

    The caller's thread, number 0, returns when all is done.
    """
    threads, thread = load_word(team + TEAM.threads), load_word(state + STATE.thread)
    own_args = thread * load_word(program + HEADER.args_stride)
    # From the program, not from the state: a latecomer must not see a later pass's count before the claims are reset.
    tokens, position = load_acquire(program + HEADER.tokens), load_acquire(program + HEADER.position)
    count, claims = load_word(program + HEADER.ops), load_word(program + HEADER.claims)
    dones, claims_stride = load_word(program + HEADER.dones), load_word(program + HEADER.claims_stride)
    before, stage = Stage(0, 0), Stage(0, 0)
    begun, first_record, index = False, program, 0
    while index < count:
        record = program + HEADER_BYTES + RECORD_BYTES * index
        if load_word(record + RECORD.starts_stage):
            if stage.pieces:
                before = stage
            stage = Stage(dones + 8 * index, 0)
            begun, first_record = False, record
        op_claims, chained = claims + 8 * index, load_word(record + RECORD.chained)
        index += 1 + chained
        if load_word(record + RECORD.own):
            continue
        items, grain = _item_count(record, tokens, position), load_word(record + RECORD.grain)
        pieces = (items + grain - 1) // grain
        stage = Stage(stage.done, stage.pieces + pieces)
        for turn in range(threads):
            owner = (thread + turn) % threads
            begin, end = pieces * owner // threads, pieces * (owner + 1) // threads
            place = op_claims + owner * claims_stride
            while True:
                word = load_acquire(place)
                claim = unpack_claim(word)
                if claim.epoch != epoch & EPOCH_MASK:
                    return
                first, last = begin + claim.front, end - claim.back
                if first >= last:
                    break
                if not begun:
                    # Only who finds something to do waits, and looks again what is left then.
                    if before.pieces and not _wait_done(team, before, epoch):
                        return
                    _run_own_ops(first_record, own_args, state, tokens, position)
                    _begin_series(state)
                    begun = True
                    continue
                size = _claim_size(last - first, turn == 0, threads)
                if turn == 0:
                    claimed, start = pack_claim(epoch, claim.front + size, claim.back), first * grain
                else:
                    claimed, start = pack_claim(epoch, claim.front, claim.back + size), (last - size) * grain
                if compare_swap(place, word, claimed):
                    stop = min(start + size * grain, items)
                    for follower in range(1 + chained):
                        _run_op(record + RECORD_BYTES * follower, own_args, state, start, stop)
                    fetch_add(stage.done, size)
    if thread == 0:
        _wait_done(team, stage, epoch)


@inner
def _publish(team: int, program: int, tokens: int, position: int) -> None:
    """Begin the next pass: from the moment that its number stands in ``epoch``, workers take part in it."""
    epoch = load_word(team + TEAM.epoch) + 1
    claims, dones = load_word(program + HEADER.claims), load_word(program + HEADER.dones)
    threads, count = load_word(team + TEAM.threads), load_word(program + HEADER.ops)
    for index in range(count):
        store_release(dones + 8 * index, 0)
    for thread in range(threads):
        for index in range(count):
            place = claims + thread * load_word(program + HEADER.claims_stride) + 8 * index
            store_release(place, pack_claim(epoch, 0, 0))
    store_release(program + HEADER.tokens, tokens)
    store_release(program + HEADER.position, position)
    for thread in range(threads):
        state = team + TEAM.blocks + thread * BLOCK_BYTES + BLOCK.state
        store_release(state + STATE.tokens, tokens)
        store_release(state + STATE.position, position)
    store_release(team + TEAM.program, program)
    exchange(team + TEAM.epoch, epoch)


@inner
def _wake(team: int) -> bool:
    """Wake the workers that sleep. Returns False where Python must wake some, which are marked ``post_due``."""
    sem_post, woken = load_word(team + TEAM.sem_post), True
    for thread in range(1, load_word(team + TEAM.threads)):
        block = team + TEAM.blocks + thread * BLOCK_BYTES
        if exchange(block + BLOCK.asleep, 0):
            if sem_post:
                call_c(sem_post, block + BLOCK.semaphore)
            else:
                store_release(block + BLOCK.post_due, 1)
                woken = False
    return woken


@inner
def _finish(team: int) -> None:
    """Take part in the latest pass until it is complete, unless it is already."""
    epoch = load_word(team + TEAM.epoch)
    if load_word(team + TEAM.finished) != epoch:
        _execute(team, load_word(team + TEAM.program), epoch, team + TEAM.blocks + BLOCK.state)
        store_release(team + TEAM.finished, epoch)


@op("engine.interpreter:run")
def run(team: int, program: int, tokens: int, position: int) -> None:
    """One pass of ``program`` over ``tokens`` tokens, the first at ``position``, with the team's workers.

    Returns in the midst of it where Python must wake workers, and is then to be called again with 0 for the program. A
    pass for which that did not happen (an interrupt came in between) is finished before the next begins.
    """
    _finish(team)
    if program:
        _publish(team, program, tokens, position)
        if _wake(team):
            _finish(team)


@op("engine.interpreter:work")
def work(team: int, thread: int, unused: int, also_unused: int) -> None:
    """A worker's life: wait for a pass, help with it, until told to quit.

    Where the team has no semaphores, returns when it should sleep until a post, and is to be called again after it.
    """
    block = team + TEAM.blocks + thread * BLOCK_BYTES
    sem_wait = load_word(team + TEAM.sem_wait)
    patience = SPINS if sem_wait else PYTHON_SPINS
    seen = spins = 0
    while not load_acquire(team + TEAM.quit):
        epoch = load_acquire(team + TEAM.epoch)
        if epoch != seen:
            # Busy first, then which program: the caller frees no program that a busy worker may have found.
            fetch_add(team + TEAM.busy, 1)
            seen, spins = load_acquire(team + TEAM.epoch), 0
            _execute(team, load_acquire(team + TEAM.program), seen, block + BLOCK.state)
            fetch_add(team + TEAM.busy, -1)
        elif spins < patience:
            pause()
            spins += 1
        else:
            # Whoever clears the flag, the caller or this thread, decides whether a post is due.
            exchange(block + BLOCK.asleep, 1)
            woken = load_acquire(team + TEAM.epoch) != seen or load_acquire(team + TEAM.quit) != 0
            if not woken or not exchange(block + BLOCK.asleep, 0):
                if not sem_wait:
                    return
                call_c(sem_wait, block + BLOCK.semaphore)
            spins = 0
