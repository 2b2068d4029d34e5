"""What the machine can do, for comparison: ops that only read memory, or only multiply. Argument words: ``LIMITS``."""

from __future__ import annotations

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.args import LIMITS
from gguflike.kernels.vector.dot import ByteSums
from gguflike.kernels.vector.emitter import V16I32, V64I8, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.types import Address, Value

CHAINS = 12  # independent sums, enough to hide the latency of a dot product
STEPS = 8  # products per sum
LARGEST = 15  # weight


@operation(void, int64, int64, int64, int64)
def _read(e: Emitter, memory: Value, result: Value, start: Value, stop: Value) -> None:
    """Combine items ``start`` to ``stop`` of memory by exclusive or, into 64 bytes at ``result``."""
    base = e.pointer(memory)

    def body(index: Value, values: list[Value]) -> list[Value]:
        here = e.pointer(base, e.b.mul(index, e.int64(256)))
        return [e.b.xor(value, e.load(V16I32, here, 64 * i)) for i, value in enumerate(values)]

    values = e.loop(start, stop, 1, [e.zero(V16I32)] * 4, body)
    e.store(e.b.xor(e.b.xor(values[0], values[1]), e.b.xor(values[2], values[3])), result)


@op("matmul.limits:read")
def read(args: Address, state: Address, start: int, stop: int) -> None:
    """Read memory. Items are 256 bytes; words: ``LIMITS``."""
    _read(load_word(args + LIMITS.memory), load_word(args + LIMITS.result), start, stop)


@operation(void, int64, int64, int64, int64)
def _multiply(e: Emitter, memory: Value, result: Value, start: Value, stop: Value) -> None:
    """Multiply what is at ``memory`` in rounds ``start`` to ``stop``, with 64 bytes of result."""
    weights = e.pointer(memory)
    sums = ByteSums(e, LARGEST)

    def body(index: Value, values: list[Value]) -> list[Value]:
        here = e.pointer(weights, e.b.mul(e.b.and_(index, e.int64(3)), e.int64(64 * STEPS)))
        results = []
        for value in values:  # what is multiplied depends on the round, or LLVM would do it once
            total = sums.begin(value)
            for step in range(STEPS):
                total = sums.add(total, e.load(V64I8, here, 64 * step), e.b.bitcast(value, V64I8))
            results.append(sums.value(total))
        return results

    starts = [e.b.xor(e.load(V16I32, memory), e.const(V16I32, i)) for i in range(CHAINS)]
    values = e.loop(start, stop, 1, starts, body)
    total = values[0]
    for value in values[1:]:
        total = e.b.xor(total, value)
    e.store(total, result)


@op("matmul.limits:multiply")
def multiply(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply 4-bit codes by bytes. An item is CHAINS sums of STEPS dot products of 64 bytes; words: ``LIMITS``."""
    _multiply(load_word(args + LIMITS.memory), load_word(args + LIMITS.result), start, stop)
