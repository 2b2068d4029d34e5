"""The table of block types, the reference decoders and the codebooks, against gguf and ggml."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from gguflike.blocks import FORMATS, BlockFormat, codebooks, format_by_id, format_by_name
from gguflike.errors import QuantizationError, UnsupportedError
from tests.block_samples import (
    ALL,
    VECTOR_SHAPE,
    VECTORS,
    WITH_VECTORS,
    assert_same_bits,
    edge_rows,
    encoded_rows,
    ids,
    oracle,
    random_rows,
    reference,
    vector,
)

every_type = pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))


def test_table_holds_every_type_of_gguf() -> None:
    for kind, (block_size, block_bytes) in GGML_QUANT_SIZES.items():
        fmt = FORMATS[kind.name]
        if fmt.name == "Q8_1":  # gguf counts two float32 where ggml has had two float16 since 2024
            block_bytes = 36
        assert (fmt.id, fmt.block_size, fmt.block_bytes) == (kind.value, block_size, block_bytes)
    assert set(FORMATS) - {kind.name for kind in GGMLQuantizationType} <= {"Q2_0"}  # newer than this gguf


def test_ids_are_unique_and_lookups_agree() -> None:
    assert len({fmt.id for fmt in ALL}) == len(ALL)
    for fmt in ALL:
        assert format_by_id(fmt.id) is fmt is format_by_name(fmt.name.lower())
    assert format_by_id(4) is None
    with pytest.raises(UnsupportedError, match="Q4_K"):
        format_by_name("Q4_Z")


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(QuantizationError, match="100"):
        FORMATS["Q4_0"].row_bytes(100)
    assert FORMATS["Q4_K"].tensor_bytes((3, 512)) == 3 * 2 * 144


@every_type
def test_a_row_is_complete(fmt: BlockFormat) -> None:
    """It decodes, its formula names its factors, and its fallback fits more rows with no fewer bits."""
    assert fmt.decode is not None, f"{fmt.name} has no decode"
    assert fmt.decode(np.zeros(3, fmt.dtype)).shape == (3, fmt.block_size)
    words = set(re.findall(r"\w+", fmt.formula))
    factors = {field.name for field in fmt.fields if field.role in ("scale", "min") and field.encoding == "native"}
    assert factors - {"s"} <= words, f"{fmt.name}: {factors - words} is not in its formula"
    if fmt.is_quantized:
        fallback = FORMATS[fmt.fallback]
        assert fmt.block_size % fallback.block_size == 0
        assert fallback.block_size < fmt.block_size
        assert fallback.bits_per_weight >= fmt.bits_per_weight


def test_float_types_round_to_nearest_and_ties_to_even() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = np.concatenate([halves, -halves, (halves[1:] + halves[:-1]) / 2])
    for name, kind in (("F32", np.float32), ("F16", np.float16)):
        encode = FORMATS[name].encode
        assert encode is not None
        np.testing.assert_array_equal(encode(values).view(kind), values.astype(kind))
    encode = FORMATS["BF16"].encode
    assert encode is not None
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF], np.uint32)
    np.testing.assert_array_equal(encode(bits.view(np.float32)), [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF80])


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_the_limit_is_the_last_value_that_stays_finite(name: str) -> None:
    fmt = FORMATS[name]
    assert fmt.encode is not None
    assert fmt.decode is not None
    edge = np.float32(fmt.limit)
    with np.errstate(over="ignore"):
        stored = fmt.encode(np.array([edge, np.nextafter(edge, np.float32(np.inf))], np.float32))
        values = fmt.decode(stored.view(fmt.dtype)).reshape(-1)
    assert np.isfinite(values).tolist() == [True, False]


@every_type
def test_random_bits_decode_as_elsewhere(fmt: BlockFormat) -> None:
    rows = random_rows(fmt)
    assert_same_bits(reference(fmt, rows), oracle(fmt, rows))


@every_type
def test_no_blocks_decode_to_no_weights(fmt: BlockFormat) -> None:
    assert fmt.decode is not None
    assert fmt.decode(np.empty(0, fmt.dtype)).shape == (0, fmt.block_size)


@every_type
def test_extreme_scales_decode_as_elsewhere(fmt: BlockFormat) -> None:
    rows = edge_rows(fmt)
    assert_same_bits(reference(fmt, rows), oracle(fmt, rows))


@pytest.mark.parametrize("fmt", WITH_VECTORS, ids=ids(WITH_VECTORS))
def test_blocks_of_ggml_decode_as_elsewhere(fmt: BlockFormat) -> None:
    rows = encoded_rows(fmt)
    values = reference(fmt, rows)
    assert_same_bits(values, oracle(fmt, rows))
    assert_same_bits(values, np.frombuffer(vector(fmt, "decoded.f32"), np.float32).reshape(VECTOR_SHAPE))


def test_vectors_are_those_of_the_manifest() -> None:
    expected = json.loads((VECTORS / "manifest.json").read_text())["sha256"]
    wanted = {f"{fmt.name.lower()}/{name}" for fmt in WITH_VECTORS for name in ("blocks.bin", "decoded.f32")}
    assert set(expected) == wanted | {"input.f32"}
    for name, digest in expected.items():
        assert hashlib.sha256((VECTORS / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("fmt", WITH_VECTORS, ids=ids(WITH_VECTORS))
def test_vectors_are_near_their_input(fmt: BlockFormat) -> None:
    """ggml's encoders see what the decoders give back: a Gaussian row keeps its direction."""
    x = np.frombuffer((VECTORS / "input.f32").read_bytes(), np.float32).reshape(VECTOR_SHAPE)[0]
    values = reference(fmt, encoded_rows(fmt))[0].astype(np.float64)
    assert x @ values / np.linalg.norm(x) / np.linalg.norm(values) > 0.5


def test_integers_and_doubles_keep_their_type() -> None:
    for name, kind in {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}.items():
        assert reference(FORMATS[name], random_rows(FORMATS[name])).dtype == kind


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("IQ2_XXS", codebooks.iq2_xxs),
        ("IQ2_XS", codebooks.iq2_xs),
        ("IQ2_S", codebooks.iq2_s),
        ("IQ3_XXS", codebooks.iq3_xxs),
        ("IQ3_S", codebooks.iq3_s),
        ("IQ1_S", codebooks.iq1),
    ],
)
def test_codebooks_are_those_of_gguf(name: str, table: object) -> None:
    theirs = getattr(quants, name)
    theirs.init_grid()
    np.testing.assert_array_equal(table(), theirs.grid.reshape(theirs.grid_shape))  # type: ignore[operator]


def test_small_tables_are_those_of_gguf() -> None:
    assert codebooks.IQ4_LEVELS.tolist() == list(quants.IQ4_NL.kvalues)
    assert codebooks.SIGN_PATTERNS.tobytes() == quants.IQ2_XXS.ksigns
