"""The types that neither gguf nor libgguf decodes, against the ggml library inside llama-cpp-python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from gguflike.blocks import FORMATS
from gguflike.kernels import dispatch


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    import llama_cpp

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_name.restype = ctypes.c_char_p
    return library


@pytest.mark.parametrize("name", list(FORMATS))
def test_sizes_and_ids_are_ggmls(ggml: ctypes.CDLL, name: str) -> None:
    fmt = FORMATS[name]
    assert ggml.ggml_type_size(fmt.id) == fmt.block_bytes
    assert ggml.ggml_blck_size(fmt.id) == fmt.block_size
    assert ggml.ggml_type_name(fmt.id).decode().upper() == fmt.name


@pytest.mark.parametrize(("name", "function"), [("Q2_0", "dequantize_row_q2_0"), ("Q8_K", "dequantize_row_q8_K")])
def test_random_blocks(ggml: ctypes.CDLL, name: str, function: str) -> None:
    fmt = FORMATS[name]
    blocks = np.random.default_rng(5).integers(0, 256, (64, fmt.block_bytes), dtype=np.uint8)
    expected = np.empty((64, fmt.block_size), np.float32)
    address = ctypes.c_void_p
    getattr(ggml, function)(address(blocks.ctypes.data), address(expected.ctypes.data), ctypes.c_int64(expected.size))
    got = np.empty_like(expected)
    dispatch.decoder(fmt)(blocks, got, 1)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
