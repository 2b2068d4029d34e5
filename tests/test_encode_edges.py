"""Encoders on blocks that no real tensor should hold: scales stay finite, and search is never worse than absmax."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflike
from gguflike.blocks import FORMATS
from gguflike.errors import QuantizationError
from gguflike.kernels import dispatch

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

NAMES = (
    "Q8_0", "Q8_1", "Q8_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0",
)  # fmt: skip
ROW = 256
RNG = np.random.default_rng(11)
NOISE = RNG.standard_normal(ROW).astype(np.float32)


def _with(base: Floats, **places: float) -> Floats:
    row = base.copy()
    for place, value in places.items():
        row[int(place[1:])] = value
    return row


ROWS = {
    "zeros": np.zeros(ROW, np.float32),
    "constant": np.full(ROW, 0.37, np.float32),
    "negative constant": np.full(ROW, -0.37, np.float32),
    "far from zero": (NOISE * 1e-3 + 5).astype(np.float32),
    "all negative": -np.abs(NOISE),
    "one value": _with(np.zeros(ROW, np.float32), _17=0.5),
    "outlier": _with(NOISE * np.float32(0.02), _40=200.0, _200=-200.0),
    "outlier per block": np.where(np.arange(ROW) % 16 == 3, np.float32(1e4), NOISE),
    "denormal": NOISE * np.float32(1e-40),
    "below float16": NOISE * np.float32(3e-8),
    "at float16's end": NOISE * np.float32(1e-6),
    "scale overflows float16": NOISE * np.float32(1e8),
    "largest": np.where(NOISE > 0, np.finfo(np.float32).max, np.finfo(np.float32).min).astype(np.float32),
    "largest and small": _with(NOISE, _0=3e38),
    "two levels": np.where(NOISE > 0, np.float32(0.1), np.float32(-0.3)),
    "already on a grid": (np.rint(NOISE * 2) / 16).astype(np.float32),
    "half zero": np.where(np.arange(ROW) < 128, np.float32(0), NOISE),
}
X = np.stack(list(ROWS.values()))
WEIGHTS = {
    "none": None,
    "random": (RNG.random(ROW) + 0.05).astype(np.float32),
    "zero": np.zeros(ROW, np.float32),
    "mostly zero": np.where(np.arange(ROW) % 50 == 0, np.float32(1), np.float32(0)),
    "wide": (10.0 ** RNG.uniform(-30, 30, ROW)).astype(np.float32),
}


def encode(x: Floats, name: str, weights: Floats | None, method: str = "search", threads: int = 1) -> Bytes:
    fmt = FORMATS[name]
    out = np.empty((len(x), fmt.row_bytes(x.shape[1])), np.uint8)
    dispatch.encoder(fmt)(x, out, weights, method, threads)
    return out


def decode(blocks: Bytes, name: str) -> npt.NDArray[np.float64]:
    """By the gguf package where it knows the type, else by the decoding rule."""
    parts = blocks.reshape(-1).view(FORMATS[name].dtype)
    if name in ("Q8_1", "Q8_K"):
        values = parts["d"].astype(np.float64)[:, None] * parts["qs"]
    elif name in ("Q1_0", "Q2_0"):
        width, low = {"Q1_0": (1, -1), "Q2_0": (2, -1)}[name]
        codes = parts["qs"][:, :, None] >> np.arange(0, 8, width, dtype=np.uint8) & ((1 << width) - 1)
        levels = codes.reshape(len(parts), -1).astype(np.float64)
        values = parts["d"].astype(np.float64)[:, None] * (levels * 2 - 1 if name == "Q1_0" else levels + low)
    else:
        values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float64)
    return values.reshape(len(blocks), -1)


def assert_scales_finite(blocks: Bytes, name: str) -> None:
    parts = blocks.reshape(-1).view(FORMATS[name].dtype)
    for field in FORMATS[name].fields:
        if field.role in ("scale", "min") and field.dtype.startswith("<f"):
            assert np.isfinite(parts[field.name]).all(), field.name
    if name == "MXFP4":
        assert (parts["e"] < 253).all()
    if name == "NVFP4":
        assert (parts["d"] < 127).all()


def squared_errors(
    x: Floats, y: npt.NDArray[np.float64], weights: Floats | None, block: int
) -> npt.NDArray[np.float64]:
    """Weighted squared error of each block, (rows, blocks)."""
    w = np.ones(x.shape[1]) if weights is None else weights.astype(np.float64)
    scale = np.abs(x).max(axis=1, keepdims=True).astype(np.float64) + 1e-300  # 1e38 squared does fit, its sum may not
    return (((x - y) / scale) ** 2 * w).reshape(len(x), -1, block).sum(axis=2)


def assert_no_worse(x: Floats, name: str, weights: Floats | None) -> None:
    """Search against absmax, per row: never worse, but for what float32 sums cannot tell apart."""
    found = squared_errors(x, decode(encode(x, name, weights), name), weights, FORMATS[name].block_size)
    plain = squared_errors(x, decode(encode(x, name, weights, "absmax"), name), weights, FORMATS[name].block_size)
    total = 1.0 if weights is None else float(weights.sum(dtype=np.float64))
    assert (found <= plain * (1 + 1e-5) + total * 1e-12).all(), (found / plain).max()


@pytest.mark.parametrize("method", ["search", "absmax"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("name", NAMES)
def test_scales_and_values_are_finite(name: str, weights: Floats | None, method: str) -> None:
    blocks = encode(X, name, weights, method)
    assert_scales_finite(blocks, name)
    assert np.isfinite(decode(blocks, name)).all()


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("name", NAMES)
def test_search_is_never_worse_than_absmax(name: str, weights: Floats | None) -> None:
    assert_no_worse(X, name, weights)


@pytest.mark.parametrize("name", NAMES)
def test_zero_blocks_stay_zero(name: str) -> None:
    for method in ("search", "absmax"):
        assert not decode(encode(X[:1], name, None, method), name).any()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-12, 12),
    power=st.sampled_from([1, 3]),
    offset=st.sampled_from([0.0, 1.0, -4.0]),
    sparse=st.booleans(),
    weighted=st.booleans(),
)
def test_search_is_never_worse_than_absmax_on_anything(
    seed: int, exponent: int, power: int, offset: float, sparse: bool, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, 512)) ** power + offset) * 10.0**exponent
    x = np.where(sparse & (rng.random(x.shape) < 0.9), 0, x).astype(np.float32)
    weights = rng.random(512).astype(np.float32) if weighted else None
    for name in NAMES:
        assert_no_worse(x, name, weights)


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_for_any_thread_count_and_split(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows end inside a group of sixteen blocks, and one row at a time gives the same blocks as all."""
    monkeypatch.setattr("gguflike.kernels.encode.LEAST_WEIGHTS", 1)
    x = np.random.default_rng(3).standard_normal((37, 768)).astype(np.float32)
    weights = (np.random.default_rng(4).random(768) + 0.1).astype(np.float32)
    for given_weights in (None, weights):
        one = encode(x, name, given_weights, threads=1)
        np.testing.assert_array_equal(encode(x, name, given_weights, threads=5), one)
        apart = np.concatenate([encode(x[r : r + 1], name, given_weights) for r in range(len(x))])
        np.testing.assert_array_equal(apart, one)


@pytest.mark.parametrize("name", NAMES)
def test_halves_give_the_bytes_of_their_float32(name: str) -> None:
    """Also in part of a group of sixteen blocks; what is not finite, or too large, is noticed wherever it stands."""
    fmt, rng = FORMATS[name], np.random.default_rng(6)
    x = rng.standard_normal((19, 768)) * 10.0 ** rng.integers(-8, 5, (19, 1))
    weights = (rng.random(768) + 0.1).astype(np.float32)
    halves = x.astype(np.float16)
    bits = np.ascontiguousarray(x.astype("<f4").view("<u2")[:, 1::2])
    wide = {"F16": halves.astype(np.float32), "BF16": (bits.astype(np.uint32) << 16).view(np.float32)}
    for stored, given_weights in ((halves, None), (bits, None), (halves, weights)):
        values = wide["F16" if stored is halves else "BF16"]
        out = np.empty((len(x), fmt.row_bytes(768)), np.uint8)
        encoder = dispatch.encoder(fmt)
        assert encoder(stored, out, given_weights, "search", 2, fmt.limit)
        np.testing.assert_array_equal(out, encode(values, name, given_weights))
        for row, column, value in ((0, 0, np.nan), (18, 767, -np.inf), (7, 40, 1e6)):
            bad = values.copy()
            bad[row, column] = value
            with np.errstate(over="ignore"):
                again = bad.astype(np.float16) if stored is halves else bad.view("<u2")[:, 1::2].copy()
            assert not encoder(again, out, given_weights, "search", 2, fmt.limit)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("blocks", [1, 3, 17])
def test_any_number_of_blocks_in_a_row(name: str, blocks: int) -> None:
    size = FORMATS[name].block_size
    x = np.random.default_rng(8).standard_normal((1, size * blocks)).astype(np.float32)
    weights = (np.random.default_rng(9).random(size * blocks) + 0.1).astype(np.float32)
    whole = encode(x, name, weights)
    assert squared_errors(x, decode(whole, name), None, size).sum() < squared_errors(x, 0 * x, None, size).sum()


def test_non_finite_input_is_refused_by_position() -> None:
    x = np.zeros((2, 64), np.float32)
    x[1, 33] = np.nan
    with pytest.raises(QuantizationError, match=r"\(1, 33\)"):
        gguflike.quantize(x, "Q4_0")


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q5_K"])
def test_an_outlier_costs_the_others_no_more_than_their_mean(name: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((64, 256)).astype(np.float32)
    weights = (rng.random(256) + 0.05).astype(np.float32)
    beyond = np.arange(256) == rng.integers(256, size=(64, 1))
    parts = x.astype(np.float64).reshape(-1, 16 if name == "Q2_K" else 32)
    others = np.where(beyond, 0, weights.astype(np.float64)).reshape(parts.shape)
    mean = np.average(parts, axis=1, weights=others)[:, None]
    x[beyond] = 1e4
    error = (weights * (x - decode(encode(x, name, weights), name)) ** 2).sum()
    assert error <= (1.08 if name == "Q2_K" else 1.04) * (others * (parts - mean) ** 2).sum()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("at", [(0, 0), (700, 31), (1200, 1023)])
def test_the_first_value_that_is_not_finite_is_named(at: tuple[int, int], threads: int) -> None:
    x = np.full((1201, 1024), 3e38, np.float32)  # several parts of what is checked together; sums would overflow
    assert gguflike.quantize(x, "Q8_0", threads=threads).shape == x.shape
    x[1200, 1023] = np.inf
    x[at] = np.nan
    with pytest.raises(QuantizationError, match=rf"not finite; got nan at index \({at[0]}, {at[1]}\)"):
        gguflike.quantize(x, "Q8_0", threads=threads)
