"""Products of records by the activations of one token or a few, in registers: emits them record by record.

What a step's weights are unpacked to meets all tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.output import put_rows, start_rows
from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import ByteSums
from gguflike.kernels.vector.emitter import F32, I32, V16F32, V16I32, V64I8, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, void
from gguflike.kernels.vector.memory import load_f32x16
from gguflike.kernels.vector.sizes import BLOCK
from gguflike.kernels.vector.types import Address, F32x16, Value

MOST = 2  # tokens, whose sums stay in registers beside what is unpacked
AHEAD = 8192  # bytes that are prefetched in advance; 1 to 24 KiB were measured


class Token(NamedTuple):
    """Where the activations of a token begin, as emitting functions take them: addresses or pointers."""

    codes: Value
    scales: Value
    sums: Value


def add_record(
    e: Emitter, record_format: RecordFormat, record: Value, tokens: Sequence[Token], totals: list[Value]
) -> list[Value]:
    """Add to ``totals``, a V16F32 for each token with a row per lane, the product of one record by its activations.

    Every rounding is that of the blocked matmul (tile.py), so that a token's result does not depend on how many are
    computed with it.
    """
    reader = Record(e, record_format, record)
    tokens = [Token(*(e.pointer(place) for place in token)) for token in tokens]
    blocks = record_format.weights // BLOCK
    lines = record_format.record_bytes // 64

    def add(block: int, totals: list[Value]) -> list[Value]:
        for line in range(block * lines // blocks, (block + 1) * lines // blocks):
            e.prefetch(record, AHEAD + 64 * line)
        reader.forget()
        return add_block(e, record_format, reader, block, tokens, totals)

    return e.in_turn(totals, [partial(add, block) for block in range(blocks)])


def add_block(
    e: Emitter,
    record_format: RecordFormat,
    reader: Record,
    block: int,
    tokens: Sequence[Token],
    totals: list[Value],
) -> list[Value]:
    """Add block number ``block`` of a record to the totals of the tokens."""
    subs, totals = sub_blocks(record_format), list(totals)
    scales = [e.load(F32, token.scales, 4 * block) for token in tokens]
    every_scale = [e.splat(V16F32, scale) for scale in scales]
    folded: list[Value] = []
    minima: list[tuple[Value, list[Value]]] = []
    for sub in range(subs):
        halves = range(2 * block, 2 * block + 2) if subs == 1 else (2 * block + sub,)
        needed = bool(record_format.offset or record_format.minimum)
        activation_sums = [_sum(e, token.sums, halves) if needed else e.const(I32, 0) for token in tokens]
        products = _dot_sub_block(e, record_format, reader, tokens, activation_sums, block, sub)
        if record_format.folded_offset is None:
            factor = reader.scale(block, sub)
            for t, product in enumerate(products):
                totals[t] = e.fma(e.b.fmul(product, every_scale[t]), factor, totals[t])
        else:  # integers below 2**24: exact
            factor = reader.folded_scale(block, sub)
            products = [e.b.fmul(product, factor) for product in products]
            folded = [e.b.fadd(*pair) for pair in zip(folded, products, strict=True)] if folded else products
        if record_format.minimum:
            scaled = [
                e.splat(V16F32, e.b.fmul(e.b.sitofp(total, F32), scale))
                for total, scale in zip(activation_sums, scales, strict=True)
            ]
            minima.append((reader.minimum(block, sub), scaled))
    for t, product in enumerate(folded):
        totals[t] = e.fma(e.b.fmul(product, every_scale[t]), reader.super_scale(), totals[t])
    for minimum, scaled in minima:
        totals = [e.fma(minimum, total, before) for total, before in zip(scaled, totals, strict=True)]
    return totals


def _sum(e: Emitter, sums: Value, halves: Sequence[int]) -> Value:
    """Add up the sums of some halves of a block."""
    return reduce(e.b.add, (e.load(I32, sums, 4 * half) for half in halves))


def _dot_sub_block(
    e: Emitter,
    record_format: RecordFormat,
    reader: Record,
    tokens: Sequence[Token],
    activation_sums: Sequence[Value],
    block: int,
    sub: int,
) -> list[Value]:
    """Multiply the signed weights of a sub-block by the activations of each token: V16F32, integers.

    A step's weights are unpacked once for all tokens.
    """
    subs, offset = sub_blocks(record_format), record_format.offset
    sums = ByteSums(e, record_format.largest)
    chains = sums.chains if len(tokens) == 1 else 1
    starts = [e.splat(V16I32, e.b.mul(total, e.const(I32, -offset))) for total in activation_sums if offset]
    # Where sums are 16-bit at first, a 32-bit start that only meets them at the end would take a register until then.
    late = bool(starts) and sums.loop
    zero = e.zero(V16I32)
    begins = starts if starts and not late else [zero] * len(tokens)
    totals = [[sums.begin(begin), *(sums.begin(zero) for _ in range(1, chains))] for begin in begins]
    for count, step in enumerate(range(sub * STEPS // subs, (sub + 1) * STEPS // subs)):
        turn = count % chains
        weights = (reader.nibbles if sums.halved else reader.codes)(block * STEPS + step)
        for token, chain in zip(tokens, totals, strict=True):
            if count // chains and count // chains % sums.run == 0:
                chain[turn] = sums.settle(chain[turn])
            four = e.load_splat(V64I8, token.codes, block * BLOCK + 4 * step)
            chain[turn] = sums.add(chain[turn], weights, four)
    values = [reduce(e.b.add, (sums.value(total) for total in chain)) for chain in totals]
    if late:
        values = [e.b.add(*pair) for pair in zip(values, starts, strict=True)]
    return [e.to_float(value) for value in values]


def dot_records(record_format: RecordFormat) -> Any:
    """Return a function for kernels that adds to sixteen sums the products of a row block's ``records`` by one token:
    ``(record, records, codes, scales, sums, total)``."""

    @operation(f32x16, int64, int64, int64, int64, f32x16)
    def dot_record(e: Emitter, record: Value, codes: Value, scales: Value, sums: Value, total: Value) -> Value:
        return add_record(e, record_format, record, [Token(codes, scales, sums)], [total])[0]

    weights, record_bytes = record_format.weights, record_format.record_bytes

    @inner(inline="always")
    def dot(record: Address, records: int, codes: Address, scales: Address, sums: Address, total: F32x16) -> F32x16:
        for r in range(records):
            at = record + r * record_bytes
            total = dot_record(at, codes + r * weights, scales + r * (weights // 8), sums + r * (weights // 4), total)
        return total

    return dot


def make_direct(record_format: RecordFormat) -> Any:
    """Return a kernel (args, scratch, tokens, start, stop): row blocks ``start`` to ``stop`` times at most MOST
    tokens."""
    weights, record_bytes = record_format.weights, record_format.record_bytes

    @operation(void, int64, int64, int64, int64, int64, int64, int64, f32x16, int64)
    def dot(
        e: Emitter,
        records: Value,
        count: Value,
        codes: Value,
        scales: Value,
        sums: Value,
        columns: Value,
        last: Value,
        start: Value,
        out: Value,
    ) -> None:
        """Write the sums of a row block for MOST tokens; those behind number ``last`` are that again."""
        rows = [e.b.mul(e.smin(e.int64(t), last), columns) for t in range(MOST)]

        def add(index: Value, totals: list[Value]) -> list[Value]:
            column = e.b.mul(index, e.int64(weights))
            tokens = []
            for row in rows:
                at = e.b.add(row, column)  # 4 bytes for 32 columns, and for 16
                eighth, quarter = (e.b.lshr(at, e.int64(bits)) for bits in (3, 2))
                tokens.append(Token(e.b.add(codes, at), e.b.add(scales, eighth), e.b.add(sums, quarter)))
            record = e.b.add(records, e.b.mul(index, e.int64(record_bytes)))
            return add_record(e, record_format, record, tokens, totals)

        totals = e.loop(e.int64(0), count, 1, [start] * MOST, add, unroll=False)
        for t, total in enumerate(totals):
            e.store(total, out, 64 * t)

    @inner
    def direct(args: Address, scratch: Address, tokens: int, start: int, stop: int) -> None:
        a = load_args(MATMUL, args)
        records, last = a.columns // weights, tokens - 1
        for row_block in range(start, stop):
            begin, record = start_rows(args, row_block), a.weights + row_block * records * record_bytes
            dot(record, records, a.codes, a.scales, a.sums, a.columns, last, begin, scratch)
            for t in range(tokens):
                put_rows(args, row_block, t, load_f32x16(scratch + 64 * t))

    return direct
