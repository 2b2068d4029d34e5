"""Decode kernels: bit for bit the reference, on any blocks, at any thread count, and never outside their rows."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.errors import QuantizationError
from gguflike.kernels import dispatch
from gguflike.kernels.table import KERNELS, load
from gguflike.tensor import QuantizedTensor
from tests.block_samples import (
    ALL,
    WITH_VECTORS,
    assert_same_bits,
    edge_rows,
    encoded_rows,
    ids,
    random_rows,
    reference,
)

every_type = pytest.mark.parametrize("fmt", ALL, ids=ids(ALL))


def decode(fmt: BlockFormat, rows: np.ndarray, threads: int = 1) -> np.ndarray:
    out = np.full((len(rows), rows.shape[1] // fmt.block_bytes * fmt.block_size), 7, np.float32)
    with np.errstate(all="ignore"):
        dispatch.decoder(fmt)(rows, out, threads)
    return out


def kernel(fmt: BlockFormat) -> Any:
    place = KERNELS[fmt.name].decode
    assert place is not None
    return load(place)


@every_type
def test_random_bits(fmt: BlockFormat) -> None:
    rows = random_rows(fmt)
    with np.errstate(all="ignore"):
        expected = reference(fmt, rows).astype(np.float32)
    assert_same_bits(decode(fmt, rows), expected)


@every_type
def test_extreme_scales(fmt: BlockFormat) -> None:
    rows = edge_rows(fmt)
    with np.errstate(all="ignore"):
        expected = reference(fmt, rows).astype(np.float32)
    assert_same_bits(decode(fmt, rows), expected)


@pytest.mark.parametrize("fmt", WITH_VECTORS, ids=ids(WITH_VECTORS))
def test_blocks_of_ggml(fmt: BlockFormat) -> None:
    rows = encoded_rows(fmt)
    assert_same_bits(decode(fmt, rows), reference(fmt, rows))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_half(name: str) -> None:
    """All 65536 values, and rows whose length no vector divides."""
    fmt = FORMATS[name]
    bits = np.arange(65536, dtype=np.uint16).view(np.uint8)
    for columns in (65536, 1, 15, 17, 31):
        rows = bits[: 65536 // columns * columns * 2].reshape(-1, columns * 2)
        assert_same_bits(decode(fmt, rows), reference(fmt, rows))


@every_type
def test_threads_do_not_matter(fmt: BlockFormat) -> None:
    columns = -(-3000 // fmt.block_size) * fmt.block_size
    rows = np.resize(random_rows(fmt), (150, fmt.row_bytes(columns)))
    one, three = decode(fmt, rows, 1), decode(fmt, rows, 3)
    np.testing.assert_array_equal(one.view(np.uint32), three.view(np.uint32))


WITH_KERNEL = [fmt for fmt in ALL if KERNELS[fmt.name].decode]


@pytest.mark.parametrize("fmt", WITH_KERNEL, ids=ids(WITH_KERNEL))
def test_a_kernel_writes_its_blocks_only(fmt: BlockFormat) -> None:
    rows = random_rows(fmt, rows=1, blocks=40)
    before = np.full(40 * fmt.block_size, -77, np.float32)
    out = before.copy()
    kernel(fmt)(9, 30, rows.ctypes.data, out.ctypes.data)
    first, last = 9 * fmt.block_size, 30 * fmt.block_size
    assert_same_bits(out[None, first:last], reference(fmt, rows)[:, first:last])
    np.testing.assert_array_equal(out[:first], before[:first])
    np.testing.assert_array_equal(out[last:], before[last:])


def test_a_mapped_file_at_an_odd_address(tmp_path: Path) -> None:
    fmt = FORMATS["Q6_K"]
    rows = random_rows(fmt)
    path = tmp_path / "blocks"
    path.write_bytes(b"x" + rows.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = np.frombuffer(mapped, np.uint8)[1:]
        tensor = QuantizedTensor("t", fmt, (len(rows), 5 * 256), data)
        values = tensor.dequantize()
        del tensor, data
    assert_same_bits(values, reference(fmt, rows))


def test_only_one_machine_code_per_kernel() -> None:
    fmt = FORMATS["Q8_0"]
    writable = random_rows(fmt).copy()
    decode(fmt, writable)
    compiled = list(kernel(fmt).signatures)
    decode(fmt, random_rows(fmt))
    decode(fmt, np.asfortranarray(writable[:1]))
    assert compiled == list(kernel(fmt).signatures)


@pytest.mark.parametrize(
    ("blocks", "out"),
    [
        (np.zeros((2, 34), np.uint8), np.zeros((2, 64), np.float32)),
        (np.zeros((2, 34), np.uint8), np.zeros((3, 32), np.float32)),
        (np.zeros((2, 34), np.int8), np.zeros((2, 32), np.float32)),
        (np.zeros((2, 34), np.uint8), np.zeros((2, 32), np.float64)),
        (np.zeros((4, 34), np.uint8)[::2], np.zeros((2, 32), np.float32)),
        (np.zeros((2, 34), np.uint8), np.zeros((32, 2), np.float32).T),
        (np.zeros(34, np.uint8), np.zeros(32, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(blocks: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match="Q8_0"):
        dispatch.decoder(FORMATS["Q8_0"])(blocks, out, 1)


def test_a_cpu_without_vector_extensions() -> None:
    """Plain SSE2: LLVM has to take every lane operation apart. One type for each way to read a block."""
    if platform.machine() != "x86_64":
        pytest.skip("names an x86 CPU")
    names = ["F16", "Q5_0", "Q2_0", "TQ1_0", "Q6_K", "IQ4_NL", "IQ2_XXS", "IQ1_M"]
    code = f"import test_decode as t; [t.test_random_bits(t.FORMATS[name]) for name in {names}]; print('same')"
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    environment = os.environ | paths | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert (run.returncode, run.stdout.strip()) == (0, "same"), run.stderr
