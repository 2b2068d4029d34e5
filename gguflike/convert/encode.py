"""One tensor from its source to bytes, slab by slab, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.container import Receipt, Slot
from gguflike.convert.sources import Floats, Slab, Source, is_half, read_slab, slabs, stored_as, stored_slab
from gguflike.kernels.prepare import Need
from gguflike.tensor import Method, quantize_finite

SLAB_BYTES = 16 << 20  # bytes of float32 values read at a time; an embedding of 128k x 4096 would be 2 GiB
Rows = npt.NDArray[Any]  # float32, or bytes that are copied
Room = Callable[[int], npt.NDArray[np.uint8]]  # makes an array of so many bytes


@dataclass(frozen=True)
class Job:
    """What one tensor needs: a description that can be sent to another process.

    ``importance`` has shape (matrices, columns): one row of weights for each matrix of the tensor.
    """

    source: Source
    format: str
    importance: Floats | None = None
    method: Method = "search"
    threads: int | None = None

    def kernels(self) -> list[Need]:
        """The kernels that ``parts`` calls."""
        if stored_as(self.source, self.format):
            return []
        compiled = format_by_name(self.format).encode is None
        stored = FORMATS.get(self.source.stored)
        needs = []
        if stored is not None and (stored.is_quantized or (compiled and is_half(stored))):
            needs.append(Need("decode", stored.name))
        if compiled:
            needs.append(Need("encode", self.format, self.importance is not None, self.method))
        return needs

    def slabs(self, slab_bytes: int | None = None) -> list[Slab]:
        """What is read and encoded at a time, in order."""
        return slabs(self.source, SLAB_BYTES if slab_bytes is None else slab_bytes)

    def read(self, slab: Slab) -> Rows:
        """The rows of a slab: as float32, or as the bytes they are stored in if those are what is wanted."""
        fmt = format_by_name(self.format)
        stored = stored_as(self.source, self.format)
        if stored is not None:
            return stored_slab(stored, slab).data
        return read_slab(self.source, slab, fmt.limit, compiled=fmt.encode is None)

    def encode(self, rows: Rows, slab: Slab, room: Room | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of a slab that was read, where ``room`` says if they are made anew."""
        fmt = format_by_name(self.format)
        if rows.dtype == np.uint8:
            return rows
        if fmt.encode is not None:
            return fmt.encode(rows).reshape(-1).view(np.uint8)
        size = fmt.tensor_bytes(rows.shape)
        out = np.empty(size, np.uint8) if room is None else room(size)
        if self.importance is None or len(self.importance) == 1:
            self._quantize(rows, fmt, None if self.importance is None else self.importance[0], out)
        else:
            for i, into in enumerate(out.reshape(len(rows), -1)):
                self._quantize(rows[i], fmt, self.importance[slab.start + i], into)
        return out

    def parts(self, slab_bytes: int | None = None) -> Iterator[npt.NDArray[np.uint8]]:
        """The tensor's bytes in order, slab by slab."""
        for slab in self.slabs(slab_bytes):
            yield self.encode(self.read(slab), slab)

    def _quantize(self, rows: Floats, fmt: BlockFormat, weights: Floats | None, out: npt.NDArray[np.uint8]) -> None:
        # What a source gives was checked when it was read (sources.check).
        quantize_finite(rows, fmt, weights, self.method, self.threads, self.source.origin, out)


def run(job: Job, slot: Slot) -> Receipt:
    """Encode one tensor and write it to its place; what an executor's worker does."""
    digest = hashlib.sha256()
    offset = 0
    for part in job.parts():
        slot.write_part(offset, part)
        digest.update(part.data)
        offset += part.nbytes
    return Receipt(slot.name, 0, offset, digest.hexdigest())
