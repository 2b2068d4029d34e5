"""One tensor from its source to bytes, slab by slab, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat, format_by_name
from gguflike.container import Receipt, Slot
from gguflike.convert.sources import STORED, Floats, Source, slabs
from gguflike.kernels.prepare import Need
from gguflike.tensor import Method, quantize

SLAB_BYTES = 32 << 20  # bytes of float32 values held at a time; an embedding of 128k x 4096 would be 2 GiB


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
        stored = self.source.stored if isinstance(self.source, STORED) else None
        if stored == self.format:
            return []
        needs = []
        if stored is not None and format_by_name(stored).is_quantized:
            needs.append(Need("decode", stored))
        if format_by_name(self.format).encode is None:
            needs.append(Need("encode", self.format, self.importance is not None, self.method))
        return needs

    def parts(self, slab_bytes: int = SLAB_BYTES) -> Iterator[npt.NDArray[np.uint8]]:
        """The tensor's bytes in order, slab by slab."""
        fmt = format_by_name(self.format)
        copied = isinstance(self.source, STORED) and self.source.stored == self.format
        for start, stop in slabs(self.source, slab_bytes):
            if copied and isinstance(self.source, STORED):
                yield self.source.part(start, stop).data
            else:
                yield self._encode(self.source.read(start, stop, fmt.limit), fmt, start)

    def _encode(self, rows: Floats, fmt: BlockFormat, start: int) -> npt.NDArray[np.uint8]:
        if fmt.encode is not None:
            return fmt.encode(rows).reshape(-1).view(np.uint8)
        if self.importance is None or len(self.importance) == 1:
            weights = None if self.importance is None else self.importance[0]
            return self._quantize(rows, fmt, weights)
        matrices = [self._quantize(rows[i], fmt, self.importance[start + i]) for i in range(len(rows))]
        return np.concatenate(matrices)

    def _quantize(self, rows: Floats, fmt: BlockFormat, weights: Floats | None) -> npt.NDArray[np.uint8]:
        done = quantize(
            rows, fmt, importance=weights, method=self.method, threads=self.threads, name=self.source.origin
        )
        return done.data


def run(job: Job, slot: Slot) -> Receipt:
    """Encode one tensor and write it to its place; what an executor's worker does."""
    digest = hashlib.sha256()
    offset = 0
    for part in job.parts():
        slot.write_part(offset, part)
        digest.update(part.data)
        offset += part.nbytes
    return Receipt(slot.name, 0, offset, digest.hexdigest())
