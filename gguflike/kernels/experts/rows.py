"""Rows of activations on their way to experts and back."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.experts.args import COMBINE, GATHER, PIECE, SORT, WEIGH
from gguflike.kernels.vector.lanes import exp, fma, reduce_max, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

ONE = np.float32(1)


@op("experts.rows:sort")
def sort(args: Address, state: Address, start: int, stop: int) -> None:
    """Sort the pairs of the pass by expert, those of an expert as they come. One item; words: ``SORT``."""
    a = load_args(SORT, args)
    tokens, next_place = load_word(state + STATE.tokens), load_word(state + STATE.scratch)
    for expert in range(a.experts + 1):
        store_word(a.starts + 8 * expert, 0)
    for pair in range(tokens * a.used):
        behind = a.starts + 8 * load_word(a.chosen + 8 * pair) + 8
        store_word(behind, load_word(behind) + 1)
    for expert in range(a.experts):
        first = load_word(a.starts + 8 * expert)
        store_word(next_place + 8 * expert, first)
        store_word(a.starts + 8 * expert + 8, first + load_word(a.starts + 8 * expert + 8))
    for pair in range(tokens * a.used):
        cursor = next_place + 8 * load_word(a.chosen + 8 * pair)
        place = load_word(cursor)
        store_word(cursor, place + 1)
        store_word(a.pairs + 8 * place, pair)
        store_word(a.places + 8 * pair, place)


@inner
def _copy(source: Address, target: Address, count: int) -> None:
    """Copy ``count`` bytes, a multiple of four."""
    whole = count // 64 * 64
    for at in range(0, whole, 64):
        store_f32x16(target + at, load_f32x16(source + at))
    for at in range(whole, count, 4):
        store_f32(target + at, load_f32(source + at))


@op("experts.rows:gather")
def gather(args: Address, state: Address, start: int, stop: int) -> None:
    """Copy to each place the activations of its token. Items are places; words: ``GATHER``."""
    a = load_args(GATHER, args)
    for place in range(start, stop):
        token = load_word(a.pairs + 8 * place) // a.used
        if a.scales:
            _copy(a.codes + token * a.columns, a.to_codes + place * a.columns, a.columns)
            blocks = a.columns // BLOCK
            _copy(a.scales + 4 * token * blocks, a.to_scales + 4 * place * blocks, 4 * blocks)
            _copy(a.sums + 8 * token * blocks, a.to_sums + 8 * place * blocks, 8 * blocks)
        else:
            _copy(a.codes + 4 * token * a.columns, a.to_codes + 4 * place * a.columns, 4 * a.columns)


@op("experts.rows:weigh")
def weigh(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply each row by the weight of its pair. Items are 32 values; words: ``WEIGH``."""
    a = load_args(WEIGH, args)
    for block in range(start, stop):
        pair = BLOCK * block // a.columns
        if a.pairs:
            pair = load_word(a.pairs + 8 * pair)
        share, values = splat(load_f32(a.shares + 4 * pair)), a.rows + 4 * BLOCK * block
        store_f32x16(values, load_f32x16(values) * share)
        store_f32x16(values + 64, load_f32x16(values + 64) * share)


@op("experts.rows:combine")
def combine(args: Address, state: Address, start: int, stop: int) -> None:
    """Add up the weighted rows of each token, slot by slot, and what all tokens share. Items are pieces of rows, token
    by token; words: ``COMBINE``."""
    a = load_args(COMBINE, args)
    scale = f32_of(a.scale)
    for item in range(start, stop):
        token, first = item // a.pieces, item % a.pieces * PIECE
        last = min(first + PIECE, a.columns)
        whole = first + (last - first) // LANES * LANES
        opened = ONE
        if a.shared_gate:
            opened = np.float32(ONE / (ONE + _exp_one(-load_f32(a.shared_gate + 4 * token))))
        for column in range(first, whole, LANES):
            total = splat(np.float32(0))
            for slot in range(a.used):
                row, share = _row(args, token * a.used + slot)
                total = fma(load_f32x16(row + 4 * column), splat(share), total)
            if a.shared:
                total = fma(load_f32x16(a.shared + 4 * (token * a.columns + column)), splat(opened), total)
            place = a.out + 4 * (token * a.columns + column)
            total = total * splat(scale)
            store_f32x16(place, load_f32x16(place) + total if a.add else total)
        for column in range(whole, last):
            rest = np.float32(0)
            for slot in range(a.used):
                row, share = _row(args, token * a.used + slot)
                rest += load_f32(row + 4 * column) * share
            if a.shared:
                rest += load_f32(a.shared + 4 * (token * a.columns + column)) * opened
            place = a.out + 4 * (token * a.columns + column)
            store_f32(place, np.float32(rest * scale + (load_f32(place) if a.add else np.float32(0))))


@inner(inline="always")
def _row(args: Address, pair: int) -> tuple[Address, np.float32]:
    """Return the address of what a pair's expert gave, and its weight."""
    a = load_args(COMBINE, args)
    place, share = pair, ONE
    if a.places:
        place = load_word(a.places + 8 * pair)
    if a.shares:
        share = load_f32(a.shares + 4 * pair)
    return a.rows + 4 * place * a.columns, share


@inner
def _exp_one(x: np.float32) -> np.float32:
    """Compute e**x of one value as of many."""
    power: np.float32 = reduce_max(exp(splat(x)))
    return power
