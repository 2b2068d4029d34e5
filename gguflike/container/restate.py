"""A file with other metadata of its own: the tensors stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gguflike.container.digest import recorded
from gguflike.container.layout import MAX_NAME_BYTES, TensorInfo, TensorSpec
from gguflike.container.plan import plan
from gguflike.container.shards import open_shards
from gguflike.container.writer import Writer

PART_BYTES = 1 << 24  # of a tensor that are copied at a time


def restate(path: str | os.PathLike[str], prefix: str, added: Mapping[str, Any]) -> None:
    """Write a file anew with ``added`` in its metadata, in place of all keys that begin with ``prefix``; of a split
    model, the first of its files. It takes the old one's place when it is complete.

    DigestError where a tensor is not what the file says that it is.
    """
    files = open_shards(path)
    try:
        file = files[0]
        metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(prefix)}
        infos = list(file.infos.values())
        layout = plan(
            {**metadata, **added},
            [TensorSpec(info.name, info.shape, info.format) for info in infos],
            long_names=any(len(info.name.encode()) > MAX_NAME_BYTES for info in infos),
        )
        stated = recorded(file.metadata, [info.name for info in infos])
        with Writer(file.path, layout, digests=None if stated is None else stated.tensors) as out:
            for info in infos:
                for start in range(0, info.nbytes, _step(info)):
                    stop = min(start + _step(info), info.nbytes)
                    out.write_part(info.name, start, file.read(info.name, start, stop))
    finally:
        for each in files:
            each.close()


def _step(info: TensorInfo) -> int:
    """Bytes at a time, in whole blocks."""
    return max(PART_BYTES // info.format.block_bytes, 1) * info.format.block_bytes
