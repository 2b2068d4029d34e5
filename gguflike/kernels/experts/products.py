"""Products with chosen matrices of a stack. Each calls the code of an op on one matrix (matmul/), whatever its block
type: what differs between experts are a few of its argument words, which it finds on the caller's stack."""

from __future__ import annotations

from llvmlite import ir

from gguflike.kernels.engine.atomics import call_op, load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.experts.args import ALONE, CHOSEN_MATVEC, FEW, SORTED_MATMUL
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.vector.emitter import I64, Emitter
from gguflike.kernels.vector.lanes import int64, operation
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Address, Value

UNIT = 2 * LANES  # rows of an item of matmul
STATE_AT = 128  # bytes of the words, with room to spare


@operation(int64)
def _frame(e: Emitter) -> Value:
    """Return the address of 256 bytes on the stack, the same each time in a kernel."""
    with e.b.goto_entry_block():
        place = e.b.alloca(ir.ArrayType(I64, 32))
    return e.b.ptrtoint(place, I64)


@inner
def _point(words: Address, row: int, columns: int, codes: Address, scales: Address, sums: Address) -> None:
    """Let a product's words say that its activations begin at a row of those given."""
    if scales:
        store_word(words + MATMUL.codes, codes + row * columns)
        store_word(words + MATMUL.scales, scales + row * (columns // BLOCK) * 4)
        store_word(words + MATMUL.sums, sums + row * (columns // 16) * 4)
    else:
        store_word(words + MATMUL.codes, codes + row * columns * 4)
        store_word(words + MATMUL.scales, 0)
        store_word(words + MATMUL.sums, 0)


@op("experts.products:matvec")
def matvec(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply a token by the matrices of its experts. Items are row blocks, slot by slot; words: ``CHOSEN_MATVEC``."""
    a = load_args(CHOSEN_MATVEC, args)
    words, row_blocks = _frame(), (a.rows + LANES - 1) // LANES
    store_word(words + MATMUL.rows, a.rows)
    store_word(words + MATMUL.columns, a.columns)
    store_word(words + MATMUL.stride, a.rows)
    store_word(words + MATMUL.add, 0)
    while start < stop:
        slot = start // row_blocks
        end = min(stop, (slot + 1) * row_blocks)
        expert = load_word(a.chosen + 8 * slot)
        store_word(words + MATMUL.weights, a.weights + expert * a.expert_bytes)
        store_word(words + MATMUL.bias, a.bias + expert * a.bias_bytes if a.bias else 0)
        store_word(words + MATMUL.factor, a.factor + expert * a.factor_bytes if a.factor else 0)
        store_word(words + MATMUL.out, a.out + 4 * slot * a.rows)
        _point(words, slot if a.of_slots else 0, a.columns, a.codes, a.scales, a.sums)
        call_op(a.function, words, state, start - slot * row_blocks, end - slot * row_blocks)
        start = end


@op("experts.products:matmul")
def matmul(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply the matrix of each expert by the rows of its pairs. Items are units of 32 rows, expert by expert; words:
    ``SORTED_MATMUL``."""
    a = load_args(SORTED_MATMUL, args)
    words, units = _frame(), (a.rows + UNIT - 1) // UNIT
    own_state = words + STATE_AT
    store_word(words + MATMUL.rows, a.rows)
    store_word(words + MATMUL.columns, a.columns)
    store_word(words + MATMUL.stride, a.rows)
    store_word(words + MATMUL.add, 0)
    store_word(own_state + STATE.position, load_word(state + STATE.position))
    store_word(own_state + STATE.thread, load_word(state + STATE.thread))
    store_word(own_state + STATE.scratch, load_word(state + STATE.scratch))
    store_word(own_state + STATE.series, 0)
    while start < stop:
        expert = start // units
        end = min(stop, (expert + 1) * units)
        place = load_word(a.starts + 8 * expert)
        tokens = load_word(a.starts + 8 * expert + 8) - place
        first, last = start - expert * units, end - expert * units
        store_word(words + MATMUL.weights, a.weights + expert * a.expert_bytes)
        store_word(words + MATMUL.bias, a.bias + expert * a.bias_bytes if a.bias else 0)
        store_word(words + MATMUL.factor, a.factor + expert * a.factor_bytes if a.factor else 0)
        if a.few and tokens <= FEW:
            last = min(2 * last, (a.rows + LANES - 1) // LANES)
            for token in range(tokens):
                store_word(words + MATMUL.out, a.out + 4 * (place + token) * a.rows)
                _point(words, place + token, a.columns, a.codes, a.scales, a.sums)
                call_op(a.matvec, words, state, 2 * first, last)
        elif tokens:
            store_word(own_state + STATE.tokens, tokens)
            store_word(words + MATMUL.out, a.out + 4 * place * a.rows)
            _point(words, place, a.columns, a.codes, a.scales, a.sums)
            call_op(a.matmul, words, own_state, first, last)
        start = end


@op("experts.products:alone")
def alone(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply a matrix by each token as if there were no other: floats are then summed in the order of one token, and
    experts chosen as for one. Items are tokens; words: ``ALONE``."""
    a = load_args(ALONE, args)
    words = _frame()
    store_word(words + MATMUL.weights, a.weights)
    store_word(words + MATMUL.rows, a.rows)
    store_word(words + MATMUL.columns, a.columns)
    store_word(words + MATMUL.stride, a.rows)
    store_word(words + MATMUL.add, 0)
    store_word(words + MATMUL.bias, a.bias)
    store_word(words + MATMUL.factor, a.factor)
    for token in range(start, stop):
        store_word(words + MATMUL.out, a.out + 4 * token * a.rows)
        _point(words, token, a.columns, a.codes, a.scales, a.sums)
        call_op(a.function, words, state, 0, (a.rows + LANES - 1) // LANES)
