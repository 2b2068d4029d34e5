"""Importance matrices: sums of squared activations of each column, in the files of llama.cpp's llama-imatrix."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike import container, foreign
from gguflike.blocks import FORMATS
from gguflike.container import Typed, ValueType
from gguflike.convert.selection import Selection
from gguflike.convert.sources import Floats, Source
from gguflike.errors import ArgumentError, CheckpointError, counted
from gguflike.tensor import QuantizedTensor

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_MAX_ENTRIES = 1_000_000


class Entry(NamedTuple):
    """Of one tensor: ``sums`` of squares float64 (matrices, columns) over ``counts`` tokens, float64 (matrices,) or, of
    a tensor whose matrices all see the same tokens, (1,)."""

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    @property
    def mean(self) -> Floats:
        """Mean over tokens; a matrix that saw none gets even weights (an expert that was never chosen)."""
        counts = self.counts.reshape(-1, 1)
        with np.errstate(all="ignore"):  # `read` refuses what is not finite
            return np.where(counts > 0, self.sums / np.where(counts > 0, counts, 1), 1).astype(np.float32)


@dataclass(frozen=True)
class Imatrix:
    """Sums by GGUF tensor name.

    ``name`` is the file's own, ``paths`` what was read: one file, or the shards of a split one. ``datasets`` are the
    texts that it was made of, in ``chunks`` of ``chunk_size`` tokens. Files of the old format do not say the size:
    their counts are those of chunks, and ``chunk_size`` is 0.
    """

    name: str
    paths: tuple[str, ...]
    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0

    @cached_property
    def weights(self) -> Mapping[str, Floats]:
        """Importance by tensor, float32 (matrices, columns)."""
        return {name: entry.mean for name, entry in self.entries.items()}


def read(path: str | os.PathLike[str]) -> Imatrix:
    """Read either format. CheckpointError where the file is damaged, or a number is negative or not finite."""
    source = Path(path)
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"importance matrix cannot be read: {error.strerror}", path=source) from None
    made = _read_gguf(source) if magic == b"GGUF" else _read_legacy(source)
    if not made.entries:
        remedy = "make it again with `gguflike calibrate` or llama-imatrix"
        raise CheckpointError("importance matrix is empty", path=source, remedy=remedy)
    for name, entry in made.entries.items():
        numbers = np.concatenate([entry.sums.ravel(), entry.counts, entry.mean.ravel()])
        if not np.isfinite(numbers).all() or (numbers < 0).any():
            wrong = numbers[~np.isfinite(numbers) | (numbers < 0)]
            raise CheckpointError(
                "importance must be finite and not negative", path=source, tensor=name, got=f"{wrong[0]}"
            )
    return made


def write(path: str | os.PathLike[str], matrix: Imatrix, overwrite: bool = False, sources: Iterable[str] = ()) -> None:
    """Write the file of llama-imatrix's present format, which appears complete or not at all.

    Entries stand in the order of their names. OutputError where ``path`` exists, unless ``overwrite``, or is one of the
    ``sources``.
    """
    tensors = []
    for name, entry in sorted(matrix.entries.items()):
        for suffix, values in ((_SUMS, entry.sums), (_COUNTS, entry.counts.reshape(-1, 1))):
            data = np.ascontiguousarray(values, "<f4")
            tensors.append(QuantizedTensor(name + suffix, FORMATS["F32"], data.shape, data.reshape(-1).view(np.uint8)))
    metadata = {
        "general.type": "imatrix",
        _DATASETS: Typed(list(matrix.datasets), ValueType.ARRAY, ValueType.STRING),
        _CHUNKS: Typed(matrix.chunks, ValueType.UINT32),
        _CHUNK_SIZE: Typed(matrix.chunk_size, ValueType.UINT32),
    }
    container.write(path, metadata, tensors, overwrite=overwrite, sources=[*sources, *matrix.paths])


def merge(matrices: Sequence[Imatrix], name: str) -> Imatrix:
    """The sums of several, as if all their texts had been read. The chunk is that of the first that says its size,
    which is also what files of the old format are taken to have.

    CheckpointError where two have entries of different shapes for a tensor.
    """
    size = next((each.chunk_size for each in matrices if each.chunk_size), 1)
    entries: dict[str, Entry] = {}
    for each in matrices:
        scale = 1 if each.chunk_size else size
        for tensor, entry in each.entries.items():
            sums, counts = entry.sums * scale, entry.counts * scale
            there = entries.get(tensor, Entry(np.zeros_like(sums), np.zeros_like(counts)))
            if there.sums.size != sums.size:
                raise CheckpointError(
                    "importance of another shape than that to merge it with",
                    path=each.paths[0] if each.paths else None,
                    tensor=tensor,
                    expected=there.sums.shape,
                    got=sums.shape,
                )
            shape = max(there.sums.shape, sums.shape)  # the old format has those of a stack in one row
            entries[tensor] = Entry(there.sums.reshape(shape) + sums.reshape(shape), there.counts + counts)
    return Imatrix(
        name,
        tuple(path for each in matrices for path in each.paths),
        entries,
        tuple(dict.fromkeys(text for each in matrices for text in each.datasets)),
        sum(each.chunks * (each.chunk_size or size) for each in matrices) // size,
        size,
    )


def _read_gguf(path: Path) -> Imatrix:
    """``<tensor>.in_sum2`` holds sums over ``<tensor>.counts`` tokens, one row per matrix (expert)."""
    entries = {}
    with container.open(path) as file:
        for name, info in file.infos.items():
            if not name.endswith(_SUMS):
                continue
            base = name.removesuffix(_SUMS)
            of_counts = file.infos.get(base + _COUNTS)
            if of_counts is None:
                raise CheckpointError("importance sums without counts", path=path, tensor=base, expected=base + _COUNTS)
            if not info.nbytes or not info.shape or {info.format, of_counts.format} != {FORMATS["F32"]}:
                got = f"{info.format.name} {info.shape}, {of_counts.format.name} {of_counts.shape}"
                raise CheckpointError("importance sums are no rows of float32", path=path, tensor=base, got=got)
            sums = file.load(name).data.view("<f4").reshape(-1, info.shape[-1])
            counts = file.load(base + _COUNTS).data.view("<f4").reshape(-1)
            if len(counts) not in (1, len(sums)):
                expected = f"1 or {len(sums)}"
                raise CheckpointError(
                    "importance counts do not fit the sums", path=path, tensor=base, expected=expected, got=len(counts)
                )
            entries[base] = Entry(_doubles(sums), _doubles(counts))
        said = [file.metadata.get(key) for key in (_DATASETS, _CHUNKS, _CHUNK_SIZE)]
        texts = tuple(map(str, said[0])) if isinstance(said[0], Sequence) else ()
        chunks, size = (value if isinstance(value, int) and value > 0 else 0 for value in said[1:])
        # Without a size, counts are those of tokens all the same, which is what chunks of one token say.
        return Imatrix(path.name, file.paths, entries, texts, chunks, size or 1)


def _doubles(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The same in float64. A NaN that signals, of which numpy warns, is refused with all that is not finite."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _read_legacy(path: Path) -> Imatrix:
    """The .dat format: a count of entries, then name, number of calls, number of values, values; then, maybe, the
    number of chunks and the name of the text.

    Values are means times the number of calls. Those of a stack of matrices stand in one row.
    """
    data = path.read_bytes()
    entries: dict[str, Entry] = {}
    offset = 4
    try:
        (total,) = struct.unpack_from("<i", data, 0)
        if not 0 < total <= _MAX_ENTRIES:
            raise ValueError(counted(total, "entry", "entries"))
        for _ in range(total):
            (length,) = struct.unpack_from("<i", data, offset)
            if not 0 < length <= len(data) - offset:
                raise ValueError(f"a name of {counted(length, 'byte')}")
            name = data[offset + 4 : offset + 4 + length].decode()
            calls, count = struct.unpack_from("<ii", data, offset + 4 + length)
            offset += 12 + length
            if count < 1 or 4 * count > len(data) - offset:
                raise ValueError(f"{counted(count, 'value')} in {counted(len(data) - offset, 'byte')}")
            values = _doubles(np.frombuffer(data, "<f4", count, offset)).reshape(1, -1)
            entries[name] = Entry(values, np.array([calls or 1], np.float64))
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
    chunks, texts = _end_of_legacy(data[offset:])
    return Imatrix(path.name, (str(path),), entries, texts, chunks, 0)


def _end_of_legacy(data: bytes) -> tuple[int, tuple[str, ...]]:
    """The number of chunks and the text, as far as a file of the old format says them."""
    if len(data) < 8:
        return 0, ()
    chunks, length = struct.unpack_from("<ii", data)
    text = data[8 : 8 + length].decode("utf-8", "replace") if 0 < length <= len(data) - 8 else ""
    return max(chunks, 0), (text,) if text else ()


def match(
    matrix: Imatrix | None, sources: Sequence[Source], selection: Selection
) -> tuple[dict[str, Floats] | None, list[str]]:
    """Importance by tensor, of the entries that are selected, and notices about those that fit none. ArgumentError
    where entries are selected and there are none."""
    if matrix is None:
        for field, words in (("include_weights", selection.included), ("exclude_weights", selection.excluded)):
            if words:
                raise ArgumentError(
                    "there is no importance matrix to take entries of",
                    field=field,
                    got=repr(list(words)),
                    remedy="add `imatrix`",
                )
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
