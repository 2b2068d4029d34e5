"""A file laid out anew with other metadata: every tensor is read, compared with its digest where it has one, and
written where the rules for writing want it. So any file comes out with digests that hold, holes and disorder or not.

Who only changes metadata, and looks at no data, takes another header (reheader.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gguflike.container.digest import recorded
from gguflike.container.layout import MAX_NAME_BYTES, TensorInfo, TensorSpec
from gguflike.container.plan import FilePlan, plan
from gguflike.container.reader import GGUFFile
from gguflike.container.shards import open
from gguflike.container.writer import Writer

PART_BYTES = 1 << 24  # of a tensor that are copied at a time


def restate(path: str | os.PathLike[str], prefix: str, added: Mapping[str, Any]) -> None:
    """Write a file anew with ``added`` in its metadata, in place of all keys that begin with ``prefix``; of a split
    model, the first of its files. It takes the old one's place when it is complete.

    DigestError where a tensor is not what the file says that it is.
    """
    with open(path) as whole:
        file = whole.shards[0]
        metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(prefix)}
        stated = recorded(file.metadata, list(file.infos))
        rewrite(file, layout(file, {**metadata, **added}), None if stated is None else stated.tensors)


def layout(file: GGUFFile, metadata: Mapping[str, Any], *, signature: bool = False) -> FilePlan:
    """The plan of a file with these metadata and the tensors of ``file``, with digests. ``signature`` as of `plan`."""
    specs = [TensorSpec(info.name, info.shape, info.format) for info in file.infos.values()]
    longest = max((len(name.encode()) for name in file.infos), default=0)
    return plan(metadata, specs, long_names=longest > MAX_NAME_BYTES, signature=signature)


def rewrite(file: GGUFFile, planned: FilePlan, digests: Mapping[str, str] | None) -> None:
    """Write a file anew by a plan of the same tensors, whose data are copied. It takes the old one's place when it is
    complete. DigestError where a tensor has not the SHA-256 that ``digests`` say."""
    with Writer(file.path, planned, digests=digests) as out:
        for info in file.infos.values():
            for start in range(0, info.nbytes, step(info)):
                stop = min(start + step(info), info.nbytes)
                out.write_part(info.name, start, file.read(info.name, start, stop))


def step(info: TensorInfo) -> int:
    """Bytes at a time, in whole blocks."""
    return max(PART_BYTES // info.format.block_bytes, 1) * info.format.block_bytes
