"""GGUF files byte by byte: an independent statement of the format, which uses nothing of the package.

For files that are wrong on purpose (gen_bad_vectors.py, bad_models.py, fuzz_mutations.py): any length, count, type or
offset may be said to be what it is not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_Q8_0, TYPE_Q2_0 = 0, 1, 2, 8, 42
TOP = 2**64 - 1
_CODES = {
    **{U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", U64: "Q", I64: "q"},
    **{F32: "f", F64: "d", BOOL: "B"},
}


def string(text: str | bytes, length: int | None = None, order: str = "<") -> bytes:
    """A GGUF string; ``length`` overrides the true one."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(order + "Q", len(data) if length is None else length) + data


def scalar(kind: int, value: float, order: str = "<") -> bytes:
    return struct.pack(order + _CODES[kind], value)


def array(kind: int, count: int, items: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "IQ", kind, count) + items


def array_of_strings(items: Sequence[str | bytes], order: str = "<") -> bytes:
    return array(STRING, len(items), b"".join(string(item, order=order) for item in items), order)


def array_of_numbers(kind: int, items: Sequence[float], order: str = "<") -> bytes:
    return array(kind, len(items), b"".join(scalar(kind, item, order) for item in items), order)


def kv(key: str | bytes, kind: int, payload: bytes, order: str = "<") -> bytes:
    """A metadata record."""
    return string(key, order=order) + struct.pack(order + "I", kind) + payload


def u32(key: str, value: int, order: str = "<") -> bytes:
    return kv(key, U32, scalar(U32, value, order), order)


def f32(key: str, value: float) -> bytes:
    return kv(key, F32, scalar(F32, value))


def text(key: str, value: str | bytes) -> bytes:
    return kv(key, STRING, string(value))


def array_of(key: str, kind: int, count: int, payload: bytes) -> bytes:
    return kv(key, ARRAY, array(kind, count, payload))


def strings(key: str, items: Sequence[str | bytes]) -> bytes:
    return kv(key, ARRAY, array_of_strings(items))


def numbers(key: str, kind: int, items: Sequence[float]) -> bytes:
    return kv(key, ARRAY, array_of_numbers(kind, items))


def tensor(
    name: str | bytes, dims: Sequence[int], kind: int, offset: int, n_dims: int | None = None, order: str = "<"
) -> bytes:
    """A tensor record; ``dims`` with the fastest axis first."""
    count = len(dims) if n_dims is None else n_dims
    return (
        string(name, order=order)
        + struct.pack(f"{order}I{len(dims)}Q", count, *dims)
        + struct.pack(order + "IQ", kind, offset)
    )


def build(
    kvs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_kv: int | None = None,
    alignment: int = 32,
    order: str = "<",
) -> bytes:
    """A whole file; the header is padded where data follows."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(kvs) if n_kv is None else n_kv)
    head = magic + struct.pack(order + "IQQ", version, *counts) + b"".join(kvs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment if data else 0) + data


def floats(count: int) -> bytes:
    return struct.pack(f"<{count}f", *range(1, count + 1))
