"""Checkpoints of any stored dtype, written byte by byte: what quantized ones are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests import tiny

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}


class Stored(NamedTuple):
    """A tensor as a file has it: ``bits`` are numbers of the dtype's size."""

    dtype: str
    bits: np.ndarray


def floats(values: np.ndarray, dtype: str = "F32") -> Stored:
    """Values that are rounded to ``dtype`` by cutting."""
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}[dtype]
    return Stored(dtype, np.frombuffer(tiny.encode(np.asarray(values, np.float32), dtype), kind).reshape(values.shape))


def safetensors(tensors: Mapping[str, tuple[str, np.ndarray]]) -> bytes:
    """A file of the format, tensors in the order given."""
    return tiny.packed({name: (dtype, bits.shape, bits.tobytes()) for name, (dtype, bits) in tensors.items()})


def folder(
    path: Path, tensors: Mapping[str, Stored], settings: Any = None, without: tuple[str, ...] = (), **changes: Any
) -> Path:
    """A Llama of one layer with some tensors in other dtypes, or by other names: those ``without`` are left out."""
    c = tiny.config(**{**SIZES, **changes})
    tiny.checkpoint(path, **{**SIZES, **changes})
    plain = {name: floats(values) for name, values in tiny.weights(c).items()}
    kept = {name: tensor for name, tensor in plain.items() if name not in without}
    (path / "model.safetensors").write_bytes(safetensors({**kept, **tensors}))
    if settings is not None:
        (path / "config.json").write_text(json.dumps({**c, "quantization_config": settings}))
    return path
