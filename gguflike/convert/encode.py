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
from gguflike.convert.slabs import Slab, has_halves, read_slab, slabs, stored_slab
from gguflike.convert.sources import Floats, Source, is_half, stored_as
from gguflike.kernels.prepare import Need
from gguflike.tensor import Method, encode, takes_halves

SLAB_BYTES = 16 << 20  # bytes of float32 values read at a time; an embedding of 128k x 4096 would be 2 GiB
Rows = npt.NDArray[Any]  # float32, halves (float16, or bfloat16 as uint16), or bytes that are copied
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
        if stored is not None and (stored.is_quantized or (compiled and is_half(stored) and not self._takes_halves)):
            needs.append(Need("decode", stored.name))
        if compiled:
            needs.append(Need("encode", self.format, self.importance is not None, self.method))
        return needs

    def slabs(self, slab_bytes: int | None = None) -> list[Slab]:
        """What is read and encoded at a time, in order."""
        return slabs(self.source, SLAB_BYTES if slab_bytes is None else slab_bytes)

    def read(self, slab: Slab) -> Rows:
        """The rows of a slab: as float32, as the halves that they are stored in if the encoder takes these, or as bytes
        if those are what is wanted."""
        fmt = format_by_name(self.format)
        stored = stored_as(self.source, self.format)
        if stored is not None:
            return stored_slab(stored, slab).data
        return read_slab(self.source, slab, fmt.limit, compiled=fmt.encode is None, halves=self._takes_halves)

    @property
    def _takes_halves(self) -> bool:
        return has_halves(self.source) and takes_halves(format_by_name(self.format))

    def encode(self, rows: Rows, slab: Slab, room: Room | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of a slab that was read, where ``room`` says if they are made anew."""
        fmt = format_by_name(self.format)
        if rows.dtype == np.uint8:
            return rows
        if fmt.encode is not None:
            return fmt.encode(rows).reshape(-1).view(np.uint8)
        size = fmt.tensor_bytes(rows.shape)
        out = np.empty(size, np.uint8) if room is None else room(size)
        if not self._encode(rows, fmt, slab, out):  # some half is not finite, or too large: float32 says which
            self._encode(read_slab(self.source, slab, fmt.limit, compiled=True), fmt, slab, out)
        return out

    def parts(self, slab_bytes: int | None = None) -> Iterator[npt.NDArray[np.uint8]]:
        """The tensor's bytes in order, slab by slab."""
        for slab in self.slabs(slab_bytes):
            yield self.encode(self.read(slab), slab)

    def _encode(self, rows: Rows, fmt: BlockFormat, slab: Slab, out: npt.NDArray[np.uint8]) -> bool:
        """Encode rows into ``out``. False where halves are not finite; float32 was checked when it was read."""
        options = self.method, self.threads, self.source.origin
        if self.importance is None or len(self.importance) == 1:
            return encode(rows, fmt, None if self.importance is None else self.importance[0], *options, out)
        parts = enumerate(out.reshape(len(rows), -1))
        return all(encode(rows[i], fmt, self.importance[slab.start + i], *options, into) for i, into in parts)


def run(job: Job, slot: Slot) -> Receipt:
    """Encode one tensor and write it to its place; what an executor's worker does."""
    digest = hashlib.sha256()
    offset = 0
    for part in job.parts():
        slot.write_part(offset, part)
        digest.update(part.data)
        offset += part.nbytes
    return Receipt(slot.name, 0, offset, digest.hexdigest())
