"""Tensors in blocks: what is refused, and what a tensor says of itself. The kernels' tests check the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.blocks import FORMATS
from gguflike.errors import QuantizationError
from gguflike.tensor import _PART, QuantizedTensor, quantize


def tensor(shape: tuple[int, ...], kind: str = "Q8_0") -> QuantizedTensor:
    return QuantizedTensor("blk.0.x", FORMATS[kind], shape, np.zeros(FORMATS[kind].tensor_bytes(shape), np.uint8))


@pytest.mark.parametrize(
    "data",
    [np.zeros(67, np.uint8), np.zeros(69, np.uint8), np.zeros(68, np.int8), np.zeros((2, 34), np.uint8)],
    ids=["too short", "too long", "signed", "two axes"],
)
def test_data_must_fit_the_shape(data: Any) -> None:
    QuantizedTensor("x", FORMATS["Q8_0"], (2, 32), np.zeros(68, np.uint8))
    with pytest.raises(QuantizationError, match="'x': tensor data has the wrong size; expected 68 bytes of Q8_0"):
        QuantizedTensor("x", FORMATS["Q8_0"], (2, 32), data)


def test_views() -> None:
    made = tensor((2, 3, 64))
    assert (made.nbytes, made.size, made.rows.shape) == (2 * 3 * 68, 384, (6, 68))
    assert made.blocks.shape == (12,)
    assert made.blocks.dtype == FORMATS["Q8_0"].dtype
    assert np.shares_memory(made.rows, made.data)
    assert np.shares_memory(made.blocks, made.data)
    assert repr(made) == "QuantizedTensor('blk.0.x', Q8_0, (2, 3, 64))"


def test_scalars_and_empty_tensors() -> None:
    scalar = quantize(np.float32(3.5), "F32")
    assert (scalar.shape, scalar.size, scalar.rows.shape) == ((), 1, (1, 4))
    assert scalar.dequantize().shape == ()
    assert scalar.dequantize() == 3.5
    for shape in ((0, 32), (0,)):
        empty = tensor(shape, "F32")
        assert (empty.size, empty.rows.shape, empty.dequantize().shape) == (0, (0, 0), shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5, _PART - 1, _PART, _PART + 77])
def test_the_first_value_that_is_not_finite_is_named(value: float, at: int) -> None:
    x = np.zeros((2, _PART // 2 + 64), np.float32)
    x.flat[at] = value
    x.flat[-1] = np.nan
    with pytest.raises(QuantizationError, match="value is not finite") as caught:
        quantize(x, "F32", name="w")
    where = tuple(int(i) for i in np.unravel_index(at, x.shape))
    assert caught.value.tensor == "w"
    assert caught.value.got == f"{np.float32(value)} at index {where}"


@pytest.mark.parametrize(
    "importance",
    [np.ones(31), np.ones((1, 32)), np.full(32, -1.0), np.full(32, np.nan), np.full(32, np.inf)],
    ids=["short", "two axes", "negative", "NaN", "infinite"],
)
def test_importance_is_checked(importance: Any) -> None:
    with pytest.raises(QuantizationError, match=r"finite, non-negative, one per column; expected shape \(32,\)"):
        gguflike.quantize(np.ones((2, 32), np.float32), "F32", importance=importance)
