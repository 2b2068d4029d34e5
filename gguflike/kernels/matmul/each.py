"""Products of a matrix with several tokens, each as if there were no other.

Floats are then summed in the order of one token. A row block meets all tokens before the next is read, so that its
weights come from memory once.
"""

from __future__ import annotations

from llvmlite import ir

from gguflike.kernels.engine.args import WORD_BYTES
from gguflike.kernels.engine.atomics import call_op, load_args, load_word, store_word
from gguflike.kernels.engine.jit import op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.matmul.args import EACH, MATMUL
from gguflike.kernels.vector.emitter import I64, Emitter
from gguflike.kernels.vector.lanes import int64, operation
from gguflike.kernels.vector.types import Address, Value

WORDS = len(MATMUL)


@operation(int64)
def _frame(e: Emitter) -> Value:
    """Return the address of the words of a product on the stack, the same each time in a kernel."""
    with e.b.goto_entry_block():
        place = e.b.alloca(ir.ArrayType(I64, WORDS))
    return e.b.ptrtoint(place, I64)


@op("matmul.each:tokens")
def tokens(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply floating-point weights by each token. Items are row blocks; words: ``EACH``."""
    a, words = load_args(EACH, args), _frame()
    for word in range(WORDS):
        store_word(words + WORD_BYTES * word, load_word(args + EACH.weights + WORD_BYTES * word))
    for row_block in range(start, stop):
        for token in range(load_word(state + STATE.tokens)):
            store_word(words + MATMUL.codes, a.codes + 4 * a.columns * token)
            store_word(words + MATMUL.out, a.out + 4 * a.stride * token)
            call_op(a.function, words, state, row_block, row_block + 1)
