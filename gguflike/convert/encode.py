"""One tensor from its source to bytes, slab by slab, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat, format_by_name
from gguflike.container import Receipt, Slot
from gguflike.convert.sources import Floats, GGUFSource, Source, slabs
from gguflike.tensor import Method, quantize

SLAB_BYTES = 32 << 20  # bytes of float32 values held at a time; an embedding of 128k x 4096 would be 2 GiB

# The largest value that rounding to nearest does not carry to infinity: half a step above the largest finite one.
LIMITS = {"F16": float(np.nextafter(np.float32(65520.0), np.float32(0))), "BF16": 3.3961775292304957e38}


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

    def parts(self, slab_bytes: int = SLAB_BYTES) -> Iterator[npt.NDArray[np.uint8]]:
        """The tensor's bytes in order, slab by slab."""
        fmt = format_by_name(self.format)
        copied = isinstance(self.source, GGUFSource) and self.source.stored == self.format
        limit = limit_of(self.format)
        for start, stop in slabs(self.source, slab_bytes):
            if copied and isinstance(self.source, GGUFSource):
                yield self.source.part(start, stop).data
            else:
                yield self._encode(self.source.read(start, stop, limit), fmt, start)

    def _encode(self, rows: Floats, fmt: BlockFormat, start: int) -> npt.NDArray[np.uint8]:
        scalar = SCALARS.get(fmt.name)
        if scalar is not None:
            return scalar(rows).reshape(-1).view(np.uint8)
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


def limit_of(name: str) -> float:
    """The largest value that can be stored.

    Block types have float16 scales, beyond which encoders saturate; no code of theirs is below 1, so 65504 always fits.
    """
    if format_by_name(name).is_quantized:
        return 65504.0
    return LIMITS.get(name, float(np.finfo(np.float32).max))


def run(job: Job, slot: Slot) -> Receipt:
    """Encode one tensor and write it to its place; what an executor's worker does."""
    digest = hashlib.sha256()
    offset = 0
    for part in job.parts():
        slot.write_part(offset, part)
        digest.update(part.data)
        offset += part.nbytes
    return Receipt(slot.name, 0, offset, digest.hexdigest())


def _f32(x: Floats) -> npt.NDArray[np.generic]:
    return x.astype("<f4", copy=False)


def _f16(x: Floats) -> npt.NDArray[np.generic]:
    return x.astype("<f2")


def _bf16(x: Floats) -> npt.NDArray[np.generic]:
    """The upper half of a float32, rounded to nearest, ties to even; ``x`` is finite."""
    bits = np.ascontiguousarray(x, "<f4").view("<u4")
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    upper: npt.NDArray[np.generic] = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    return upper


SCALARS: dict[str, Callable[[Floats], npt.NDArray[np.generic]]] = {"F32": _f32, "F16": _f16, "BF16": _bf16}
