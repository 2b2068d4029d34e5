"""Writing results of matvec and matmul: sixteen rows of one token, with bias and residual."""

from __future__ import annotations

from typing import Any

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.vector.emitter import V16F32, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, splat, void
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16


@operation(void, int64, int64, int64, int64)
def _put_whole(e: Emitter, source: Any, out: Any, stride: Any, tokens: Any) -> None:
    """32 floats for each token, from neighbouring places to places ``stride`` bytes apart."""
    source, out = e.pointer(source), e.pointer(out)

    def copy(index: Any, _: list[Any]) -> list[Any]:
        here, there = e.pointer(source, e.b.mul(index, e.int64(128))), e.pointer(out, e.b.mul(index, stride))
        for half in (0, 64):
            e.store(e.load(V16F32, here, half), there, half)
        return []

    e.loop(e.int64(0), tokens, 1, [], copy)


@operation(void, int64, int64, int64, int64)
def _add_whole(e: Emitter, source: Any, out: Any, stride: Any, tokens: Any) -> None:
    """As ``_put_whole``, added to what is there."""
    source, out = e.pointer(source), e.pointer(out)

    def add(index: Any, _: list[Any]) -> list[Any]:
        here, there = e.pointer(source, e.b.mul(index, e.int64(128))), e.pointer(out, e.b.mul(index, stride))
        for half in (0, 64):
            e.store(e.b.fadd(e.load(V16F32, there, half), e.load(V16F32, here, half)), there, half)
        return []

    e.loop(e.int64(0), tokens, 1, [], add)


@operation(f32x16, f32x16, int64, int64)
def _add_from(e: Emitter, value: Any, place: Any, count: Any) -> Any:
    """``value`` plus the first ``count`` floats at ``place``."""
    return e.b.fadd(value, e.load_masked(V16F32, place, 0, e.first_lanes(count)))


@operation(void, f32x16, int64, int64)
def _store_first(e: Emitter, value: Any, place: Any, count: Any) -> None:
    e.store_masked(value, place, 0, e.first_lanes(count))


@inner
def put_rows(args: int, group: int, token: int, value: Any) -> None:
    """``value`` (16 lanes) to rows 16 * group and up of ``token``, added to what is there where ADD says so."""
    row = 16 * group
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
def bias_rows(args: int, group: int) -> Any:
    """The bias of rows 16 * group and up, zero where there is none."""
    bias, row = load_word(args + MATMUL.bias), 16 * group
    if bias == 0:  # not a masked access to nowhere, on which some machines spend hundreds of cycles
        return splat(0.0)
    return _add_from(splat(0.0), bias + 4 * row, load_word(args + MATMUL.rows) - row)


@inner
def put_bias(args: int, unit: int, place: int) -> None:
    """What the sums of 32 rows start from."""
    store_f32x16(place, bias_rows(args, 2 * unit))
    store_f32x16(place + 64, bias_rows(args, 2 * unit + 1))


@inner
def put_unit(args: int, sums: int, unit: int, first: int, count: int) -> None:
    """``count`` times the sums of 32 rows, float32 (count, 32), to the output from token ``first`` on."""
    stride = 4 * load_word(args + MATMUL.stride)
    out = load_word(args + MATMUL.out) + first * stride + 128 * unit
    if 32 * (unit + 1) > load_word(args + MATMUL.rows):
        for i in range(2 * count):
            put_rows(args, 2 * unit + i % 2, first + i // 2, load_f32x16(sums + 64 * i))
    elif load_word(args + MATMUL.add):
        _add_whole(sums, out, stride, count)
    else:
        _put_whole(sums, out, stride, count)


@inner
def panel_tokens(tokens: int, most: int) -> int:
    """Tokens per panel, at most ``most``, which is a multiple of 12: all panels alike, or the last would be dear."""
    panels = (tokens + most - 1) // most
    return ((tokens + panels - 1) // panels + 11) // 12 * 12
