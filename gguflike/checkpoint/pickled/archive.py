"""The zip archives of torch.save: where each record's bytes are, found without unpacking any (APPNOTE.TXT 6.3).

Records are stored as they are, so that a storage can be read from its place in the file. What is compressed, encrypted,
overlaps something or is not where the directory says is an error.
"""

from __future__ import annotations

import os
import struct
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from gguflike.errors import CheckpointError, UnsupportedError

MAX_DIRECTORY = 1 << 26  # bytes; an entry takes about 100
_END, _END64, _LOCATOR, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_COMMENT = 1 << 16


class Record(NamedTuple):
    """A member: its bytes are at ``offset`` of the file, behind a header of its own."""

    name: str
    header: int
    offset: int
    size: int


class Archive(NamedTuple):
    """The records of a file of ``file_bytes`` by name."""

    path: Path
    file_bytes: int
    records: dict[str, Record]


def read(path: Path) -> Archive:
    """The directory of an archive. CheckpointError where it is malformed, UnsupportedError for compressed records."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start, length, count = _directory(file, size, path)
        if length > min(MAX_DIRECTORY, size - start) or count > length // 46:
            raise _wrong(path, "the directory of the archive does not fit", f"at most {MAX_DIRECTORY} bytes", length)
        file.seek(start)
        entries = _entries(file.read(length), count, path)
        records = [_record(file, entry, start, path) for entry in entries]
    _check_apart(records, path)
    table = {record.name: record for record in records}
    if len(table) != len(records):
        raise _wrong(path, "two records of the archive have one name")
    return Archive(path, size, table)


class _Entry(NamedTuple):
    name: str
    header: int
    size: int


def _wrong(path: Path, what: str, expected: object = None, got: object = None) -> CheckpointError:
    remedy = "the file is truncated or damaged; download it again"
    return CheckpointError(what, path=path, expected=expected, got=got, remedy=remedy)


def _directory(file: BufferedReader, size: int, path: Path) -> tuple[int, int, int]:
    """Where the directory begins, its bytes and its number of entries."""
    file.seek(max(0, size - _COMMENT - 22))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise _wrong(path, "the archive has no directory at its end")
    count, length, start = struct.unpack_from("<HII", tail, at + 10)
    if at < 20 or tail[at - 20 : at - 16] != _LOCATOR:
        return start, length, count
    (place,) = struct.unpack_from("<Q", tail, at - 12)
    if place > size - 56:
        raise _wrong(path, "the directory of the archive is beyond its end", f"at most {size - 56}", place)
    file.seek(place)
    end = file.read(56)
    if end[:4] != _END64:
        raise _wrong(path, "the directory of the archive is not where it says")
    count, length, start = struct.unpack_from("<QQQ", end, 32)
    if start > size or length > size:
        raise _wrong(path, "the directory of the archive is beyond its end", f"at most {size}", max(start, length))
    return start, length, count


def _entries(data: bytes, count: int, path: Path) -> list[_Entry]:
    entries, at = [], 0
    for _ in range(count):
        if data[at : at + 4] != _ENTRY or len(data) - at < 46:
            raise _wrong(path, "the directory of the archive is damaged")
        flags, method = struct.unpack_from("<HH", data, at + 8)
        packed, size, name_length, extra, comment = struct.unpack_from("<IIHHH", data, at + 20)
        (header,) = struct.unpack_from("<I", data, at + 42)
        name = data[at + 46 : at + 46 + name_length]
        if len(name) != name_length:
            raise _wrong(path, "the directory of the archive is damaged")
        field = data[at + 46 + name_length : at + 46 + name_length + extra]
        size, packed, header = _wide(field, (size, packed, header), path)
        text = name.decode("utf-8", "replace")
        if flags & 1 or method or packed != size:
            raise UnsupportedError(
                "record of the archive is compressed or encrypted",
                path=path,
                field=text[:120],
                remedy="unpack the archive and save it again with torch.save",
            )
        entries.append(_Entry(text, header, size))
        at += 46 + name_length + extra + comment
    return entries


def _wide(extra: bytes, values: tuple[int, int, int], path: Path) -> tuple[int, ...]:
    """Sizes and place of an entry, of which those that are all ones stand in the extra field, in order."""
    if 0xFFFFFFFF not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            count = min(length, len(extra) - at - 4) // 8
            wide = list(struct.unpack_from(f"<{count}Q", extra, at + 4))
            if len(wide) < values.count(0xFFFFFFFF):
                break
            return tuple(wide.pop(0) if value == 0xFFFFFFFF else value for value in values)
        at += 4 + length
    raise _wrong(path, "the directory of the archive is damaged", "sizes of 64 bits")


def _record(file: BufferedReader, entry: _Entry, limit: int, path: Path) -> Record:
    """The record of an entry, whose own header must say the same name."""
    file.seek(min(entry.header, limit))
    head = file.read(30)
    if len(head) < 30 or head[:4] != _LOCAL:
        raise _wrong(path, "record of the archive is not where the directory says", got=entry.name[:120])
    name_length, extra = struct.unpack_from("<HH", head, 26)
    if file.read(name_length) != entry.name.encode("utf-8", "replace"):
        raise _wrong(path, "record of the archive has another name than in the directory", got=entry.name[:120])
    offset = entry.header + 30 + name_length + extra
    if offset + entry.size > limit:
        raise _wrong(path, "record of the archive reaches beyond its end", f"at most {limit}", offset + entry.size)
    return Record(entry.name, entry.header, offset, entry.size)


def _check_apart(records: list[Record], path: Path) -> None:
    position = 0
    for record in sorted(records, key=lambda record: record.header):
        if record.header < position:
            raise _wrong(path, "records of the archive overlap", got=record.name[:120])
        position = record.offset + record.size
