"""Ops against numpy, one by one, and the cache."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from gguflike.blocks import FORMATS
from gguflike.errors import UnsupportedError
from gguflike.kernels.args import EMBED, RMS_NORM, RMS_NORM_Q8, SILU_MUL, SILU_MUL_Q8
from gguflike.kernels.attention.args import ATTENTION, ATTENTION_ONE, MERGE, STORE_KV
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, ATTENTION_KEYS, attention_rows, part_bytes
from gguflike.kernels.engine.args import Own, Word, float_bits
from gguflike.kernels.engine.memory import ROW_TYPE, aligned
from gguflike.kernels.engine.program import Program, Team
from gguflike.runner.parts.attending import heads_together
from gguflike.runner.rope import Rotation
from gguflike.runner.state import KVCache, default_context, kv_bytes_per_position
from tests import naive_model


@pytest.fixture(scope="module")
def team() -> Team:
    return Team(2)


def at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def run(
    team: Team, name: str, args: tuple[Word, ...], items: int, per_tokens: int = 0, tokens: int = 1, position: int = 0
) -> None:
    program = Program()
    program.add(name, args, items=items, per_tokens=per_tokens)
    team.run(program.link(), tokens, position)


def dequantized(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return (codes.reshape(*scales.shape, 32) * scales[..., None].astype(np.float64)).reshape(codes.shape)


def check_quantized(codes: np.ndarray, scales: np.ndarray, sums: np.ndarray, want: np.ndarray) -> None:
    """int8 codes, float32 scales and int32 sums are those of the rule in matmul/integer.py."""
    largest = np.abs(want).reshape(*scales.shape, 32).max(-1)
    assert np.allclose(scales, largest / 127, rtol=2**-11, atol=0)
    assert not (scales.view(np.uint32) & 0x1FFF).any()
    step = np.repeat(scales, 32, axis=-1)
    assert (np.abs(dequantized(codes, scales) - want) <= 0.57 * step).all()
    assert np.array_equal(sums, codes.reshape(*sums.shape, 16).sum(-1, dtype=np.int32))


def test_what_threads_write_for_themselves_serves_one_stage() -> None:
    """A thread that finds nothing to do in a stage has not done its own ops either."""
    program, own = Program(), Own(4096, 256)
    program.add("first", (1, own), items=1, own=True)
    program.add("second", (Own(4096 + 128, 256),), items=4, barrier=False)
    with pytest.raises(RuntimeError, match=r"third reads what its threads have not written"):
        program.add("third", (own,), items=4)
    with pytest.raises(RuntimeError, match=r"fourth reads"):
        program.add("fourth", (Own(8192, 256),), items=4, barrier=False)


@pytest.mark.parametrize("columns", [32, 64, 96, 50])
def test_rms_norm(team: Team, columns: int) -> None:
    rng = np.random.default_rng(columns)
    x, weight = rng.standard_normal((5, columns), np.float32), rng.standard_normal(columns, np.float32)
    out = np.zeros_like(x)
    words = RMS_NORM.pack(x=at(x), columns=columns, weight=at(weight), eps=float_bits(1e-5), out=at(out))
    run(team, "ops:rms_norm", words, items=1, per_tokens=1, tokens=5)
    assert np.allclose(out, naive_model.rms_norm(x.astype(np.float64), weight, 1e-5), rtol=1e-6, atol=1e-7)


def test_rms_norm_quantized(team: Team) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((5, 96), np.float32), rng.standard_normal(96, np.float32)
    x[3, :64] = 0  # a block of zeros
    codes, scales, sums = np.ones((5, 96), np.int8), np.ones((5, 3), np.float32), np.ones((5, 6), np.int32)
    source = {"x": at(x), "columns": 96, "weight": at(weight), "eps": float_bits(1e-5)}
    words = RMS_NORM_Q8.pack(**source, codes=at(codes), scales=at(scales), sums=at(sums))
    run(team, "ops:rms_norm_q8", words, items=1, per_tokens=1, tokens=5)
    check_quantized(codes, scales, sums, naive_model.rms_norm(x.astype(np.float64), weight, 1e-5))


def test_silu_mul(team: Team) -> None:
    rng = np.random.default_rng(0)
    gate, up = (rng.standard_normal((3, 64), np.float32) * np.float32(20) for _ in range(2))
    gate[0, :6] = [0.0, -0.0, 1e4, -1e4, 88.0, -88.0]
    want = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64).clip(-700))) * up
    out = np.zeros_like(gate)
    run(team, "ops:silu_mul", SILU_MUL.pack(gate=at(gate), up=at(up), out=at(out)), items=2, per_tokens=1, tokens=3)
    assert np.allclose(out, want, rtol=1e-6, atol=1e-30)
    codes, scales, sums = np.zeros((3, 64), np.int8), np.zeros((3, 2), np.float32), np.zeros((3, 4), np.int32)
    words = SILU_MUL_Q8.pack(gate=at(gate), up=at(up), codes=at(codes), scales=at(scales), sums=at(sums))
    run(team, "ops:silu_mul_q8", words, items=2, per_tokens=1, tokens=3)
    check_quantized(codes, scales, sums, want)


@pytest.mark.parametrize("kind", ["norm", "neox"])
@pytest.mark.parametrize("n_rot", [64, 32])
def test_rotated_keys_and_values_are_stored(team: Team, kind: str, n_rot: int) -> None:
    kv_heads, dim, tokens, position = 2, 64, 21, 30
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((tokens, kv_heads, dim), np.float32) for _ in range(2))
    cos_sin, angles = rotation(kind, n_rot, position, tokens)
    [cache] = KVCache(kv_heads, dim, 64).in_slots(1)
    rotation_words = {"cos_sin": at(cos_sin), "n_rot": n_rot, "neox": kind == "neox"}
    shape = {"n_head_kv": kv_heads, "head_dim": dim, "context": 64}
    rows = one_run(tokens, position)
    words = STORE_KV.pack(**rotation_words, **cache.addresses(), **shape, rows=at(rows), k=at(k), v=at(v))
    run(team, "attention.rope:store_f16", words, items=1, per_tokens=1, tokens=tokens, position=position)
    keys = (
        cache._data[0].view(np.float16).reshape(kv_heads, 4, dim, 16).transpose(1, 3, 0, 2).reshape(64, kv_heads, dim)
    )
    values = cache._data[1].view(np.float16).reshape(kv_heads, 64, dim).transpose(1, 0, 2)
    seen = slice(position, position + tokens)
    assert np.allclose(keys[seen], naive_model.rotate(k.astype(np.float64), angles, kind), rtol=1e-3, atol=1e-6)
    assert np.array_equal(values[seen], v.astype(np.float16))
    assert not keys[:position].any()
    assert not values[position + tokens :].any()


def one_run(tokens: int, position: int) -> np.ndarray:
    """Rows of a pass of one sequence, in slot 0."""
    rows = np.zeros(tokens, ROW_TYPE)
    rows["position"], rows["run"] = np.arange(position, position + tokens), tokens
    return rows


def rotation(kind: str, n_rot: int, position: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines as ops read them, and the angles."""
    rope = Rotation(10000.0 ** (-np.arange(0, n_rot, 2) / n_rot), kind == "norm")
    cos_sin = np.zeros((position + tokens, 2, n_rot), np.float32)
    rope.fill_cos_sin(position, tokens, cos_sin[position:])
    return cos_sin, np.arange(position, position + tokens)[:, None] * rope.frequencies


def fill(cache: KVCache, keys: np.ndarray, values: np.ndarray) -> None:
    """Put keys and values (positions, kv_heads, dim) where the layout of state.py has them."""
    count, kv_heads, dim = keys.shape
    stored = cache._data[0].view(np.float16).reshape(kv_heads, -1, dim, 16)
    for position in range(count):
        stored[:, position // 16, :, position % 16] = keys[position]
    cache._data[1].view(np.float16).reshape(kv_heads, -1, dim)[:, :count] = values.transpose(1, 0, 2)


def attended(q: np.ndarray, keys: np.ndarray, values: np.ndarray, position: int) -> np.ndarray:
    """Causal attention by definition, for rotated queries (tokens, n_head, dim)."""
    tokens, n_head, dim = q.shape
    k, v = (np.repeat(each, n_head // keys.shape[1], axis=1).astype(np.float64) for each in (keys, values))
    scores = np.einsum("thd,shd->hts", q, k) * dim**-0.5
    scores[:, np.arange(len(keys)) > position + np.arange(tokens)[:, None]] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(
    ("group", "heads", "dim", "n_rot", "kind", "tokens", "position"),
    [
        (1, 1, 32, 32, "norm", 1, 0),
        (3, 3, 64, 64, "norm", 1, 140),
        (2, 2, 48, 32, "neox", 1, 383),
        (12, 6, 80, 64, "neox", 1, 128),
        (8, 8, 32, 32, "norm", 1, 250),
        (7, 7, 16, 16, "norm", 1, 127),
        (3, 3, 64, 64, "norm", 7, 300),
        (1, 1, 48, 32, "neox", 129, 0),
        (4, 4, 16, 16, "norm", 33, 31),
        (8, 4, 32, 32, "neox", 3, 250),
        (2, 2, 80, 80, "norm", 130, 5),
        (1, 1, 256, 256, "norm", 70, 100),
    ],
)
def test_attention(
    team: Team, group: int, heads: int, dim: int, n_rot: int, kind: str, tokens: int, position: int
) -> None:
    kv_heads, n_head, total = 2, 2 * group, position + tokens
    rng = np.random.default_rng(tokens)
    q = rng.standard_normal((tokens, n_head, dim), np.float32)
    keys, values = (rng.standard_normal((total, kv_heads, dim)).astype(np.float16) for _ in range(2))
    keys[0] *= 8  # a large score early on, so that later blocks do not raise the maximum
    [cache] = KVCache(kv_heads, dim, 448).in_slots(1)
    for data in cache._data:
        data.view(np.uint16)[:] = 0x7BFF  # what lies beyond the last position must not matter
    cos_sin, angles = rotation(kind, n_rot, position, tokens)
    flat = (tokens, n_head * dim)
    out, codes = np.full(flat, np.nan, np.float32), np.zeros(flat, np.int8)
    scales, sums = np.zeros((tokens, n_head * dim // 32), np.float32), np.zeros((tokens, n_head * dim // 16), np.int32)
    targets = [{"out": at(out), "codes": 0, "scales": 0, "sums": 0}]
    if dim % 32 == 0:
        targets.append({"out": 0, "codes": at(codes), "scales": at(scales), "sums": at(sums)})
    parts = np.zeros(4 * n_head * part_bytes(1, dim), np.uint8)
    k = rng.standard_normal((kv_heads, dim), np.float32)
    new = values[-1].astype(np.float32)
    if tokens == 1:
        keys[-1] = naive_model.rotate(k[None].astype(np.float64), angles, kind)[0]
        fill(cache, keys[:-1], values[:-1])
    else:
        fill(cache, keys, values)
    rows = one_run(tokens, position)
    queries = {
        **{"cos_sin": at(cos_sin), "n_rot": n_rot, "neox": kind == "neox", **cache.addresses()},
        **{"n_head_kv": kv_heads, "head_dim": dim, "context": cache.positions, "rows": at(rows)},
        **{"k": at(k), "v": at(new)},
        **{"q": at(q), "n_head": n_head, "heads": heads, "scale": float_bits(dim**-0.5)},
    }
    for target in targets:
        program = Program()
        if tokens == 1:
            name = f"attention.causal:f16_{heads}"
            words = ATTENTION_ONE.pack(**queries, parts=at(parts))
            program.add(name, words, items=n_head // heads, per_keys=ATTENTION_KEYS)
            words = MERGE.pack(parts=at(parts), heads=heads, n_head=n_head, head_dim=dim, **target)
            program.add("attention.causal:merge", words, items=n_head // heads)
        else:
            span = attention_rows(dim) // heads
            words = ATTENTION.pack(**queries, span=span, least=1, **target)
            program.add("attention.causal:f16", words, items=n_head // heads * span, per_tokens=span)
        team.run(program.link(), tokens, position)
    want = attended(naive_model.rotate(q.astype(np.float64), angles, kind), keys, values, position)
    assert np.allclose(out, want.reshape(flat), rtol=1e-4, atol=1e-4 if tokens == 1 else 1e-5)
    if dim % 32 == 0:
        check_quantized(codes, scales, sums, out.astype(np.float64))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q6_K"])
def test_embedding(team: Team, name: str) -> None:
    fmt = FORMATS[name]
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 60, (9, fmt.row_bytes(256)), np.uint8)  # bytes below 60 make small finite floats
    ids, out = np.array([8, 0, 3, 3], np.int32), np.zeros((4, 256), np.float32)
    matrix = {"rows": at(rows), "row_bytes": fmt.row_bytes(256), "blocks": 256 // fmt.block_size}
    words = EMBED.pack(ids=at(ids), **matrix, out=at(out), columns=256)
    run(team, f"by_type.embed:{name}", words, items=1, per_tokens=1, tokens=4)
    assert fmt.decode is not None
    want = fmt.decode(rows.reshape(-1).view(fmt.dtype)).reshape(9, 256)
    assert np.array_equal(out, want[ids])


# The cache


def test_cache_takes_memory_only_when_used() -> None:
    cache = KVCache(2, 64, 1000)
    assert cache.positions == 1024
    assert cache.nbytes == 2 * 2 * 64 * 1024 * 2
    small = KVCache(2, 64, 1000, "q8_0")
    assert small.nbytes == cache.nbytes * 17 // 32
    assert kv_bytes_per_position(2, 64, "q8_0") * 1024 == small.nbytes
    assert kv_bytes_per_position(2, 64, "f16") * 1024 == cache.nbytes
    with pytest.raises(UnsupportedError, match="cache_type: unknown value"):
        KVCache(1, 32, 32, "q3_0")
    with pytest.raises(UnsupportedError, match="head_dim a multiple of 32"):
        KVCache(1, 48, 32, "q8_0")


def test_default_context_fits_memory() -> None:
    assert default_context(2048, 1024) == 2048
    assert default_context(1 << 20, 1 << 40) == 512


def test_attention_takes_as_many_heads_as_it_can() -> None:
    for group in range(1, 65):
        divisors = [heads for heads in range(1, ATTENTION_HEADS + 1) if group % heads == 0]
        assert heads_together(group, ATTENTION_HEADS) == max(divisors)


def test_queries_of_an_item_fill_tiles() -> None:
    for dim in (16, 32, 64, 96, 128, 256, 512):
        assert attention_rows(dim) > 0
        assert all(attention_rows(dim) % rows == 0 for rows in (1, 2, 3, 4, 6))


def test_memory_begins_at_a_page() -> None:
    assert aligned(10, np.float32).ctypes.data % mmap.PAGESIZE == 0
