"""Encoders of the scalar-codebook types: absmax byte for byte, searched error against ggml and the optimum."""

from __future__ import annotations

import gguf
import libgguf
import numpy as np
import numpy.typing as npt
import pytest

from gguflike.blocks import FORMATS
from gguflike.kernels import dispatch
from gguflike.kernels.encode.lattice.codec import LATTICES
from tests.measures import rmse

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

ABSMAX = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")  # what the gguf package encodes
SEARCHED = (*ABSMAX, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "NVFP4", "Q1_0")
ALONE = ("Q8_1", "Q8_K", "Q2_0")  # neither gguf nor libgguf encodes them
# Clearly below ggml, which leaves room here: the largest ratio of errors, without and with importance.
CLEARLY = {
    "TQ1_0": (0.6, 0.6),
    "TQ2_0": (0.6, 0.6),
    "Q2_K": (0.9, 0.98),
    "Q3_K": (0.97, 0.995),
    "Q4_0": (0.96, 0.995),
    "Q4_1": (0.92, 0.99),
    "Q5_0": (0.96, 0.995),
    "Q5_1": (0.92, 0.99),
    "Q8_0": (0.9, 0.9),
    "MXFP4": (0.98, 0.98),
    "NVFP4": (0.92, 0.92),
    "IQ4_NL": (0.98, 0.98),
}


def encode(x: Floats, name: str, weights: Floats | None = None, method: str = "search", threads: int = 1) -> Bytes:
    fmt = FORMATS[name]
    out = np.empty((len(x), fmt.row_bytes(x.shape[1])), np.uint8)
    dispatch.encoder(fmt)(x, out, weights, method, threads)
    return out


def decode(blocks: Bytes, name: str) -> Floats:
    if name == "Q1_0":  # not in the gguf package
        return libgguf.dequantize_rows(blocks, FORMATS[name].id)
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])


@pytest.fixture(scope="module")
def rows() -> Floats:
    """Gaussian rows."""
    return np.random.default_rng(5).standard_normal((12, 1024)).astype(np.float32)


@pytest.fixture(scope="module")
def heavy() -> Floats:
    """Rows with many outliers, and off zero."""
    x = np.random.default_rng(7).standard_normal((8, 1024)).astype(np.float32) ** 3
    x[4:] += 0.5
    return x


@pytest.fixture(scope="module")
def importance() -> Floats:
    return (np.random.default_rng(6).random(1024) + 0.05).astype(np.float32)


@pytest.mark.parametrize("name", ABSMAX)
def test_absmax_is_what_gguf_makes_byte_for_byte(name: str, rows: Floats) -> None:
    x = rows * np.float32(0.02)
    x[0, :256] = 0  # a zero block of every type
    x[1, :256] = 0.25  # a constant one
    x[2, :256] = np.tile([1.0, -1.0, 0.5, -0.5], 64)  # ties, and the extreme twice
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(encode(x, name, method="absmax"), expected)


def test_every_type_with_blocks_is_compared() -> None:
    compared = {*SEARCHED, *LATTICES, *ALONE}
    missing = {name for name, fmt in FORMATS.items() if fmt.is_quantized} - compared
    assert not missing, f"SEARCHED (what ggml's encoders are asked for) or ALONE lacks {missing}"


@pytest.mark.parametrize("name", ["Q1_0", "NVFP4"])
def test_absmax_is_ggmls_rule_where_the_package_has_none(name: str, rows: Floats) -> None:
    np.testing.assert_array_equal(encode(rows, name, method="absmax"), libgguf.quantize_rows(rows, FORMATS[name].id))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SEARCHED)
def test_search_errs_no_more_than_ggml(name: str, weighted: bool, rows: Floats, importance: Floats) -> None:
    weights = importance if weighted else None
    ours = rmse(rows, decode(encode(rows, name, weights), name), weights)
    ggml = rmse(rows, decode(libgguf.quantize_rows(rows, FORMATS[name].id, weights), name), weights)
    absmax = rmse(rows, decode(encode(rows, name, weights, "absmax"), name), weights)
    assert ours <= ggml * CLEARLY.get(name, (1, 1))[weighted]
    assert ours <= absmax


@pytest.mark.parametrize("name", SEARCHED)
def test_search_errs_no_more_than_ggml_on_outliers(name: str, heavy: Floats, importance: Floats) -> None:
    for weights in (None, importance):
        ours = rmse(heavy, decode(encode(heavy, name, weights), name), weights)
        ggml = rmse(heavy, decode(libgguf.quantize_rows(heavy, FORMATS[name].id, weights), name), weights)
        assert ours <= ggml * (1 + 1e-6)


@pytest.mark.parametrize(("name", "ratio"), [("Q2_K", 0.5), ("Q4_K", 0.21), ("Q5_K", 0.118)])
def test_search_tells_errors_apart_that_are_tiny_beside_the_values(name: str, ratio: float) -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((32, 1024)).astype(np.float32)
    x = np.where(rng.random(x.shape) < 1 / 32, np.copysign(np.float32(1e4), x), x)
    ours = rmse(x, decode(encode(x, name), name))
    ggml = rmse(x, decode(libgguf.quantize_rows(x, FORMATS[name].id), name))
    assert ours <= ggml * ratio


@pytest.mark.parametrize("name", SEARCHED)
def test_importance_lowers_the_error_that_it_weighs(name: str, rows: Floats, importance: Floats) -> None:
    heeded = rmse(rows, decode(encode(rows, name, importance), name), importance)
    ignored = rmse(rows, decode(encode(rows, name), name), importance)
    assert heeded < ignored or name == "MXFP4"  # few exponents to choose from
    assert heeded <= ignored


def best_ternary(x: npt.NDArray[np.float64], w: npt.NDArray[np.float64]) -> float:
    """Least weighted squared error of codes -1, 0, 1 and any scale, by trying every number of nonzero codes."""
    order = np.argsort(-np.abs(x))
    wx, ww = np.cumsum((w * np.abs(x))[order]), np.cumsum(w[order])
    return float((w * x * x).sum() - (wx**2 / ww).max())


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
@pytest.mark.parametrize("weighted", [False, True])
def test_ternary_is_the_optimum(name: str, weighted: bool, heavy: Floats, importance: Floats) -> None:
    rows = heavy
    w = importance.astype(np.float64) if weighted else np.ones(1024)
    y = decode(encode(rows, name, importance if weighted else None), name)
    x = rows.astype(np.float64)
    found = ((x - y) ** 2 * w).reshape(len(x), -1, 256).sum(axis=2)
    least = [[best_ternary(x[r, b : b + 256], w[b : b + 256]) for b in range(0, 1024, 256)] for r in range(len(x))]
    np.testing.assert_allclose(found, least, rtol=1e-6)  # the scale is rounded to float16


@pytest.mark.parametrize("weighted", [False, True])
def test_mxfp4_exponent_is_the_optimum(weighted: bool, heavy: Floats, importance: Floats) -> None:
    rows = heavy
    weights = importance if weighted else np.ones(1024, np.float32)
    x = rows.reshape(-1, 32).astype(np.float64)
    w = np.tile(weights, len(rows)).reshape(-1, 32)
    levels = np.array([0, 1, 2, 3, 4, 6, 8, 12]) / 2
    levels = np.concatenate([-levels, levels])
    least = np.full(len(x), np.inf)
    for exponent in range(-12, 6):
        grid = levels * 2.0**exponent
        errors = np.abs(x[:, :, None] - grid).min(axis=2) ** 2
        least = np.minimum(least, (errors * w).sum(axis=1))
    y = decode(encode(rows, "MXFP4", importance if weighted else None), "MXFP4").reshape(-1, 32)
    np.testing.assert_allclose(((x - y) ** 2 * w).sum(axis=1), least, rtol=1e-5)


def test_nvfp4_scale_is_the_optimum(rows: Floats, heavy: Floats) -> None:
    rows = np.concatenate([rows, heavy])
    x = rows.reshape(-1, 16).astype(np.float64)
    levels = np.array([0, 1, 2, 3, 4, 6, 8, 12]) / 2
    levels = np.concatenate([-levels, levels])
    scales = [m * 2.0**-9 for m in range(8)] + [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    least = np.full(len(x), np.inf)
    for scale in scales[:-1]:  # the last code is NaN
        least = np.minimum(least, (np.abs(x[:, :, None] - levels * scale).min(axis=2) ** 2).sum(axis=1))
    y = decode(encode(rows, "NVFP4"), "NVFP4").reshape(-1, 16)
    np.testing.assert_allclose(((x - y) ** 2).sum(axis=1), least, rtol=1e-5)


@pytest.mark.parametrize(("name", "lo", "hi"), [("Q4_0", -8, 7), ("Q5_0", -16, 15), ("Q8_0", -127, 127)])
def test_scale_search_comes_close_to_the_optimum(name: str, lo: int, hi: int, rows: Floats) -> None:
    x = rows[:2].reshape(-1, 32).astype(np.float64)
    top = np.abs(x).max(axis=1, keepdims=True)
    least = np.full(len(x), np.inf)
    for factor in np.concatenate([np.linspace(0.6, 1.4, 1500), -np.linspace(0.6, 1.4, 1500)]):
        d = top / max(-lo, hi) * factor
        q = np.clip(np.rint(x / d), lo, hi)
        least = np.minimum(
            least, (x * x).sum(axis=1) - (x * q).sum(axis=1) ** 2 / np.maximum((q * q).sum(axis=1), 1e-9)
        )
    y = decode(encode(rows[:2], name), name).reshape(-1, 32)
    found = ((x - y) ** 2).sum(axis=1)
    # Without importance the search is as short as ggml's absmax rule takes (see scale.py), so it may miss a little.
    assert least.sum() * (1 - 1e-4) <= found.sum() <= least.sum() * {"Q4_0": 1.02, "Q5_0": 1.03, "Q8_0": 1.1}[name]


@pytest.mark.parametrize("name", ALONE)
def test_types_that_no_oracle_encodes(name: str, rows: Floats, importance: Floats) -> None:
    """Against the decoding rule: value = d * code, with the sums that the activation types carry."""
    limit = {"Q8_1": 0.0062, "Q8_K": 0.012, "Q2_0": 0.45}[name]
    fmt = FORMATS[name]
    for weights in (None, importance):
        for method, factor in (("search", 1.0), ("absmax", 2.2)):
            blocks = encode(rows, name, weights, method).reshape(-1).view(fmt.dtype)
            d = blocks["d"].astype(np.float64)[:, None]
            if name == "Q2_0":
                codes = (blocks["qs"][:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(
                    len(blocks), 64
                ) - 1.0
            else:
                codes = blocks["qs"].astype(np.float64)
            error = rmse(rows, (d * codes).reshape(rows.shape).astype(np.float32), weights)
            assert error < limit * factor * float(np.sqrt((rows**2).mean()))
            if name == "Q8_1":
                np.testing.assert_allclose(
                    blocks["s"].astype(np.float64), d[:, 0] * codes.sum(axis=1), rtol=2e-3, atol=2e-3
                )
            if name == "Q8_K":
                np.testing.assert_array_equal(blocks["bsums"], codes.reshape(-1, 16, 16).sum(axis=2))


def test_floats_are_converted_as_numpy_converts_them(rows: Floats) -> None:
    x = np.concatenate([rows.reshape(-1), np.float32([65519, 1e-7, -6e-8, 1e-40, 3e38, -3e38, 0.0, -0.0])])[None]
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    np.testing.assert_array_equal(encode(x, "F16", method="absmax").view(np.float16), half)
    saturated = np.nan_to_num(half, posinf=65504, neginf=-65504)
    np.testing.assert_array_equal(encode(x, "F16").view(np.float16), saturated)
    bf16 = gguf.quants.quantize(x, gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(encode(x, "BF16", method="absmax"), bf16)
    np.testing.assert_array_equal(encode(x, "BF16"), bf16)
    np.testing.assert_array_equal(encode(x, "F32").view(np.float32), x)
    np.testing.assert_array_equal(encode(x, "F64").view(np.float64), x.astype(np.float64))


def test_bf16_saturates_instead_of_overflowing() -> None:
    x = np.array([[np.finfo(np.float32).max, -np.finfo(np.float32).max]], np.float32)
    np.testing.assert_array_equal(encode(x, "BF16").view(np.uint16), [[0x7F7F, 0xFF7F]])


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_integers_are_rounded_and_saturate(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.array([[0.5, 1.5, -2.5, 100.4, 3e38, -3e38]], np.float32)
    stored = encode(x, f"I{info.bits}").view(dtype)
    np.testing.assert_array_equal(stored[0, :4], [0, 2, -2, 100])
    assert info.max - stored[0, 4] <= info.max // 2**23  # the largest float32 within the type
    assert stored[0, 5] == info.min
