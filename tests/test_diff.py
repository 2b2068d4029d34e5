"""Two files compared tensor by tensor; the distances against plain numpy."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.diff import CHUNK, compare, diff
from gguflike.tensor import QuantizedTensor

RNG = np.random.default_rng(3)


def stored(name: str, array: np.ndarray, fmt: str) -> QuantizedTensor:
    """Encoded by the gguf package, so that nothing of ours is on both sides."""
    kind = gguf.GGMLQuantizationType[fmt]
    data = gguf.quants.quantize(array, kind).reshape(-1).view(np.uint8)
    return QuantizedTensor(name, FORMATS[fmt], array.shape, data)


def test_distance_is_that_of_the_decoded_weights() -> None:
    x = RNG.standard_normal((37, 64)).astype(np.float32)
    a, b = stored("x", x, "F32"), stored("x", x, "Q8_0")
    decoded = gguf.quants.dequantize(b.data.reshape(37, -1), gguf.GGMLQuantizationType.Q8_0)
    apart = x.astype(np.float64) - decoded
    result = compare(a, b)
    assert result.formats == ("F32", "Q8_0")
    assert result.rmse == pytest.approx(math.sqrt((apart**2).mean()), rel=1e-9)
    assert result.relative == pytest.approx(math.sqrt((apart**2).sum() / (x.astype(np.float64) ** 2).sum()), rel=1e-9)
    assert result.largest == pytest.approx(np.abs(apart).max(), rel=1e-9)
    assert not result.identical


def test_pieces_make_the_whole() -> None:
    rows = 2 * CHUNK // 1024 + 5
    x = np.zeros((rows, 1024), np.float32)
    y = x.copy()
    y[-1, -1] = 3
    y[0, 0] = 4
    result = compare(stored("x", x, "F32"), stored("x", y, "F32"))
    assert result.rmse == pytest.approx(5 / math.sqrt(x.size))
    assert result.largest == 4
    assert math.isnan(result.relative)  # nothing to divide by


def test_identical_bytes_are_not_decoded() -> None:
    fmt = FORMATS["Q8_0"]
    nan = QuantizedTensor("x", fmt, (1, 32), np.full(34, 0xFF, np.uint8))
    result = compare(nan, nan)
    assert (result.identical, result.rmse) == (True, 0.0)


def test_other_shape_has_no_distance() -> None:
    x = np.ones((2, 32), np.float32)
    result = compare(stored("x", x, "F32"), stored("x", x.reshape(1, 64), "F32"))
    assert result.shapes == ((2, 32), (1, 64))
    assert math.isnan(result.rmse)


def test_files(tmp_path: Path) -> None:
    x, y = RNG.standard_normal((2, 4, 32)).astype(np.float32)
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    container.write(
        first,
        {"k": 1, "gone": "x", "list": ["a"]},
        [stored("x", x, "F32"), stored("y", y, "F32"), stored("z", x, "F16")],
    )
    container.write(
        second,
        {"k": -1, "list": ["a"], "new": True},
        [stored("x", x, "F32"), stored("y", y, "Q4_0"), stored("w", x, "F16")],
    )
    result = diff(first, second)
    assert [(t.name, t.identical) for t in result.tensors] == [("x", True), ("y", False)]
    assert (result.only_first, result.only_second) == (("z",), ("w",))
    assert (result.metadata_only_first, result.metadata_only_second) == (("gone",), ("new",))
    assert set(result.metadata_changed) == {"k", "gguflike.digest.tensors", "gguflike.digest.header"}
    assert not result.identical
    calls: list[tuple[int, int, str]] = []
    assert diff(first, first, progress=lambda *call: calls.append(call)).identical
    assert calls[0] == (0, 512 + 512 + 256, "x")
    assert calls[-1] == (1280, 1280, "")
