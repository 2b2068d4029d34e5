"""Repacking of a file's blocks into records (records.py): ops named ``repack:<type>``; items are groups of 16 rows.

Argument words: 0 address of the blocks, 1 address of the records (zeroed), 2 rows, 3 columns. Planes that the file
packs as the records do move as 4-byte words; ``_WORDS`` says where they start in a block. The other types fill
``codes``, a byte per weight, from which the planes are made.

``_FIELDS`` holds, per type, a function ``(block, record, lane, codes)`` that does one row's block: its scales, and
``codes`` where the type needs them. ``record`` addresses the record, ``lane`` is the row in its group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from gguflike.blocks import FORMATS
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.matmul import repack_fields as fields
from gguflike.kernels.matmul.records import LAYOUTS, Layout, Plane
from gguflike.kernels.vector.simd import I8, I32, Emitter, address, operation, void
from gguflike.kernels.vector.sizes import LANES

Op = Callable[[int, int, int, int], None]

# Byte offsets of the planes in a file's block (None: made from codes).
_WORDS: Mapping[str, tuple[int | None, ...]] = {
    "Q4_0": (2,),
    "Q4_1": (4,),
    "Q5_0": (6, None),
    "Q5_1": (8, None),
    "Q8_0": (2,),
    "Q2_K": (16,),
    "Q3_K": (32, 0),
    "Q4_K": (16,),
    "Q5_K": (48, 16),
    "Q6_K": (0, 128),
    "IQ4_NL": (2,),
    "IQ4_XS": (8,),
    "MXFP4": (1,),
    "NVFP4": (4,),
    "TQ2_0": (0,),
}


@operation(address)
def _codes_memory(e: Emitter) -> Any:
    """Address of 256 bytes that live as long as the calling op."""
    with e.b.goto_entry_block():
        memory = e.b.alloca(ir.ArrayType(I8, 256))
    return e.b.ptrtoint(memory, ir.IntType(64))


def _move_words(e: Emitter, block: Any, target: Any, count: int) -> None:
    """``count`` words of a block to a lane's place in as many vectors."""
    for word in range(count):
        e.store(e.load(I32, block, 4 * word), target, 4 * LANES * word)


def _plane_from_codes(e: Emitter, plane: Plane, lowest: int, weights: int, codes: Any, target: Any) -> None:
    """Packs bits ``lowest`` and up of the codes (uint8 (weights,)) into a lane's place in the plane's vectors."""
    words: list[Any] = [ir.Constant(I32, 0)] * plane.vectors(weights)
    mask = ((1 << plane.bits) - 1) * 0x01010101
    for step in range(weights // 4):
        vector, position = plane.place(step)
        four = e.b.lshr(e.load(I32, codes, 4 * step), ir.Constant(I32, lowest))
        part = e.b.shl(e.b.and_(four, ir.Constant(I32, mask)), ir.Constant(I32, position))
        words[vector] = e.b.or_(words[vector], part)
    for vector, word in enumerate(words):
        e.store(word, target, 4 * LANES * vector)


def _repack(name: str, layout: Layout) -> Op:
    sources = _WORDS.get(name, (None,) * len(layout.planes))
    lowest = [sum(plane.bits for plane in layout.planes[:i]) for i in range(len(layout.planes))]

    @operation(void, address, address, address)
    def move_planes(e: Emitter, block: Any, target: Any, codes: Any) -> None:
        for index, (plane, source) in enumerate(zip(layout.planes, sources, strict=True)):
            place = e.pointer(target, layout.plane_at(index))
            if source is not None:
                _move_words(e, e.pointer(block, source), place, plane.vectors(layout.weights))
            else:
                _plane_from_codes(e, plane, lowest[index], layout.weights, e.pointer(codes), place)

    do_fields = inner(fields.FIELDS[name])
    block_bytes, weights, record_bytes = FORMATS[name].block_bytes, layout.weights, layout.record_bytes

    def repack(args: int, state: int, start: int, stop: int) -> None:
        rows, records = load_word(args + 16), load_word(args + 24) // weights
        codes = _codes_memory()
        for group in range(start, stop):
            target = load_word(args + 8) + group * records * record_bytes
            for lane in range(min(LANES, rows - LANES * group)):
                block = load_word(args) + (LANES * group + lane) * records * block_bytes
                for r in range(records):
                    record = target + r * record_bytes
                    do_fields(block, record, lane, codes)
                    move_planes(block, record + 4 * lane, codes)
                    block += block_bytes

    return repack


for _name, _layout in LAYOUTS.items():
    op(f"matmul.repack:{_name}")(_repack(_name, _layout))
