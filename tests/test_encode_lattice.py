"""Encoders of the lattice-codebook types: the nearest points, the error against ggml's, and rows that are hard."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import libgguf
import numpy as np
import numpy.typing as npt
import pytest

from gguflike import quantize
from gguflike.blocks import FORMATS, codebooks
from gguflike.kernels.encode.lattice import fields as bit_fields
from gguflike.kernels.encode.lattice.codebook import DIGITS, NUMBER_BIT, halve
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.vector.sizes import I16_LANES, LANES
from tests.measures import rmse

Floats = npt.NDArray[np.float32]

# Errors of ggml's encoders on the rows below: Gaussian rows, then heavy-tailed ones, each with equal importance (some
# types require one) and with the importance below. ``test_errors_of_ggml`` checks them against libgguf; its tables take
# seconds to set up.
GGML: dict[str, tuple[float, float, float, float]] = {
    "IQ1_S": (0.4767, 0.4633, 2.1222, 2.0613),
    "IQ1_M": (0.4457, 0.4224, 1.6869, 1.6290),
    "IQ2_XXS": (0.3439, 0.3264, 2.1764, 2.0559),
    "IQ2_XS": (0.2979, 0.2813, 1.8494, 1.7529),
    "IQ2_S": (0.2494, 0.2423, 1.7268, 1.6638),
    "IQ3_XXS": (0.1792, 0.1694, 0.9646, 0.9100),
    "IQ3_S": (0.1342, 0.1287, 0.8070, 0.7702),
}
# How far below ggml's error the error on Gaussian rows must be, without importance and with it.
CLEARLY = {
    "IQ1_S": (0.93, 0.93),
    "IQ1_M": (0.93, 0.93),
    "IQ2_XXS": (0.96, 0.95),
    "IQ2_XS": (0.96, 0.94),
    "IQ2_S": (0.97, 0.955),
    "IQ3_XXS": (0.98, 0.98),
    "IQ3_S": (0.965, 0.94),
}


def decode(blocks: npt.NDArray[np.uint8], name: str) -> Floats:
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])


def encode(x: Floats, name: str, **options: object) -> Floats:
    """Encoded by us, decoded by the gguf package."""
    return decode(quantize(x, name, threads=1, **options).rows, name)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rows() -> Floats:
    """Gaussian rows."""
    return np.random.default_rng(5).standard_normal((4, 1024)).astype(np.float32)


@pytest.fixture(scope="module")
def heavy() -> Floats:
    """Rows with many outliers, and off zero."""
    x = np.random.default_rng(7).standard_normal((4, 1024)).astype(np.float32) ** 3
    x[2:] += 0.5
    return x


@pytest.fixture(scope="module")
def importance() -> Floats:
    return (np.random.default_rng(6).random(1024) + 0.05).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", LATTICES)
def test_errors_of_ggml(name: str, rows: Floats, heavy: Floats, importance: Floats) -> None:
    equal = np.ones(1024, np.float32)
    for x, weights, expected in zip((rows, rows, heavy, heavy), (equal, importance) * 2, GGML[name], strict=True):
        theirs = decode(libgguf.quantize_rows(x, FORMATS[name].id, weights), name)
        assert rmse(x, theirs, weights) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("name", LATTICES)
def test_error_is_clearly_below_ggml(name: str, rows: Floats, importance: Floats) -> None:
    plain, weighted = CLEARLY[name]
    assert rmse(rows, encode(rows, name)) < plain * GGML[name][0]
    assert rmse(rows, encode(rows, name, importance=importance), importance) < weighted * GGML[name][1]


@pytest.mark.parametrize("name", LATTICES)
def test_error_is_never_above_ggml_or_absmax(name: str, heavy: Floats, importance: Floats) -> None:
    for weights, theirs in ((None, GGML[name][2]), (importance, GGML[name][3])):
        ours = rmse(heavy, encode(heavy, name, importance=weights), weights)
        assert ours <= rmse(heavy, encode(heavy, name, importance=weights, method="absmax"), weights)
        assert ours <= theirs


def assert_never_worse(x: Floats, name: str) -> Floats:
    """Finite, and no block of the search has a larger error than by absmax; returns what was decoded."""
    ours, plain = encode(x, name), encode(x, name, method="absmax")
    assert np.isfinite(ours).all()
    assert np.isfinite(plain).all()
    errors = [((x - y).astype(np.float64) ** 2).reshape(-1, 256).sum(axis=1) for y in (ours, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    return ours


@pytest.mark.parametrize("name", LATTICES)
def test_hard_blocks(name: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((8, 512)).astype(np.float32)
    x[0] = 0
    x[1] = -0.75
    x[2, ::97] *= 1e4
    x[3] *= 1e-41
    x[4] *= 1e9
    x[5, :256] = 0
    x[6, 32:] = 0
    x[7] *= 1e37
    ours = assert_never_worse(x, name)
    assert (ours[0] == 0).all()
    assert (ours[5, :256] == 0).all()
    # 1e9 and 1e37 are beyond the scales of the type: everything saturates, with the right sign
    assert (np.sign(ours[7]) == np.sign(x[7])).mean() > 0.9


@pytest.mark.parametrize("name", LATTICES)
def test_scales_of_float16_at_its_ends(name: str) -> None:
    x = np.random.default_rng(4).standard_normal((1, 256)).astype(np.float32)
    assert rmse(x, assert_never_worse(x * np.float32(3e-6), name) / np.float32(3e-6)) < 0.6
    assert rmse(x, assert_never_worse(x * np.float32(5e4), name) / np.float32(5e4)) < 0.6
    assert_never_worse(x * np.float32(1e-8), name)
    assert_never_worse(x * np.float32(1e7), name)


@pytest.mark.parametrize("name", LATTICES)
def test_importance_of_any_size(name: str, rows: Floats, importance: Floats) -> None:
    ours = quantize(rows, name, importance=importance, threads=1).data
    for factor in (np.float32(2.0**60), np.float32(2.0**-60)):
        scaled = quantize(rows, name, importance=importance * factor, threads=1).data
        np.testing.assert_array_equal(scaled, ours)
    nothing = quantize(rows, name, importance=np.zeros(1024), threads=1)
    np.testing.assert_array_equal(nothing.data, quantize(rows, name, threads=1).data)
    half = np.repeat(np.array([0, 1], np.float32), 512)  # whole blocks, and within blocks
    half[512::3] = 0
    assert np.isfinite(encode(rows, name, importance=half)).all()
    assert rmse(rows, encode(rows, name, importance=half), half) < rmse(rows, encode(rows, name), half)


@pytest.mark.parametrize("name", LATTICES)
def test_same_bytes_at_any_thread_count(name: str, importance: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguflike.kernels.encode.lattice.codec._LEAST_WEIGHTS", 1)
    x = np.random.default_rng(9).standard_normal((7, 1024)).astype(np.float32)
    one = quantize(x, name, importance=importance, threads=1).data
    np.testing.assert_array_equal(quantize(x, name, importance=importance, threads=3).data, one)
    np.testing.assert_array_equal(quantize(x[3:4], name, importance=importance).rows[0], one.reshape(7, -1)[3])


@pytest.mark.parametrize("name", ["IQ2_S", "IQ3_S", "IQ1_M"])
def test_points_are_the_nearest(name: str, rows: Floats, importance: Floats) -> None:
    """No other codebook point (and delta) is nearer at the scales that were chosen (types with free signs).

    But for what rounding scores to 1/30000 costs, and the shortcuts of repair.py for IQ1.
    """
    lattice = LATTICES[name]
    grid = lattice.grid().astype(np.float64)
    dim = grid.shape[1]
    for method in ("absmax", "search"):
        y = encode(rows, name, importance=importance, method=method)
        x, w = rows.astype(np.float64).reshape(-1, dim), np.tile(importance, 4).reshape(-1, dim)
        chosen = (w * (x - y.reshape(-1, dim)) ** 2).sum(axis=1)
        candidates = np.concatenate([grid + delta for delta in lattice.deltas])
        d = lattice.factor * scales(quantize(rows, name, importance=importance, method=method, threads=1), name, dim)
        if lattice.deltas == (0.0,):
            x = np.abs(x)
        best = (w[:, None] * (x[:, None] - d[:, None, None] * candidates) ** 2).sum(axis=2).min(axis=1)
        # The search may keep points of a neighbouring scale that are as good for the sub-block; absmax may not.
        tolerance = 0.02 if method == "search" else 0.005 if name == "IQ1_M" else 1e-4
        assert chosen.sum() <= best.sum() * (1 + tolerance)


def scales(tensor: object, name: str, dim: int) -> npt.NDArray[np.float64]:
    """d * (2 k + 1) of every group, read from the blocks."""
    blocks = tensor.blocks  # type: ignore[attr-defined]
    if name == "IQ1_M":
        words = blocks["scales"].view("<u2").reshape(-1, 4)
        d = ((words >> 12) << np.arange(0, 16, 4, dtype=np.uint16)).sum(axis=1).astype(np.uint16).view(np.float16)
        k = ((words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7).reshape(len(blocks), -1)
    else:
        d = blocks["d"]
        k = np.stack([blocks["scales"] & 15, blocks["scales"] >> 4], axis=-1).reshape(len(blocks), -1)
    step = d.astype(np.float64)[:, None] * (2 * k.astype(np.float64) + 1)
    return np.repeat(step, 256 // dim // k.shape[1], axis=1).reshape(-1)


GRIDS = [codebooks.iq2_xxs, codebooks.iq2_s, codebooks.iq3_s, codebooks.iq1]


@pytest.mark.parametrize("grid", GRIDS)
def test_halves_make_up_the_codebook(grid: Callable[[], npt.NDArray[np.int8]]) -> None:
    points = grid()
    book = halve(points)
    half = len(book.levels[0]) ** (points.shape[1] // 2)
    stands_for = [{second} for second in range(half)]  # second halves behind each place
    for pair in book.pairs // I16_LANES:
        stands_for.append(stands_for[pair[0]] | stands_for[pair[1]])
    found, m = [], 0
    for first, twos in book.firsts:
        members = set(book.members[m : m + 2 * twos] // I16_LANES)
        found += [first + half * second for place in members for second in stands_for[place]]
        m += 2 * twos
    assert m == len(book.members)
    assert sorted(found) == np.flatnonzero(book.words >= 0).tolist()
    assert len(found) == len(points)


@pytest.mark.parametrize("grid", GRIDS)
def test_words_name_the_points(grid: Callable[[], npt.NDArray[np.int8]]) -> None:
    points = grid()
    book, dim = halve(points), points.shape[1]
    base = len(book.levels[0])
    width = 16 // dim
    for number in (0, 1, len(points) // 2, len(points) - 1):
        digits = np.searchsorted(book.levels[0], points[number])
        word = book.words[digits @ base ** np.arange(dim)]
        assert word >> NUMBER_BIT == number
        assert (book.levels[0][(word & DIGITS) >> width * np.arange(dim) & (1 << width) - 1] == points[number]).all()
    lost = np.flatnonzero(book.words < 0)[::97]
    vectors = book.levels[0][lost[:, None] // base ** np.arange(dim) % base]
    distance = ((vectors[:, None] - points) ** 2).sum(axis=2)
    stands_in = ~book.words[lost] >> NUMBER_BIT
    assert (distance[np.arange(len(lost)), stands_in] == distance.min(axis=1)).all()


def test_moves_lead_to_points() -> None:
    book = halve(codebooks.iq1())
    for number in np.flatnonzero(book.words < 0)[::13]:
        for i in range(8):
            digit = number // 3**i % 3
            raised = digit < 2 and book.words[number + 3**i] >= 0
            lowered = digit > 0 and book.words[number - 3**i] >= 0
            assert (book.moves[number] >> i & 1, book.moves[number] >> i + 8 & 1) == (raised, lowered)


@pytest.mark.parametrize("name", LATTICES)
def test_quads_hold_the_bits_of_their_fields(name: str) -> None:
    symbols = bit_fields.Symbols(LATTICES[name].grid().shape[1], LATTICES[name].size)
    fields = LATTICES[name].fields(symbols)
    joined, quads = bit_fields.join_quads(fields, symbols.vectors)
    values = np.random.default_rng(8).integers(0, 1 << 31, symbols.vectors * LANES).tolist()
    for vector, right, width in quads.tolist():
        cut = [value >> right & (1 << width) - 1 for value in values[vector * LANES : (vector + 2) * LANES]]
        values += [sum(cut[4 * i + j] << width * j for j in range(4)) for i in range(8)] + [0] * 8

    def packed(fields: list[bit_fields.Field]) -> int:
        whole, bit = 0, 0
        for symbol, right, width in fields:
            whole |= (values[symbol] >> right & (1 << width) - 1) << bit
            bit += width
        return whole

    assert len(joined) < len(fields)
    assert packed(joined) == packed(fields)


def test_fields_fill_their_block() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        bit_fields.plan_bits([(0, 0, 16)], 4)
