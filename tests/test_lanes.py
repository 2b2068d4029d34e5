"""The vector functions of kernels (vector/lanes.py, memory.py, unpack.py, arrays.py) against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector import arrays, lanes, memory, unpack

A = np.array([3, -1.5, 0.5, 2.5, -0.5, 7.25, -9, 1e-3, 4, 65504, -0.0, 6, -7.75, 8, 1e-7, 10], np.float32)
B = np.roll(A, 5)


@jit
def functions(a: int, b: int, out: np.ndarray) -> None:
    x, y = memory.load_f32x16(a), memory.load_f32x16(b)
    results = (
        lanes.splat(2),
        lanes.where(x > y, x, y),
        lanes.fma(x, y, 1.0),
        lanes.minimum(x, y),
        lanes.maximum(x, 0.0),
        lanes.magnitude(x),
        lanes.sqrt(lanes.magnitude(x)),
        lanes.truncate(x),
        lanes.round_even(x),
        lanes.to_float(lanes.to_int(x)),
        lanes.from_bits(lanes.bits(x) ^ lanes.bits(-x)),
        lanes.evens(x, y),
        lanes.odds(x, y),
        lanes.repeat_low(x),
        lanes.repeat_high(x),
        lanes.swap_pairs(x),
        lanes.to_float(lanes.where((x > 0.0) & ~(y >= 1.0), lanes.splat_i32(1), 0)),
        lanes.splat(lanes.reduce_add(x)),
        lanes.splat(lanes.reduce_max(x)),
        lanes.exp(lanes.minimum(x, 80.0)),
    )
    for i in range(len(results)):
        arrays.store(out, i, results[i])


def test_functions_of_lanes() -> None:
    out = np.zeros(20 * 16, np.float32)
    functions(A.ctypes.data, B.ctypes.data, out)
    both = np.concatenate([A, B])
    total = A
    for half in (8, 4, 2, 1):
        total = total[:half] + total[half:]
    expected = [
        np.full(16, 2),
        np.maximum(A, B),
        (A.astype(np.float64) * B + 1).astype(np.float32),
        np.minimum(A, B),
        np.maximum(A, 0),
        np.abs(A),
        np.sqrt(np.abs(A)),
        np.trunc(A),
        np.rint(A),
        np.trunc(A),
        np.full(16, -0.0),
        both[::2],
        both[1::2],
        np.repeat(A[:8], 2),
        np.repeat(A[8:], 2),
        A.reshape(8, 2)[:, ::-1].reshape(16),
        (A > 0) & ~(B >= 1),
        np.full(16, total[0]),
        np.full(16, A.max()),
        np.exp(np.minimum(A, 80).astype(np.float64)),
    ]
    for i, (got, wanted) in enumerate(zip(out.reshape(20, 16), expected, strict=True)):
        np.testing.assert_allclose(got, wanted, rtol=3e-7 if i in (2, 19) else 0, err_msg=str(i))


@jit
def mask_functions(a: int) -> Any:
    x = memory.load_f32x16(a)
    bits = lanes.mask_bits(x < 0.0)
    return bits, lanes.trailing_zeros(bits), lanes.any_lane(x > 1e6), lanes.any_lane(x > 1e4)


def test_masks() -> None:
    bits = sum(1 << i for i in range(16) if A[i] < 0)
    assert mask_functions(A.ctypes.data) == (bits, 1, False, True)


@jit
def reads(place: int, table: int, out: np.ndarray) -> Any:
    word, next_word = memory.load_u64(place), memory.load_u64(place + 8)
    vectors = (
        memory.load_u8x16(place),
        memory.load_i8x16(place),
        memory.load_u16x16(place),
        unpack.u8x16_of(word, next_word),
        unpack.i8x16_of(word, next_word),
        unpack.u8x4_of(word),
        unpack.u2x16_of(word) & 3,
        lanes.where(unpack.mask_of(word), lanes.splat_i32(1), 0),
        unpack.lookup(table, memory.load_u8x16(place) & 15),
        lanes.to_int(memory.load_f16x16(place + 32)),
    )
    for i in range(len(vectors)):
        arrays.store(out, i, vectors[i])
    scalars = (memory.load_u8(place), memory.load_u16(place), memory.load_u32(place), memory.load_i32(place + 4))
    return scalars, (memory.load_f16(place + 34), memory.load_f32(place + 64))


def test_loads_and_unpacking() -> None:
    raw = np.random.default_rng(1).integers(0, 256, 81, dtype=np.uint8)[1:]  # nothing is aligned
    raw[7] = 200
    raw[32:64] = np.arange(-8, 8, dtype=np.float16).view(np.uint8)
    raw[64:68] = np.array([1.5], np.float32).view(np.uint8)
    table = np.arange(-60, 68, 8, dtype=np.int8)
    out = np.zeros(10 * 16, np.int32)
    scalars, floats = reads(raw.ctypes.data, table.ctypes.data, out)
    words = raw[:8].tobytes()
    assert scalars == (
        raw[0],
        int.from_bytes(words[:2], "little"),
        int.from_bytes(words[:4], "little"),
        int.from_bytes(words[4:], "little", signed=True),
    )
    assert floats == (-7.0, 1.5)
    low = int.from_bytes(words[:4], "little")
    expected = [
        raw[:16],
        raw[:16].view(np.int8),
        np.frombuffer(raw[:32].tobytes(), np.uint16),
        raw[:16],
        raw[:16].view(np.int8),
        np.tile(raw[:4], 4),
        [low >> 2 * i & 3 for i in range(16)],
        [low >> i & 1 for i in range(16)],
        table[raw[:16] & 15],
        np.arange(-8, 8),
    ]
    for i, (got, wanted) in enumerate(zip(out.reshape(10, 16), expected, strict=True)):
        np.testing.assert_array_equal(got, wanted, err_msg=str(i))


@jit
def writes(a: int, out: int) -> None:
    x = memory.load_f32x16(a)
    memory.scatter_f32(out, 12, x)
    memory.scatter_f16(out + 4, 12, x)
    memory.scatter_i8(out + 6, 12, lanes.to_int(x))
    memory.prefetch(0)
    memory.store_f16(out + 192, 1.5)
    memory.store_f32(out + 194, memory.load_f32(memory.spill(x) + 20))
    memory.store_ahead(out + 198, x)


def test_stores() -> None:
    small = np.where(np.abs(A) > 100, 12, A).astype(np.float32)
    out = np.zeros(300, np.uint8)
    writes(small.ctypes.data, out.ctypes.data + 1)
    rows = out[1:193].reshape(16, 12)
    np.testing.assert_array_equal(rows[:, :4].copy().view(np.float32).reshape(-1), small)
    np.testing.assert_array_equal(rows[:, 4:6].copy().view(np.float16).reshape(-1), small.astype(np.float16))
    np.testing.assert_array_equal(rows[:, 6].view(np.int8), small.astype(np.int8))
    assert (out[193:195].copy().view(np.float16), out[195:199].copy().view(np.float32)) == (1.5, small[5])
    np.testing.assert_array_equal(out[199:263].copy().view(np.float32), small)


@jit
def move(source: np.ndarray, starts: np.ndarray, index: np.ndarray, out: np.ndarray, packed: np.ndarray) -> None:
    arrays.load_transposed(out, 1, source, starts, 2)
    arrays.load_octets(out, 17, source, 3)
    arrays.store(out, 25, arrays.gather(source, arrays.load(index, 0)))
    arrays.store(out, 26, arrays.load_splat(source, 77))
    arrays.store_transposed(packed, 1, 20, index, 0)
    arrays.store_word(packed, 321, np.uint16(0xABCD))


def test_arrays() -> None:
    source = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    starts = np.arange(16) * 23 % 300
    index = np.random.default_rng(3).integers(0, 400, 64, dtype=np.int32)
    out, packed = np.zeros(27 * 16, np.float32), np.zeros(323, np.uint8)
    move(source, starts, index, out, packed)
    rows = out.reshape(27, 16)
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[1:17], np.stack([source[s + 2 : s + 18] for s in starts], axis=1))
    np.testing.assert_array_equal(rows[17:25], source[3:131].reshape(16, 8).T)
    np.testing.assert_array_equal(rows[25], source[index[:16]])
    assert (rows[26] == source[77]).all()
    stored = packed[1:321].reshape(16, 20)
    np.testing.assert_array_equal(stored[:, :16].copy().view(np.int32), index.reshape(4, 16).T)
    assert not stored[:, 16:].any()
    assert packed[321:].tolist() == [0xCD, 0xAB]
