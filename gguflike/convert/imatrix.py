"""Importance matrices: the mean squared activation of each column, as llama.cpp's llama-imatrix writes them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguflike import container, foreign
from gguflike.blocks import FORMATS
from gguflike.convert.selection import Selection
from gguflike.convert.sources import Floats, Source
from gguflike.errors import CheckpointError, counted

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_ENTRIES = 1_000_000


@dataclass(frozen=True)
class Imatrix:
    """Weights by GGUF tensor name, float32 of shape (matrices, columns).

    ``name`` is the file's own, ``paths`` what was read: one file, or the shards of a split one.
    """

    name: str
    paths: tuple[str, ...]
    weights: Mapping[str, Floats]


def read(path: str | os.PathLike[str]) -> Imatrix:
    """Read either format. CheckpointError where the file is damaged, or a weight is negative or not finite."""
    source = Path(path)
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"importance matrix cannot be read: {error.strerror}", path=source) from None
    paths, weights = _read_gguf(source) if magic == b"GGUF" else ((str(source),), _read_legacy(source))
    if not weights:
        raise CheckpointError("importance matrix is empty", path=source)
    for name, values in weights.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise CheckpointError("importance must be finite and not negative", path=source, tensor=name)
    return Imatrix(source.name, paths, weights)


def _read_gguf(path: Path) -> tuple[tuple[str, ...], dict[str, Floats]]:
    """``<tensor>.in_sum2`` holds sums over ``<tensor>.counts`` tokens, one row per matrix (expert)."""
    weights = {}
    with container.open(path) as file:
        for name, tensor in file.tensors.items():
            if not name.endswith(_SUMS):
                continue
            base = name.removesuffix(_SUMS)
            if base + _COUNTS not in file.tensors or tensor.format is not FORMATS["F32"]:
                raise CheckpointError("importance sums without counts", path=path, tensor=base)
            sums = tensor.data.view("<f4").reshape(-1, tensor.shape[-1])
            counts = file.tensors[base + _COUNTS].data.view("<f4").reshape(-1, 1)
            if len(counts) not in (1, len(sums)):
                raise CheckpointError("importance counts do not fit the sums", path=path, tensor=base)
            weights[base] = _mean(sums, counts)
        return file.paths, weights


def _mean(sums: npt.NDArray[np.float32], counts: npt.NDArray[np.float32]) -> Floats:
    """Mean over tokens; a matrix that saw none gets even weights (an expert that was never chosen)."""
    seen = counts > 0
    return np.where(seen, sums / np.where(seen, counts, 1), 1).astype(np.float32)


def _read_legacy(path: Path) -> dict[str, Floats]:
    """The .dat format: a count of entries, then name, number of calls, number of values, values."""
    data = path.read_bytes()
    weights: dict[str, Floats] = {}
    offset = 4
    try:
        (entries,) = struct.unpack_from("<i", data, 0)
        if not 0 < entries <= _MAX_ENTRIES:
            raise ValueError(counted(entries, "entry", "entries"))
        for _ in range(entries):
            (length,) = struct.unpack_from("<i", data, offset)
            if not 0 < length <= len(data) - offset:
                raise ValueError(f"a name of {counted(length, 'byte')}")
            name = data[offset + 4 : offset + 4 + length].decode()
            calls, count = struct.unpack_from("<ii", data, offset + 4 + length)
            offset += 12 + length
            if count < 1 or 4 * count > len(data) - offset:
                raise ValueError(f"{counted(count, 'value')} in {counted(len(data) - offset, 'byte')}")
            values = np.frombuffer(data, "<f4", count, offset)
            weights[name] = (values / max(calls, 1)).astype(np.float32).reshape(1, -1)
            offset += 4 * count
    except (struct.error, ValueError) as error:
        known = foreign.describe(data[: foreign.SAMPLE], "an importance matrix")
        raise CheckpointError(
            known.what if known else f"not an importance matrix: {error}",
            path=path,
            offset=None if known else offset,
            expected="a GGUF or .dat file of llama-imatrix",
            remedy=known.remedy if known else None,
        ) from None
    return weights


def match(
    matrix: Imatrix | None, sources: Sequence[Source], selection: Selection
) -> tuple[dict[str, Floats] | None, list[str]]:
    """Importance by tensor, of the entries that are selected, and notices about those that fit none."""
    if matrix is None:
        return None, []
    shapes = {source.name: source.shape for source in sources}
    selected = selection.important(matrix.weights)
    fitted = {n: _fit(w, shapes[n]) if n in shapes else None for n, w in selected.items()}
    bad = [name for name, weights in fitted.items() if weights is None]
    notices = [f"{matrix.name}: {counted(len(bad), 'entry', 'entries')} for no tensor, {bad[0]} first"] if bad else []
    return {name: weights for name, weights in fitted.items() if weights is not None}, notices


def _fit(weights: Floats, shape: tuple[int, ...]) -> Floats | None:
    """Weights for a tensor of ``shape``: (1, columns) or (matrices, columns), or None where they do not fit it."""
    columns, matrices = shape[-1], shape[0] if len(shape) == 3 else 1
    if weights.size == columns:
        return weights.reshape(1, columns)
    return weights.reshape(matrices, columns) if weights.size == matrices * columns else None
