"""Writing results of matvec and matmul: sixteen rows of one token, with factor, bias and residual."""

from __future__ import annotations

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.vector.emitter import V16F32, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, splat, void
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16, Value


@operation(void, int64, int64, int64, int64)
def _put_whole(e: Emitter, source: Value, out: Value, stride: Value, tokens: Value) -> None:
    """Copy 32 float32 of each token, which stand side by side, to places ``stride`` bytes apart."""
    source, out = e.pointer(source), e.pointer(out)

    def copy(index: Value, _: list[Value]) -> list[Value]:
        here, there = e.pointer(source, e.b.mul(index, e.int64(128))), e.pointer(out, e.b.mul(index, stride))
        for half in (0, 64):
            e.store(e.load(V16F32, here, half), there, half)
        return []

    e.loop(e.int64(0), tokens, 1, [], copy)


@operation(void, int64, int64, int64, int64)
def _add_whole(e: Emitter, source: Value, out: Value, stride: Value, tokens: Value) -> None:
    """Do as ``_put_whole``, adding to what is there."""
    source, out = e.pointer(source), e.pointer(out)

    def add(index: Value, _: list[Value]) -> list[Value]:
        here, there = e.pointer(source, e.b.mul(index, e.int64(128))), e.pointer(out, e.b.mul(index, stride))
        for half in (0, 64):
            e.store(e.b.fadd(e.load(V16F32, there, half), e.load(V16F32, here, half)), there, half)
        return []

    e.loop(e.int64(0), tokens, 1, [], add)


@operation(f32x16, f32x16, int64, int64)
def _add_from(e: Emitter, value: Value, place: Value, count: Value) -> Value:
    """Return ``value`` plus the first ``count`` float32 at ``place``."""
    return e.b.fadd(value, e.load_masked(V16F32, place, 0, e.first_lanes(count)))


@operation(void, f32x16, int64, int64)
def _store_first(e: Emitter, value: Value, place: Value, count: Value) -> None:
    """Store the first ``count`` lanes."""
    e.store_masked(value, place, 0, e.first_lanes(count))


@inner
def _bias_rows(args: Address, row_block: int) -> F32x16:
    """Return the bias of a row block, zero where there is none."""
    bias, row = load_word(args + MATMUL.bias), 16 * row_block
    if bias == 0:  # not a masked access to nowhere, on which some machines spend hundreds of cycles
        return splat(0.0)
    return _add_from(splat(0.0), bias + 4 * row, load_word(args + MATMUL.rows) - row)


@inner
def put_rows(args: Address, row_block: int, token: int, value: F32x16) -> None:
    """Write the sums of a row block for ``token``, finished, or add them where ``MATMUL.add`` says so."""
    row, factor = 16 * row_block, load_word(args + MATMUL.factor)
    if factor:
        value = value * splat(load_f32(factor)) + _bias_rows(args, row_block)
    count = load_word(args + MATMUL.rows) - row
    out = load_word(args + MATMUL.out) + 4 * (token * load_word(args + MATMUL.stride) + row)
    if count < 16:
        if load_word(args + MATMUL.add):
            value = _add_from(value, out, count)
        _store_first(value, out, count)
    else:
        if load_word(args + MATMUL.add):
            value = value + load_f32x16(out)
        store_f32x16(out, value)


@inner
def start_rows(args: Address, row_block: int) -> F32x16:
    """Return what the sums of a row block start from: the bias, unless it is added to products times a factor."""
    return splat(0.0) if load_word(args + MATMUL.factor) else _bias_rows(args, row_block)


@inner
def put_start(args: Address, unit: int, place: Address) -> None:
    """Write what the sums of a unit of 32 rows start from to ``place``."""
    store_f32x16(place, start_rows(args, 2 * unit))
    store_f32x16(place + 64, start_rows(args, 2 * unit + 1))


@inner
def put_unit(args: Address, sums: Address, unit: int, first: int, count: int) -> None:
    """Write the sums of a unit of 32 rows, float32 (count, 32), to the output from token ``first`` on."""
    stride = 4 * load_word(args + MATMUL.stride)
    out = load_word(args + MATMUL.out) + first * stride + 128 * unit
    if 32 * (unit + 1) > load_word(args + MATMUL.rows) or load_word(args + MATMUL.factor):
        for i in range(2 * count):
            put_rows(args, 2 * unit + i % 2, first + i // 2, load_f32x16(sums + 64 * i))
    elif load_word(args + MATMUL.add):
        _add_whole(sums, out, stride, count)
    else:
        _put_whole(sums, out, stride, count)


@inner
def panel_tokens(tokens: int, most: int) -> int:
    """Return the tokens per panel, at most ``most``, a multiple of 12: panels are alike, or the last would be dear."""
    panels = (tokens + most - 1) // most
    return ((tokens + panels - 1) // panels + 11) // 12 * 12
