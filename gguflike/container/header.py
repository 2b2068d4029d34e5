"""Parsing of a header: every number is checked against the bytes that are left before it is used.

Each record is judged here by itself; what they amount to together is judged by `gguflike.container.validate`."""

from __future__ import annotations

import struct
from array import array
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.container import pieces
from gguflike.container.cursor import Cursor
from gguflike.container.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    HEADER_BYTES,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MIN_KV_BYTES,
    MIN_STRING_BYTES,
    MIN_TENSOR_BYTES,
    READABLE_VERSIONS,
    align_up,
    check_alignment,
    check_key,
    check_name,
    known_format,
    tensor_bytes,
)
from gguflike.container.metadata import Entry, Metadata
from gguflike.container.strings import StringOverrun, skip_strings
from gguflike.container.values import SIZES, ValueType
from gguflike.errors import GGUFError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks import BlockFormat

# Columns of the table of tensors: ggml's four dimensions, their number, type id, relative offset, bytes, and where in
# the header the offset stands. A table of numbers, not of objects: 200,000 tensors take 14 MB.
NE, N_DIMS, TYPE, OFFSET, NBYTES, PLACE = slice(0, 4), 4, 5, 6, 7, 8
COLUMNS = 9

KINDS = tuple(ValueType)  # by their ids
SURELY_FITS = 1 << 52  # weights of which the bytes fit 63 bits, whatever the type
_ONES = tuple((1,) * (MAX_DIMS - n_dims) for n_dims in range(MAX_DIMS + 1))  # the dimensions that a tensor does not say
_NONE = (0, 0)


class Header(NamedTuple):
    """A parsed header. ``table`` has one row of COLUMNS numbers per tensor, ``names`` its row numbers."""

    version: int
    order: str  # "<" or ">"
    metadata: Metadata
    alignment: int
    data_offset: int
    end: int  # where the last tensor record ends; padding up to data_offset follows
    names: dict[str, int]
    table: npt.NDArray[np.uint64]


def parse(buffer: Any, path: str, file_bytes: int | None = None) -> Header:
    """Parse the header at the start of ``buffer``: the whole file, mapped, or the beginning of one of ``file_bytes``.
    GGUFError with place and rule, which for a beginning that is too short is one that `is_cut` knows."""
    try:
        return _parsed(Cursor(buffer, path, file_bytes))
    except GGUFError as error:
        error.remedy = pieces.remedy(path) or error.remedy
        raise


def _parsed(cursor: Cursor) -> Header:
    version, order = _preamble(cursor)
    tensor_count_at = cursor.position
    tensor_count = cursor.read_u64("tensor_count")
    kv_count_at = cursor.position
    kv_count = cursor.read_u64("metadata_count")
    cursor.count(tensor_count, MIN_TENSOR_BYTES, "C-003", "tensor_count", tensor_count_at)
    cursor.count(kv_count, MIN_KV_BYTES, "C-004", "metadata_count", kv_count_at)
    entries = _metadata(cursor, kv_count, order)
    metadata = Metadata(cursor.buffer, order, entries)
    alignment = _alignment(cursor, metadata)
    names, table = _tensors(cursor, tensor_count, order)
    data_offset = align_up(cursor.position, alignment)
    return Header(
        version=version,
        order=order,
        metadata=metadata,
        alignment=alignment,
        data_offset=data_offset,
        end=cursor.position,
        names=names,
        table=table,
    )


def is_cut(error: GGUFError, file_bytes: int) -> bool:
    """Whether parsing the beginning of a file of ``file_bytes`` failed because the header goes on behind it."""
    if error.rule == "C-007" and isinstance(error.got, int):
        return error.got <= file_bytes - (error.offset or 0) - 8
    return error.rule == "C-006"


def _preamble(cursor: Cursor) -> tuple[int, str]:
    """Magic and version; sets the byte order."""
    start = bytes(cursor.buffer[:HEADER_BYTES])
    if start[:4] != MAGIC:
        what, remedy = _impostor(cursor.buffer)
        cursor.fail(what, "C-001", "magic", expected="'GGUF'", got=repr(start[:8]), remedy=remedy)
    cursor.position = 4
    cursor.need(HEADER_BYTES - 4, "version")
    little, big = (struct.unpack_from(order + "I", start, 4)[0] for order in "<>")
    cursor.position = 8
    if little in READABLE_VERSIONS:
        return little, "<"
    if big in READABLE_VERSIONS:
        cursor.set_order(">")
        return big, ">"
    remedy = "the file is damaged or made by a newer tool"
    if 1 in (little, big):
        remedy = "convert the model again: version 1 was in use for a few weeks of 2023"
    raise cursor.error(
        "GGUF version is not supported",
        "C-002",
        "version",
        offset=4,
        expected="2 or 3, in either byte order",
        got=little,
        remedy=remedy,
    )


def _impostor(buffer: Any) -> tuple[str, str]:
    """What a file without the magic may be, and what to do."""
    from gguflike import foreign

    return foreign.describe(bytes(buffer[: foreign.SAMPLE]), "GGUF") or (
        "not a GGUF file",
        "check that this is the file you meant",
    )


def _metadata(cursor: Cursor, count: int, order: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for index in range(count):
        cursor.at = ("metadata", index)
        start = cursor.position
        key = cursor.read_text("key", check_key)
        if key in entries:
            cursor.fail("duplicate key", "C-010", "key", offset=start, got=repr(key))
        cursor.at = ("metadata", index, key)
        kind = _value_type(cursor, "type")
        entries[key] = _array(cursor, order) if kind is ValueType.ARRAY else _value(cursor, kind)
    return entries


def _value_type(cursor: Cursor, part: str) -> ValueType:
    number = cursor.read_u32(part)
    if number >= len(KINDS):
        cursor.fail("unknown metadata type", "C-011", part, offset=cursor.position - 4, expected="0 to 12", got=number)
    return KINDS[number]


def _value(cursor: Cursor, kind: ValueType) -> Entry:
    if kind is ValueType.STRING:
        start, end = cursor.read_span("value")
        return Entry(kind, None, end - start, start, end)
    start, size = cursor.position, SIZES[kind]
    if cursor.end - start < size:
        cursor.need(size, "value")
    cursor.position = end = start + size
    if kind is ValueType.BOOL and cursor.buffer[start] > 1:
        _check_bools(cursor, start, 1)
    return Entry(kind, None, 1, start, end)


def _array(cursor: Cursor, order: str) -> Entry:
    kind = _value_type(cursor, "item_type")
    if kind is ValueType.ARRAY:
        cursor.fail("arrays of arrays are not allowed", "C-012", "item_type", offset=cursor.position - 4)
    count_at = cursor.position
    count = cursor.read_u64("count")
    least = MIN_STRING_BYTES if kind is ValueType.STRING else SIZES[kind]
    cursor.count(count, least, "C-013", "count", count_at)
    start = cursor.position
    if kind is ValueType.STRING:
        try:
            cursor.position = skip_strings(cursor.buffer, start, count, cursor.end, order)
        except StringOverrun as overrun:
            cursor.fail(
                "string is longer than what is left of the header",
                "C-007",
                f"value[{overrun.index}]",
                offset=overrun.position,
                expected=f"at most {max(cursor.end - overrun.position - 8, 0)} bytes",
                got=overrun.length,
            )
    else:
        cursor.position += count * least
        if kind is ValueType.BOOL:
            _check_bools(cursor, start, count)
    return Entry(ValueType.ARRAY, kind, count, start, cursor.position)


def _check_bools(cursor: Cursor, start: int, count: int) -> None:
    values = np.frombuffer(cursor.buffer, np.uint8, count, start)
    bad = np.flatnonzero(values > 1)
    if len(bad):
        cursor.fail("BOOL is neither 0 nor 1", "C-014", "value", offset=start + int(bad[0]), got=int(values[bad[0]]))


def _alignment(cursor: Cursor, metadata: Metadata) -> int:
    if ALIGNMENT_KEY not in metadata:
        return DEFAULT_ALIGNMENT
    entry = metadata.entry(ALIGNMENT_KEY)
    if entry.type is not ValueType.UINT32 or not check_alignment(metadata[ALIGNMENT_KEY]):
        cursor.at = ("metadata",)
        cursor.fail(
            "alignment is not usable",
            "C-015",
            ALIGNMENT_KEY,
            offset=entry.start,
            expected=f"a UINT32 that is a power of two, at most {MAX_ALIGNMENT}",
            got=metadata.shown(ALIGNMENT_KEY),
        )
    return int(metadata[ALIGNMENT_KEY])


def _tensors(cursor: Cursor, count: int, order: str) -> tuple[dict[str, int], npt.NDArray[np.uint64]]:
    """Names, and the table of numbers."""
    names: dict[str, int] = {}
    rows = array("Q")
    records = [struct.Struct(f"{order}{n_dims}QIQ") for n_dims in range(MAX_DIMS + 1)]  # behind the number of dims
    blocks: dict[int, tuple[int, int]] = {}  # weights and bytes of a block, of the types met so far
    buffer, end = cursor.buffer, cursor.end
    for index in range(count):
        cursor.at = ("tensor", index)
        start = cursor.position
        name = cursor.read_text("name", check_name)
        if name in names:
            cursor.fail("duplicate tensor name", "C-019", "name", offset=start, got=repr(name))
        names[name] = index
        n_dims, at = cursor.read_u32("n_dims"), cursor.position
        if n_dims > MAX_DIMS:
            cursor.fail("too many dimensions", "C-020", "n_dims", offset=at - 4, expected="0 to 4", got=n_dims)
        record = records[n_dims]
        if end - at < record.size:
            cursor.need(record.size, "dims")
        *dims, kind, offset = record.unpack_from(buffer, at)
        block, block_bytes = blocks.get(kind, _NONE)
        weights = prod(dims)
        if block and (dims[0] if dims else 1) % block == 0 and (weights or prod(filter(None, dims))) < SURELY_FITS:
            nbytes = weights // block * block_bytes
        else:
            fmt, nbytes = _measured(cursor, dims, kind, name)
            blocks[kind] = fmt.block_size, fmt.block_bytes
        cursor.position = at = at + record.size
        rows.extend((*dims, *_ONES[n_dims], n_dims, kind, offset, nbytes, at - 8))
    return names, np.asarray(rows, np.uint64).reshape(count, COLUMNS)


def _measured(cursor: Cursor, dims: list[int], kind: int, name: str) -> tuple[BlockFormat, int]:
    """The format and the bytes of a tensor that may be wrong: GGUFError where it is."""
    part, at = "type", cursor.position + 8 * len(dims)
    try:
        fmt = known_format(kind)
        part, at = "dims", cursor.position
        return fmt, tensor_bytes(tuple(dims), fmt)
    except GGUFError as error:
        cursor.relocate(error, part, at, name)
