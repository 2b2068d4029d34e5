"""A file with other metadata, for which all of it is looked at: every tensor is read and compared with its digest where
it has one. So any file comes out with digests that hold, holes and disorder or not.

Data that stand as the rules for writing want them stay where they are, and a file system that shares blocks between
files shares them. All else is laid out anew. Either gives the same bytes: the plan is the same.

Who only changes metadata, and looks at no data, takes another header (reheader.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from gguflike.container import reheader, system
from gguflike.container.digest import check_tensor, patch, recorded
from gguflike.container.layout import MAX_NAME_BYTES, TensorInfo, TensorSpec, align_up
from gguflike.container.places import Gaps
from gguflike.container.plan import FilePlan, plan
from gguflike.container.reader import GGUFFile
from gguflike.container.shards import open
from gguflike.container.writer import Writer

PART_BYTES = 1 << 24  # of a tensor that are read at a time


def restate(path: str | os.PathLike[str], prefix: str, added: Mapping[str, Any]) -> None:
    """Give a file ``added`` in its metadata, in place of all keys that begin with ``prefix``; of a split model, the
    first of its files. The new file takes the old one's place when it is complete.

    DigestError where a tensor, or the header, is not what the file says that it is.
    """
    with open(path) as whole:
        file = whole.shards[0]
        metadata = {key: file.metadata.typed(key) for key in file.metadata if not key.startswith(prefix)}
        stated = recorded(file.metadata, list(file.infos))
        rewrite(file, layout(file, {**metadata, **added}), {} if stated is None else stated.tensors)


def layout(file: GGUFFile, metadata: Mapping[str, Any], *, signature: bool = False) -> FilePlan:
    """The plan of a file with these metadata and the tensors of ``file``, with digests; where the data can stay, its
    header is filled up as an edited one is. ``signature`` as of `plan`. DigestError as of `reheader.sound_header`."""
    reheader.sound_header(file)
    specs = [TensorSpec(info.name, info.shape, info.format) for info in file.infos.values()]
    longest = max((len(name.encode()) for name in file.infos), default=0)
    fill = partial(reheader.filled, file) if _stand(file) else None
    return plan(metadata, specs, long_names=longest > MAX_NAME_BYTES, signature=signature, fill=fill)


def rewrite(file: GGUFFile, planned: FilePlan, digests: Mapping[str, str]) -> None:
    """Write a file by a `layout` of it. It takes the old one's place when it is complete. DigestError where a tensor
    has not the SHA-256 that ``digests`` say."""
    header = reheader.Header(planned.header, planned.file_bytes)
    if planned.digests is not None and _stand(file) and reheader.can_share(file, header, file.path):
        texts = _compared(file, digests)
        made = patch(planned.header, planned.digests, [texts[info.name] for info in planned.tensors])
        reheader.write(file, reheader.Header(made, planned.file_bytes), file.path, overwrite=True)
        return
    with Writer(file.path, planned, digests=digests) as out:
        system.copy_mode(file.path, out.files[0].target.descriptor)
        for info in file.infos.values():
            for start in range(0, info.nbytes, _step(info)):
                stop = min(start + _step(info), info.nbytes)
                out.write_part(info.name, start, file.read(info.name, start, stop))


def digests_of(file: GGUFFile) -> dict[str, str]:
    """The SHA-256 of each tensor, all of which are read."""
    return _compared(file, {})


def _compared(file: GGUFFile, stated: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, info in file.infos.items():
        digest = hashlib.sha256()
        for start in range(0, info.nbytes, _step(info)):
            digest.update(file.read(name, start, min(start + _step(info), info.nbytes)).data)
        found[name] = digest.hexdigest()
        check_tensor(name, found[name], stated.get(name, found[name]))
    return found


def _stand(file: GGUFFile) -> bool:
    """Whether the data of a file stand as a writer puts them: in order, with nothing between and behind them but zeros
    up to the next multiple of the alignment."""
    at = file.data_offset
    for info in file.infos.values():
        if info.offset != at:
            return False
        at = align_up(at + info.nbytes, file.alignment)
    if file.byteorder != "little" or file.file_bytes != at:
        return False
    for gap in Gaps(file):
        between = bytearray(gap.end - gap.start)
        if file.fill(memoryview(between), gap.start) < len(between) or any(between):
            return False
    return True


def _step(info: TensorInfo) -> int:
    """Bytes at a time, in whole blocks."""
    return max(PART_BYTES // info.format.block_bytes, 1) * info.format.block_bytes
