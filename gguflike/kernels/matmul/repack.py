"""Repacking of a file's blocks into records (records.py): ops ``by_type.repack:<type>``; items are row blocks.

Argument words: ``REPACK`` (args.py). Planes that the file packs as the records do move as 4-byte words. The other types
fill ``codes``, a byte per weight, from which the planes are made. What else is in a block moves by a function of
scatter.py.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from gguflike.blocks import BlockFormat
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.matmul.args import REPACK
from gguflike.kernels.matmul.records import Plane, RecordFormat
from gguflike.kernels.matmul.scatter import Lane, Scatter
from gguflike.kernels.vector.emitter import I8, I32, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, Value

Op = Callable[[Address, Address, int, int], None]


@operation(int64)
def _codes_memory(e: Emitter) -> Value:
    """Allocates 256 bytes that live as long as the calling op and returns their address."""
    with e.b.goto_entry_block():
        memory = e.b.alloca(ir.ArrayType(I8, 256))
    return e.b.ptrtoint(memory, ir.IntType(64))


def _move_words(e: Emitter, block: Value, target: Value, count: int) -> None:
    """Copies ``count`` 4-byte words of a block to a lane's place in as many vectors."""
    for word in range(count):
        e.store(e.load(I32, block, 4 * word), target, 4 * LANES * word)


def _plane_from_codes(e: Emitter, plane: Plane, lowest: int, weights: int, codes: Value, target: Value) -> None:
    """Packs bits ``lowest`` and up of the codes (uint8 (weights,)) into a lane's place in the plane's vectors."""
    words: list[Value] = [e.const(I32, 0)] * plane.vectors(weights)
    mask = ((1 << plane.bits) - 1) * 0x01010101
    for step in range(weights // 4):
        vector, position = plane.place(step)
        four = e.b.lshr(e.load(I32, codes, 4 * step), e.const(I32, lowest))
        part = e.b.shl(e.b.and_(four, e.const(I32, mask)), e.const(I32, position))
        words[vector] = e.b.or_(words[vector], part)
    for vector, word in enumerate(words):
        e.store(word, target, 4 * LANES * vector)


def repack_op(fmt: BlockFormat, record_format: RecordFormat, scatter: Scatter) -> Op:
    """Return the op that repacks blocks of ``fmt``; ``scatter`` moves scales, and codes where planes need codes."""
    planes, offsets = record_format.planes, fmt.offsets
    lowest = [sum(plane.bits for plane in planes[:i]) for i in range(len(planes))]

    @operation(void, int64, int64, int64)
    def move_planes(e: Emitter, block: Value, target: Value, codes: Value) -> None:
        for index, plane in enumerate(planes):
            place = e.pointer(target, record_format.plane_at(index))
            if plane.field is not None:
                source = e.pointer(block, getattr(offsets, plane.field))
                _move_words(e, source, place, plane.vectors(record_format.weights))
            else:
                _plane_from_codes(e, plane, lowest[index], record_format.weights, e.pointer(codes), place)

    scatter = inner(scatter)
    block_bytes, weights, record_bytes = fmt.block_bytes, record_format.weights, record_format.record_bytes
    scales_at, minima_at = record_format.scales_at, record_format.minima_at
    scale_bytes, minimum_bytes = record_format.scale_bytes // LANES, record_format.minimum_bytes // LANES

    def repack(args: Address, state: Address, start: int, stop: int) -> None:
        rows, records = load_word(args + REPACK.rows), load_word(args + REPACK.columns) // weights
        codes = _codes_memory()
        for row_block in range(start, stop):
            target = load_word(args + REPACK.records) + row_block * records * record_bytes
            for lane in range(min(LANES, rows - LANES * row_block)):
                block = load_word(args + REPACK.blocks) + (LANES * row_block + lane) * records * block_bytes
                for r in range(records):
                    record = target + r * record_bytes
                    scales, minima = record + scales_at + scale_bytes * lane, record + minima_at + minimum_bytes * lane
                    scatter(block, Lane(record + 2 * lane, record + 2 * (LANES + lane), scales, minima, codes))
                    move_planes(block, record + 4 * lane, codes)
                    block += block_bytes

    return repack
