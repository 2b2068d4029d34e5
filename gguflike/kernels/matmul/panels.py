"""What the blocked matmul reads of tokens: a *panel* of their activations, prepared for the arithmetic of a type.

Of each token it holds CHUNK_BYTES of codes, int8, or int16 where words are multiplied, and then its ``fields``, each
float32 or int32 (CHUNK_BLOCKS,):

    scale    of the activations
    bias     the scale times -MAGIC
    start    what the integer sum of a sub-block begins from
    short    what a sum in 16 bits begins from: int16 for columns 0 and 1 of all steps, and for columns 2 and 3
    minimum  float sum of a sub-block, which its minimum is multiplied by

Integer sums begin from MAGIC's bits - offset * sum(activations), so that they end as the bits of the float MAGIC + s,
where s is the dot product with the signed weights (|s| < 2**22). One fma then gives scale * s:
``(MAGIC + s) * scale - MAGIC * scale`` is exact before its only rounding, since MAGIC = 3 * 2**22 and the scale has at
most 22 bits of mantissa, which makes MAGIC * scale a float. This saves a conversion and the correction for the offset.

Sums in 16 bits begin from -center * sum(activations). Where the center is the offset they end as s itself, as sums of
words do, and neither a start nor a bias is needed.
"""

from __future__ import annotations

from llvmlite import ir

from gguflike.kernels.matmul.reader import STEPS, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import LARGEST_SIGNED, MULTIPLY_ADD, fits_short
from gguflike.kernels.vector.emitter import I8, I16, I32, V16F32, V16I32, Emitter
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Value

CHUNK_BYTES = 512  # of a row unpacked at a time: 32 rows of them fill half of a 32 KiB first-level cache
CHUNK_BLOCKS = CHUNK_BYTES // BLOCK  # at most
FIELD_BYTES = 4 * CHUNK_BLOCKS
MAGIC = 3.0 * 2**22
MAGIC_BITS = 0x4B400000

_CODES, _PAIRS = ir.VectorType(I8, BLOCK), ir.VectorType(I16, BLOCK // 2)


def integer_sums(record_format: RecordFormat) -> int:
    """Return how many integer sums a block has: one for each scale that is not folded into the weights."""
    return sub_blocks(record_format) if record_format.folded_offset is None else 1


def largest(record_format: RecordFormat) -> int:
    """Return the largest byte that weights are unpacked to."""
    if record_format.folded_offset is None:
        return record_format.largest
    return record_format.largest * 15 if record_format.scale == "nibble" else 255


def offset(record_format: RecordFormat) -> int:
    """Return what is added to weights to make bytes of them."""
    return record_format.offset if record_format.folded_offset is None else record_format.folded_offset


def vectors_per_step(record_format: RecordFormat) -> int:
    """Return how many vectors a step of four columns is unpacked to: 1 of bytes, or 2 of int16."""
    return 2 if MULTIPLY_ADD and largest(record_format) > LARGEST_SIGNED else 1


def center(record_format: RecordFormat) -> int | None:
    """Return the byte that counts as 0 where 16 bits hold the sum of a sub-block; None where they do not."""
    if not MULTIPLY_ADD or vectors_per_step(record_format) == 2:
        return None
    most, steps = largest(record_format), STEPS // integer_sums(record_format)
    choices = (offset(record_format), (most + 1) // 2)
    return next((choice for choice in choices if fits_short(max(choice, most - choice), steps)), None)


def is_exact(record_format: RecordFormat) -> bool:
    """Tell whether integer sums end as they are, and not as a float's bits with MAGIC and an offset."""
    return vectors_per_step(record_format) == 2 or center(record_format) == offset(record_format)


def fields(record_format: RecordFormat) -> tuple[tuple[str, int], ...]:
    """Return the fields of a token in the order in which they stand: names and numbers of sub-blocks."""
    sums, subs = range(integer_sums(record_format)), range(sub_blocks(record_format))
    result = [("scale", 0)]
    if not is_exact(record_format):
        result += [("bias", 0), *(("start", sub) for sub in sums)]
    if center(record_format):
        result += [("short", sub) for sub in sums]
    if record_format.minimum:
        result += [("minimum", sub) for sub in subs]
    return tuple(result)


def field_at(record_format: RecordFormat, name: str, sub: int = 0) -> int:
    """Return the byte of a token at which a field begins."""
    return CHUNK_BYTES + fields(record_format).index((name, sub)) * FIELD_BYTES


def token_bytes(record_format: RecordFormat) -> int:
    """Return the bytes of a token in the panel."""
    return CHUNK_BYTES + len(fields(record_format)) * FIELD_BYTES


def chunk(record_format: RecordFormat) -> int:
    """Return how many columns a panel has at most."""
    return CHUNK_BYTES // vectors_per_step(record_format)


def prepare(
    e: Emitter, record_format: RecordFormat, codes: Value, scales: Value, sums: Value, blocks: Value, panel: Value
) -> None:
    """Write a token's part of the panel, for up to CHUNK_BLOCKS blocks (None: for all of them).

    ``codes``, ``scales`` and ``sums`` are the addresses of the token's first block of the chunk.
    """
    codes, panel = e.pointer(codes), e.pointer(panel)

    def copy(at: Value) -> None:
        if vectors_per_step(record_format) == 2:
            _copy_words(e, codes, panel, at)
        else:
            _copy_bytes(e, record_format, codes, panel, at)

    def copy_next(at: Value, _: list[Value]) -> list[Value]:
        copy(at)
        return []

    if blocks is None:
        for block in range(CHUNK_BLOCKS):
            copy(e.int64(block * BLOCK))
        scale = e.load(V16F32, scales)
        first, second = e.load(V16I32, sums), e.load(V16I32, sums, 4 * LANES)
    else:
        e.loop(e.int64(0), e.b.mul(blocks, e.int64(BLOCK)), BLOCK, [], copy_next)
        scale = e.load_masked(V16F32, scales, 0, e.first_lanes(blocks))
        halves = e.b.mul(blocks, e.int64(2))
        first = e.load_masked(V16I32, sums, 0, e.first_lanes(halves))
        second = e.load_masked(V16I32, sums, 4 * LANES, e.first_lanes(e.b.sub(halves, e.int64(LANES))))
    per_sub = [e.shuffle(first, second, range(odd, 32, 2)) for odd in (0, 1)]
    whole = [e.b.add(*per_sub)]
    totals = whole if integer_sums(record_format) == 1 else per_sub
    of_minima = whole if sub_blocks(record_format) == 1 else per_sub
    lost = (center(record_format) or 0) - offset(record_format)  # what 16-bit sums leave of the offset
    for name, sub in fields(record_format):
        if name == "scale":
            value = scale
        elif name == "bias":
            value = e.b.fmul(scale, e.const(V16F32, -MAGIC))
        elif name == "start":
            value = e.b.add(e.const(V16I32, MAGIC_BITS), e.b.mul(totals[sub], e.const(V16I32, lost)))
        elif name == "minimum":
            value = e.b.fmul(e.to_float(of_minima[sub]), scale)
        else:
            continue
        e.store(value, panel, field_at(record_format, name, sub))


def _copy_bytes(e: Emitter, record_format: RecordFormat, source: Value, panel: Value, at: Value) -> None:
    """Copy the codes of the block at column ``at``, and write what its 16-bit sums begin from."""
    codes = e.load(_CODES, source, at)
    e.store(codes, panel, at)
    if not center(record_format):
        return
    factor, sums = -(center(record_format) or 0), integer_sums(record_format)
    words, bits = e.b.bitcast(codes, _PAIRS), e.const(_PAIRS, 8)
    pairs = e.b.add(e.b.ashr(words, bits), e.b.ashr(e.b.shl(words, bits), bits))
    for sub in range(sums):
        count = BLOCK // 2 // sums
        part = e.shuffle(pairs, pairs, range(sub * count, (sub + 1) * count))
        while count > 2:
            count //= 2
            halves = (e.shuffle(part, part, range(first, first + count)) for first in (0, count))
            part = e.b.add(*halves)
        both = e.b.bitcast(e.b.mul(part, e.const(part.type, factor)), I32)
        e.store(both, e.pointer(panel, e.b.lshr(at, e.int64(3))), field_at(record_format, "short", sub))


def _copy_words(e: Emitter, source: Value, panel: Value, at: Value) -> None:
    """Copy the codes of the block at column ``at`` as int16: of every four, first the even ones and then the odd."""
    eight, bits = ir.VectorType(I32, STEPS), e.const(_PAIRS, 8)
    pairs = e.b.bitcast(e.load(_CODES, source, at), _PAIRS)
    even, odd = (e.b.bitcast(e.b.ashr(v, bits), eight) for v in (e.b.shl(pairs, bits), pairs))
    order = [index for step in range(STEPS) for index in (step, STEPS + step)]
    e.store(e.shuffle(even, odd, order), panel, e.b.mul(at, e.int64(2)))
