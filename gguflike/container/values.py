"""Metadata values: GGUF's type ids, and the bytes of a value of each type.

Plain Python values get the type that llama.cpp's own tools use for them; ``Typed`` forces another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np

from gguflike.errors import GGUFError
from gguflike.frozen import frozen


class ValueType(IntEnum):
    """GGUF's ids of metadata types."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# struct codes of the scalar types, without byte order. The one list from which sizes and dtypes derive.
CODES: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
SIZES: dict[ValueType, int] = {kind: struct.calcsize("=" + code) for kind, code in CODES.items()}
INTEGERS = frozenset(kind for kind, code in CODES.items() if code in "BbHhIiQq")
_BY_DTYPE = {np.dtype(code): kind for kind, code in CODES.items()}


@cache
def dtype_of(kind: ValueType, order: str) -> np.dtype[Any]:
    """numpy dtype of a scalar type as stored; ``order`` is "<" or ">"."""
    return np.dtype(order + CODES[kind])


@cache
def reader_of(kind: ValueType, order: str) -> Callable[[Any, int], tuple[Any, ...]]:
    """What reads one number, as Python has it, from a place in a buffer, in a tuple."""
    return struct.Struct(order + CODES[kind]).unpack_from


@frozen
class Typed:
    """A value with the type it is to be stored as; ``item_type`` is that of an array's elements."""

    value: Any
    type: ValueType
    item_type: ValueType | None = None


def typed(value: Any) -> Typed:
    """The stored type of a plain value: what ``gguflike.container.plan`` does with untyped metadata.

    bool -> BOOL, int -> UINT32 (INT32 when negative, 64 bits where 32 do not hold it), float -> FLOAT32, str or
    bytes -> STRING, numpy scalar or array -> its dtype, sequence -> ARRAY of STRING, BOOL, INT32 (64 bits where
    needed) or FLOAT32. GGUFError (M-002) for anything else, an empty sequence without a type among it.
    """
    if isinstance(value, Typed):
        return value
    if isinstance(value, (bool, np.bool_)):
        return Typed(bool(value), ValueType.BOOL)
    if isinstance(value, np.generic):
        kind = _BY_DTYPE.get(value.dtype.newbyteorder("="))
        if kind is None:
            raise _unstorable(value)
        return Typed(value.item(), kind)
    if isinstance(value, int):
        return Typed(value, _integer_type(value, value, ValueType.INT32 if value < 0 else ValueType.UINT32))
    if isinstance(value, float):
        return Typed(value, ValueType.FLOAT32)
    if isinstance(value, (str, bytes)):
        return Typed(value, ValueType.STRING)
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        kind = _BY_DTYPE.get(value.dtype.newbyteorder("="))
        if kind is None or value.ndim != 1:
            raise _unstorable(value)
        return Typed(value, ValueType.ARRAY, kind)
    if isinstance(value, (list, tuple, np.ndarray)):
        items = list(value)
        return Typed(items, ValueType.ARRAY, _item_type(items))
    raise _unstorable(value)


def _unstorable(value: Any) -> GGUFError:
    kind = f"array of {value.dtype}, {value.ndim} axes" if isinstance(value, np.ndarray) else type(value).__name__
    return GGUFError(
        "GGUF has no type for this metadata value",
        rule="M-002",
        expected="bool, int, float, str or a flat array of one of them",
        got=kind,
        remedy="convert it, or give its type with Typed(value, type, item_type)",
    )


def _integer_type(low: int, high: int, narrow: ValueType) -> ValueType:
    for kind in (narrow, ValueType.INT64, ValueType.UINT64):
        info = np.iinfo(CODES[kind])
        if info.min <= low and high <= info.max:
            return kind
    raise GGUFError(
        "64 bits do not hold this metadata value",
        rule="M-002",
        expected="-2^63 to 2^63 - 1, or 0 to 2^64 - 1",
        got=str(low) if low == high else f"{low} to {high}",
    )


def _item_type(items: list[Any]) -> ValueType:
    if items and _are_strings(items):
        return ValueType.STRING
    if items and all(isinstance(item, (bool, np.bool_)) for item in items):
        return ValueType.BOOL
    if items and all(isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in items):
        return _integer_type(int(min(items)), int(max(items)), ValueType.INT32)
    numbers = (int, float, np.integer, np.floating)
    if items and all(isinstance(item, numbers) and not isinstance(item, bool) for item in items):
        return ValueType.FLOAT32
    raise _unstorable(items)


def _are_strings(items: Any) -> bool:
    """Whether all are text, of a vocabulary say; looking at each takes ten times as long."""
    return set(map(type, items)) <= {str, bytes} or all(isinstance(item, (str, bytes)) for item in items)


def encode_string(text: str | bytes, what: str) -> bytes:
    """Length and UTF-8 bytes. GGUFError (C-104) where it is not UTF-8: we read such strings but never write them."""
    try:
        data = text.encode() if isinstance(text, str) else text
        if isinstance(text, bytes):
            text.decode()
    except UnicodeError as error:
        raise GGUFError("string is not UTF-8", rule="C-104", field=what, got=repr(text), remedy="replace it") from error
    return len(data).to_bytes(8, "little") + data


def encode_value(item: Typed, what: str) -> bytes:
    """Type id and little-endian bytes of a value, as they stand behind its key. ``what`` names it in errors."""
    kind = ValueType(item.type)
    head = int(kind).to_bytes(4, "little")
    if kind is ValueType.STRING:
        if not isinstance(item.value, (str, bytes)):
            raise _mismatch(item, what)
        return head + encode_string(item.value, what)
    if kind is ValueType.ARRAY:
        return head + _encode_array(item, what)
    return head + _encode_scalars([item.value], kind, item, what)


def _encode_array(item: Typed, what: str) -> bytes:
    if item.item_type is None or item.item_type == ValueType.ARRAY:
        raise GGUFError("an array needs a scalar or string item type", rule="C-012", field=what, got=item.item_type)
    kind = ValueType(item.item_type)
    values = item.value
    head = int(kind).to_bytes(4, "little") + len(values).to_bytes(8, "little")
    if kind is not ValueType.STRING:
        return head + _encode_scalars(values, kind, item, what)
    if not _are_strings(values):
        raise _mismatch(item, what)
    try:
        encoded = list(map(str.encode, values))
    except (TypeError, UnicodeError):  # there are bytes, or one is not UTF-8: which?
        return head + b"".join(encode_string(text, f"{what}[{i}]") for i, text in enumerate(values))
    room = bytes(8)  # for the length before each
    data = np.frombuffer(bytearray(room.join([b"", *encoded])), np.uint8)
    sizes = np.fromiter(map(len, encoded), "<u8", len(encoded))
    places = np.cumsum(sizes + 8) - sizes - 8
    data[places[:, None] + np.arange(8, dtype=np.uint64)] = sizes[:, None].view(np.uint8)
    return head + data.tobytes()


def _encode_scalars(values: Any, kind: ValueType, item: Typed, what: str) -> bytes:
    """Little-endian bytes of numbers, refusing any that the type cannot hold: fractions, overflow, the wrong kind, and
    whole numbers that it would round. Fractions are rounded, as every reader expects."""
    target = dtype_of(kind, "<")
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[target.kind]
    if len(values) == 0:
        return b""
    packed = isinstance(values, np.ndarray)
    kinds = {values.dtype.kind} if packed else {_number_kind(number) for number in set(map(type, values))}
    if not kinds <= set(allowed) or (packed and values.ndim != 1):
        raise _mismatch(item, what)
    if target.kind in "iu":
        info = np.iinfo(target)
        if int(min(values)) < info.min or int(max(values)) > info.max:
            raise _mismatch(item, what)
        return np.asarray(values, target).tobytes()
    if target.kind == "f" and not kinds.isdisjoint("iu"):
        _check_whole(values, target, item, what)
    with np.errstate(over="ignore", under="ignore"):
        source = np.asarray(values, np.float64 if target.kind == "f" else target)
        stored = source.astype(target)
    lost = (np.isinf(stored) & np.isfinite(source)) | ((stored == 0) & (source != 0))
    if bool(lost.any()):  # too large, or so small that nothing is left
        raise _mismatch(item, what)
    return stored.tobytes()


def _check_whole(values: Any, target: np.dtype[Any], item: Typed, what: str) -> None:
    """Raise where one of the whole numbers among ``values`` is none that floats of the type ``target`` hold."""
    exact = 2 ** (np.finfo(target).nmant + 1)  # up to here they hold all
    for index, number in enumerate(values):
        whole = int(number) if isinstance(number, (int, np.integer)) else 0
        if not -exact <= whole <= exact and not _is_held(whole, target):
            raise _mismatch(item, what if item.item_type is None else f"{what}[{index}]", whole)


def _is_held(number: int, target: np.dtype[Any]) -> bool:
    try:
        with np.errstate(over="ignore"):
            return int(target.type(number)) == number
    except OverflowError:  # it is infinite
        return False


def _number_kind(number: type) -> str:
    """numpy's letter for a Python or numpy number's kind ("b", "i", "u", "f"); "O" for anything else."""
    if issubclass(number, np.generic):
        return np.dtype(number).kind
    kinds = {bool: "b", int: "i", float: "f"}  # in this order: bool is an int
    return next((letter for kind, letter in kinds.items() if issubclass(number, kind)), "O")


def _mismatch(item: Typed, what: str, number: int | None = None) -> GGUFError:
    """The error of a value, or of one ``number`` in it."""
    kind = item.type.name if item.item_type is None else f"{item.type.name} of {ValueType(item.item_type).name}"
    shown = repr(item.value if number is None else number)
    return GGUFError(
        f"metadata value cannot be stored as {kind}",
        rule="M-002",
        field=what,
        got=shown if len(shown) <= 80 else shown[:77] + "...",
        remedy="give a value that the type holds exactly"
        + ("" if number is None else f", or {number}.0 for the nearest that it holds"),
    )
