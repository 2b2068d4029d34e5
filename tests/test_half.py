"""float16 conversion in kernels: every float16, the rounding of float32, and CPUs without the instruction."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import f16_to_f32, f32_to_f16


@jit
def widen(bits: np.ndarray, out: np.ndarray) -> None:
    for i in range(bits.size):
        out[i] = f16_to_f32(bits[i])


@jit
def narrow(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(values.size):
        out[i] = f32_to_f16(values[i])


ALL_BITS = np.arange(65536, dtype=np.uint16)


def numbers() -> np.ndarray:
    """Every float16 and its neighbours and midpoints as float32, and random float32 of all sizes."""
    halves = ALL_BITS.view(np.float16)
    exact = halves[np.isfinite(halves)].astype(np.float32).view(np.uint32).astype(np.int64)
    near = exact[:, None] + np.array([-1, 0, 1, 0xFFF, 0x1000, 0x1001])
    rng = np.random.default_rng(0)
    everything = [near.reshape(-1).astype(np.uint32), rng.integers(0, 2**32, 200_000, dtype=np.uint32)]
    return np.concatenate(everything).view(np.float32)


def check(up: object, down: object) -> None:
    """The two functions on arrays do what numpy's casts do, NaN payloads aside."""
    out = np.empty(65536, np.float32)
    up(ALL_BITS, out)  # type: ignore[operator]
    with np.errstate(invalid="ignore"):  # signaling NaNs, on Arm
        expected = ALL_BITS.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(out.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert np.isnan(out[nan]).all()
    values = numbers()
    bits = np.empty(values.size, np.uint16)
    down(values, bits)  # type: ignore[operator]
    with np.errstate(all="ignore"):
        expected_bits = values.astype(np.float16).view(np.uint16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(bits[~nan], expected_bits[~nan])
    assert np.isnan(bits[nan].view(np.float16)).all()


def test_compiled_for_this_machine() -> None:
    """Both directions, through whatever this CPU has."""
    check(widen, narrow)


def test_compiled_for_a_cpu_without_the_instruction() -> None:
    if sys.platform == "darwin" or os.uname().machine != "x86_64":
        pytest.skip("only x86 comes without the conversion")
    code = "import test_half; test_half.check(test_half.widen, test_half.narrow); print('same')"
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.strip()) == (0, "same"), run.stderr
