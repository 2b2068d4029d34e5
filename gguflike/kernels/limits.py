"""What the machine can do, for comparison: ops that only read memory, or only multiply.

Argument words: 0 address of memory, 1 address of 64 bytes for a result (so that nothing is optimized away).
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels._jit import op
from gguflike.kernels.atomics import load_word
from gguflike.kernels.simd import BYTES, INTS, Emitter, address, operation, void

CHAINS = 12  # independent sums, enough to hide the latency of a dot product


@operation(void, address, address, address, address)
def _read(e: Emitter, memory: Any, result: Any, start: Any, stop: Any) -> None:
    base = e.pointer(memory)

    def body(index: Any, values: list[Any]) -> list[Any]:
        here = e.pointer(base, e.b.mul(index, e.int64(256)))
        return [e.b.xor(value, e.load(INTS, here, 64 * i)) for i, value in enumerate(values)]

    values = e.loop(start, stop, 1, [e.zero(INTS)] * 4, body)
    e.store(e.b.xor(e.b.xor(values[0], values[1]), e.b.xor(values[2], values[3])), result)


@op("limits:read")
def read(args: int, state: int, start: int, stop: int) -> None:
    """Reads memory; items are 256 bytes."""
    _read(load_word(args), load_word(args + 8), start, stop)


@operation(void, address, address, address, address)
def _multiply(e: Emitter, memory: Any, result: Any, start: Any, stop: Any) -> None:
    weights, activations = e.load(BYTES, memory), e.load(BYTES, memory, 64)

    def body(index: Any, values: list[Any]) -> list[Any]:
        return [e.dot(value, weights, activations, False) for value in values]

    values = e.loop(start, stop, 1, [e.b.xor(e.load(INTS, memory), e.const(INTS, i)) for i in range(CHAINS)], body)
    total = values[0]
    for value in values[1:]:
        total = e.b.xor(total, value)
    e.store(total, result)


@op("limits:multiply")
def multiply(args: int, state: int, start: int, stop: int) -> None:
    """Dot products of bytes in registers; an item is CHAINS of them, each 64 multiplications and 64 additions."""
    _multiply(load_word(args), load_word(args + 8), start, stop)
