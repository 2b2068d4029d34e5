"""A file with another header: what stands behind it stays as it is, byte for byte, and is not looked at (restate.py
looks at all of it first).

Records of metadata that are not changed are copied as they stand, and so are the tensors'. The file with the new header
is a new one, which takes the old one's place when it is complete: a header that is written over could be neither the
old nor the new one for whoever reads it meanwhile, or after a crash.

A file system that shares blocks between files (Btrfs, XFS) shares those of the data, where they stand as far into a
block as before. Headers of files that are worth it are filled up so that they do, with a value of zero bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from gguflike.container import digest, system
from gguflike.container.layout import HEADER_BYTES, MAX_HEADER_BYTES, PADDING_KEY, align_up, check_key
from gguflike.container.plan import padding
from gguflike.container.reader import GGUFFile
from gguflike.container.system import SHARED_BLOCK
from gguflike.container.target import StrPath, whole_file
from gguflike.container.values import Typed, encode_string, encode_value
from gguflike.errors import DigestError, GGUFError, UnsupportedError

#: Files from this size on have their headers filled up: others are copied in no time.
FILLED_BYTES = 1 << 24
#: Bytes that are filled up at most for the data to stay where they are, when a header becomes shorter.
MOST_PADDING = 1 << 16
PADDING_BYTES = 8 + len(PADDING_KEY) + 4 + 4 + 8  # of a record that holds none: key, type, item type, count


@dataclass(frozen=True)
class Header:
    """A header that a file could have: its bytes, up to the data section, and how large the whole file is then."""

    data: bytes
    file_bytes: int


def header_of(file: GGUFFile, names: Mapping[str, str], values: Mapping[str, Typed]) -> Header:
    """The header of ``file`` with other metadata.

    ``names``: by each key that stays, what it is called, in the order of the file; ``values``: what keys, by their new
    names, have instead, and what is added. Where the file has digests, its header's is that of the new header. From
    FILLED_BYTES on, `gguflike.padding` fills the header up, so that the data stay where they are, or move by whole
    blocks.

    UnsupportedError for a big-endian file, GGUFError where the header would break a rule; DigestError as of
    `sound_header`.
    """
    if file.byteorder != "little":
        raise UnsupportedError(
            "the header of a big-endian file cannot be edited",
            path=file.path,
            remedy="write it anew first: what `gguflike quantize` writes is little-endian",
        )
    old, stated = sound_header(file), digest.recorded(file.metadata, list(file.infos))
    records = _records(file)
    names = {key: name for key, name in names.items() if key != PADDING_KEY}
    parts, place, size = [], -1, HEADER_BYTES
    for key, name in names.items():
        start, value_at, end = records[key]
        check_key(name.encode())
        head = encode_string(name, "key")
        value = encode_value(values[name], name) if name in values else old[value_at:end]
        if name == digest.HEADER_KEY:
            place = size + len(head) + 4 + 8  # behind type and length
        parts.append(head + value if name in values or name != key else old[start:end])
        size += len(parts[-1])
    stay = set(names.values())
    added = [name for name in values if name not in stay]
    for name in added:
        check_key(name.encode())
    parts += [encode_string(name, "key") + encode_value(values[name], name) for name in added]
    tensors = old[max((end for _, _, end in records.values()), default=HEADER_BYTES) : file.header_bytes]
    zeros = filled(file, HEADER_BYTES + sum(map(len, parts)) + len(tensors))
    if zeros is not None:
        parts.append(padding(zeros))
    count = len(names) + len(added) + (zeros is not None)
    made = b"".join([old[:16], count.to_bytes(8, "little"), *parts, tensors])
    made = made.ljust(align_up(len(made), file.alignment), b"\0")
    if len(made) > MAX_HEADER_BYTES:
        raise GGUFError(
            "header would be too large", rule="C-006", expected=f"at most {MAX_HEADER_BYTES}", got=len(made)
        )
    if stated is not None and place >= 0:
        own = digest.header_digest([made], place).encode()
        made = made[:place] + own + made[place + digest.WIDTH :]
    return Header(made, len(made) + max(file.file_bytes - file.data_offset, 0))


def filled(file: GGUFFile, length: int) -> int | None:
    """How many zeros fill up a header of ``length`` bytes that ``file`` is to have, its end not yet aligned; None where
    none do."""
    if file.file_bytes < FILLED_BYTES:
        return None
    step = max(SHARED_BLOCK, file.alignment)
    end = file.data_offset
    if not length <= end <= length + MOST_PADDING:
        end = length + (end - length) % step
    if align_up(length, file.alignment) == end:
        return None
    if end < length + PADDING_BYTES:
        end += step
    return end - length - PADDING_BYTES


def write(file: GGUFFile, header: Header, out: StrPath, overwrite: bool) -> bool:
    """Write ``file`` with another header: the target, which may be the file itself, is what it was before, or complete.
    Whether the file system shares what is behind the header between the two.

    OutputError where the system refuses, the target is a folder, or it exists and ``overwrite`` is false. GGUFError
    where the file changes meanwhile.
    """
    with whole_file(out, header.file_bytes, overwrite) as target:
        system.write_at(target.descriptor, header.data, 0)
        shared = file.copy_data(target.descriptor, len(header.data))
        system.copy_mode(file.path, target.descriptor)
    return shared


def can_share(file: GGUFFile, header: Header, out: StrPath) -> bool:
    """Whether `write` would find that the file system shares what is behind the header."""
    folder = os.path.dirname(os.path.realpath(out))  # noqa: PTH120 - text
    return (len(header.data) - file.data_offset) % SHARED_BLOCK == 0 and file.can_share(folder)


def sound_header(file: GGUFFile) -> bytes:
    """All before the data section. DigestError where the file says another SHA-256 of it: what somebody else has
    changed is not to be vouched for."""
    data = bytearray(file.data_offset)
    if file.fill(memoryview(data), 0) < file.header_bytes:
        raise GGUFError("the file became shorter while it was read", path=file.path, rule="C-025")
    stated = digest.recorded(file.metadata, list(file.infos))
    if stated is not None and digest.header_digest([memoryview(data)], stated.header_at) != stated.header:
        raise DigestError(
            "the header is not the one that was written",
            path=file.path,
            field=digest.HEADER_KEY,
            rule="M-003",
            remedy="the file is damaged or was edited by something that knows no digests: get it again",
        )
    return bytes(data)


def _records(file: GGUFFile) -> dict[str, tuple[int, int, int]]:
    """By key, where its record begins, where the type of its value stands, and where the record ends."""
    found, at = {}, HEADER_BYTES
    for key in file.metadata:
        end = file.metadata.entry(key).end
        found[key] = at, at + 8 + len(key.encode()), end
        at = end
    return found
