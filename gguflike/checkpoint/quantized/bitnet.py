"""Weights of BitNet b1.58: one of -1, 0 and 1, times a number for the whole matrix.

A checkpoint holds them packed, or as the weights they were trained as, which the model rounds each time it runs.
Either way they are read as what the model computes with (Transformers, integrations/bitnet.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gguflike.checkpoint.quantized.pool import Pool, Settings
from gguflike.checkpoint.quantized.tensors import Computed, Floats, computed
from gguflike.checkpoint.safetensors import LazyTensor

_STEP = 1 << 22  # values of which the mean magnitude is taken at once


@dataclass(frozen=True)
class Packed(Computed):
    """A matrix of four times as many rows as ``packed`` (uint8): row r is in row r mod n of n, in bits 2 (r div n) and
    the next, as its value plus 1. ``scale`` holds one number by which values are multiplied, or ``divides`` them."""

    packed: LazyTensor
    scale: LazyTensor
    divides: bool

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop, each = self.rows if stop is None else stop, self.packed.rows
        values = np.empty((stop - start, *self.shape[1:]), np.float32)
        for quarter in range(4):
            low, high = max(start, quarter * each), min(stop, (quarter + 1) * each)
            if low < high:
                codes = self.packed.read(low - quarter * each, high - quarter * each) >> 2 * quarter & 3
                values[low - start : high - start] = codes.astype(np.float32) - 1
        number = self.scale.read_f32().reshape(-1)[0]
        scaled: Floats = values / number if self.divides else values * number
        return scaled


@dataclass(frozen=True)
class Rounded(Computed):
    """A matrix rounded to -s, 0 and s, where s is the mean magnitude of its ``trained`` values."""

    trained: LazyTensor

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        inverse = np.float32(1) / np.float32(_mean_magnitude(self.trained, _changed(self.trained.path)))
        signs = np.clip(np.rint(self.trained.read_f32(start, stop) * inverse), -1, 1)
        values: Floats = signs / inverse
        stored = _STORED.get(self.trained.dtype)
        return stored(values) if stored is not None else values


def _changed(path: str) -> tuple[int, int]:
    """What tells a file from one that replaces it: its inode, and when it was changed, in ns. Of one that is read by
    ranges, its name tells: it says the commit."""
    if "://" in path:
        return 0, 0
    status = Path(path).stat()
    return status.st_ino, status.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _mean_magnitude(tensor: LazyTensor, changed: tuple[int, int]) -> float:  # noqa: ARG001 - another file, another mean
    """The mean of absolute values, at least 1e-5; of a file that was ``changed`` then."""
    rows = max(1, _STEP // max(1, tensor.size // max(1, tensor.rows)))
    total = 0.0
    for start in range(0, tensor.rows, rows):
        part = tensor.read_f32(start, min(start + rows, tensor.rows))
        total += float(np.abs(part).sum(dtype=np.float64))
    return max(total / max(1, tensor.size), 1e-5)


def _as_bfloat16(values: Floats) -> Floats:
    """The nearest values that bfloat16 has, ties to even."""
    bits = values.view(np.uint32)
    rounded: Floats = ((bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


# What a dtype of less than float32 keeps of the values.
_STORED: Mapping[str, Callable[[Floats], Floats]] = {
    "BF16": _as_bfloat16,
    "F16": lambda values: values.astype(np.float16).astype(np.float32),
}


def read(pool: Pool, settings: Settings) -> str:
    """Read packed matrices, and those that a model rounds, as what it computes with; say what they were.

    CheckpointError for a packed matrix without its scale, UnsupportedError for settings that are not known.
    """
    kind = settings.choice("linear_class", among=("bitlinear", "autobitlinear"), default="bitlinear")
    mode = settings.choice("quantization_mode", among=("offline", "online"), default="offline")
    settings.choice("use_rms_norm", among=(False,), default=False)
    settings.inert("modules_to_not_convert rms_norm_eps")
    for name, tensor in list(pool.left.items()):
        if tensor.dtype == "U8":
            scale = pool.take(f"{name}_scale", name)
            del pool.left[name]
            shape = (4 * tensor.rows, *tensor.shape[1:])
            pool.give(computed(Packed, name, shape, tensor, packed=tensor, scale=scale, divides=kind == "bitlinear"))
        elif mode == "online" and name.endswith("_proj.weight"):
            del pool.left[name]
            pool.give(computed(Rounded, name, tensor.shape, tensor, trained=tensor))
    pool.drop((".weight_scale",), "scales of matrices that are not packed")
    return f"BitNet's ternary weights, {'packed' if mode == 'offline' else 'rounded as the model does'}"
