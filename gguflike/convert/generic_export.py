"""A GGUF file of any network back to safetensors: the names of its tensors as they are, and their own shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from gguflike.blocks import FORMATS, format_by_name
from gguflike.checkpoint.save import DTYPES, Entry, shards, write_tensors
from gguflike.container import GGUFFile
from gguflike.container.reader import original_shape
from gguflike.convert.encode import SLAB_BYTES
from gguflike.convert.folder import new_folder
from gguflike.convert.generic import dtypes_of
from gguflike.convert.sources import GGUFSource, closing_sources, ranges, stamp
from gguflike.kernels.prepare import Need, prepare
from gguflike.progress import Progress

_HEADER_ROOM = 1 << 20  # for headers and the index, in the estimate of space


@dataclass(frozen=True)
class GenericExportPlan:
    """What an export will write: the tensors of each file."""

    source: str
    target: Path
    dtype: str
    files: Mapping[str, list[Entry]] = field(repr=False)

    @property
    def tensor_bytes(self) -> int:
        return sum(entry.nbytes for entries in self.files.values() for entry in entries)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.target}", f"{self.tensor_bytes:,} bytes of tensors"]
        return "\n".join([*lines, *(f"  {name}: {len(entries)} tensors" for name, entries in self.files.items())])


def export_generic(
    opened: GGUFFile,
    folder: Path,
    dtype: str | None,
    *,
    progress: Progress | None,
    dry_run: bool,
    overwrite: bool,
) -> GenericExportPlan:
    """Write the tensors of a file as safetensors, and nothing else: what ``export(..., generic=True)`` does.

    ``dtype`` is that of all floats; by default each has the one that it came with, where that holds its values, else
    the type it is stored in, and float32 where it is quantized. Integers have their own.
    """
    plan = GenericExportPlan(Path(opened.path).name, folder, dtype or "auto", shards(_entries(opened, dtype)))
    if dry_run:
        return plan
    stamps = tuple(stamp(path) for path in opened.paths)
    done = 0

    def parts(entry: Entry) -> Iterator[memoryview]:
        nonlocal done
        info = opened.infos[entry.name]
        source = GGUFSource(opened.path, info.name, info.shape, info.format.name, stamps, info.name)
        for part in _parts(source, entry.dtype):
            yield part
            done += part.nbytes
            if progress is not None:
                progress(done, plan.tensor_bytes, entry.name)

    stored = sorted({info.format.name for info in opened.infos.values()})
    with closing_sources(), new_folder(plan.target, plan.tensor_bytes + _HEADER_ROOM, overwrite) as temporary:
        prepare((Need("decode", name) for name in stored if FORMATS[name].is_quantized), progress)
        write_tensors(temporary, plan.files, parts)
    return plan


def _entries(opened: GGUFFile, dtype: str | None) -> list[Entry]:
    came = dtypes_of(opened.metadata, opened.infos)
    return [
        Entry(name, _dtype(came.get(name), info.format.name, dtype), original_shape(opened, info) or info.shape)
        for name, info in opened.infos.items()
    ]


def _dtype(came: str | None, stored: str, wanted: str | None) -> str:
    """The dtype of a tensor that is ``stored`` so and ``came`` as another. ``wanted`` is that of floats."""
    fmt, known = format_by_name(stored), came if came in DTYPES else None
    if fmt.is_integer:
        return known or stored
    if wanted is not None:
        return wanted
    if fmt.is_quantized:
        return "F32"
    # What was widened on its way comes back; what was rounded stays.
    return known if known is not None and fmt.row_bytes(1) == 4 else stored


def _parts(source: GGUFSource, dtype: str) -> Iterator[memoryview]:
    fmt = FORMATS.get(dtype)
    stored = format_by_name(source.stored)
    for start, stop in ranges(0, source.shape[0] if source.shape else 1, source.shape[1:], 1, SLAB_BYTES):
        if stored.is_integer or stored.name == dtype:
            part = source.part(start, stop)
            values = part.data if stored.name == dtype else part.data.view(stored.dtype[0]).astype(DTYPES[dtype])
        else:
            limit = fmt.limit if fmt is not None and fmt.is_float else np.inf
            rows = source.read(start, stop, limit)
            values = rows.astype(DTYPES[dtype]) if fmt is None or fmt.encode is None else fmt.encode(rows)
        if prod(values.shape):
            yield np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
