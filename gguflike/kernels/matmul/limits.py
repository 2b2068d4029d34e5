"""What the machine can do, for comparison: ops that only read memory, or only multiply. Argument words: ``LIMITS``."""

from __future__ import annotations

from typing import Any

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import op
from gguflike.kernels.matmul.args import LIMITS
from gguflike.kernels.vector.dot import ByteSums
from gguflike.kernels.vector.emitter import V16I32, V64I8, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void

CHAINS = 12  # independent sums, enough to hide the latency of a dot product
STEPS = 8  # products per sum
LARGEST = 15  # weight


@operation(void, int64, int64, int64, int64)
def _read(e: Emitter, memory: Any, result: Any, start: Any, stop: Any) -> None:
    base = e.pointer(memory)

    def body(index: Any, values: list[Any]) -> list[Any]:
        here = e.pointer(base, e.b.mul(index, e.int64(256)))
        return [e.b.xor(value, e.load(V16I32, here, 64 * i)) for i, value in enumerate(values)]

    values = e.loop(start, stop, 1, [e.zero(V16I32)] * 4, body)
    e.store(e.b.xor(e.b.xor(values[0], values[1]), e.b.xor(values[2], values[3])), result)


@op("matmul.limits:read")
def read(args: int, state: int, start: int, stop: int) -> None:
    """Reads memory; items are 256 bytes."""
    _read(load_word(args + LIMITS.memory), load_word(args + LIMITS.result), start, stop)


@operation(void, int64, int64, int64, int64)
def _multiply(e: Emitter, memory: Any, result: Any, start: Any, stop: Any) -> None:
    weights = e.pointer(memory)
    sums = ByteSums(e, LARGEST)

    def body(index: Any, values: list[Any]) -> list[Any]:
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
def multiply(args: int, state: int, start: int, stop: int) -> None:
    """Dot products of 4-bit codes with bytes: an item is CHAINS sums of STEPS, each 64 multiplications and sums."""
    _multiply(load_word(args + LIMITS.memory), load_word(args + LIMITS.result), start, stop)
