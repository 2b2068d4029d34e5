"""What files and folders hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import gguflike


def floats_of(path: Path) -> dict[str, np.ndarray]:
    """What the tensors of a GGUF file decode to, float32, by name."""
    with gguflike.open(path) as file:
        return {name: tensor.dequantize() for name, tensor in file.tensors.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, by their paths there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
