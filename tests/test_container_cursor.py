"""The cursor that headers are read with: what fits to the byte is read, one byte less is an error that says where."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from gguflike.container import cursor as cursors
from gguflike.container.cursor import Cursor
from gguflike.errors import GGUFError

LIMIT = 40


def text(data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if length is None else length) + data


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MAX_HEADER_BYTES", LIMIT)


@pytest.mark.parametrize(("method", "size"), [("read_u32", 4), ("read_u64", 8)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers(method: str, size: int, order: str) -> None:
    cursor = Cursor(bytes(range(1, 2 * size + 1)), "f.gguf")
    cursor.set_order(order)
    for start in (1, 1 + size):
        data = bytes(range(start, start + size))
        assert getattr(cursor, method)("x") == int.from_bytes(data, "little" if order == "<" else "big")
    assert cursor.position == 2 * size


@pytest.mark.parametrize(("method", "size", "there"), [("read_u32", 4, 3), ("read_u64", 8, 7), ("read_span", 8, 0)])
def test_a_number_that_is_cut(method: str, size: int, there: int) -> None:
    cursor = Cursor(bytes(4 + there), "f.gguf")
    cursor.position, cursor.at = 4, ("record", 7)
    with pytest.raises(GGUFError, match="ends inside the header") as caught:
        getattr(cursor, method)("part")
    error = caught.value
    assert (error.rule, error.path, error.offset, error.field) == ("C-005", "f.gguf", 4, "record[7].part")
    assert (error.expected, error.got) == (f"{size} more bytes", f"{there}")


def test_strings() -> None:
    cursor = Cursor(text(b"abc") + text(b"") + text(b"z"), "f.gguf")
    assert cursor.read_span("x") == (8, 11)
    assert cursor.read_text("x", bytes.decode) == ""
    assert cursor.read_text("x", bytes.decode) == "z"
    assert cursor.position == 28


def test_a_string_longer_than_the_file() -> None:
    cursor = Cursor(text(b"") + text(b"abc", 4), "f.gguf")
    cursor.position = 8
    with pytest.raises(GGUFError, match="string is longer") as caught:
        cursor.read_span("part")
    error = caught.value
    assert (error.rule, error.offset, error.expected, error.got) == ("C-007", 8, "at most 3 bytes", 4)


@pytest.mark.parametrize("least", [1, 3, 12])
def test_counts(least: int) -> None:
    cursor = Cursor(bytes(5 + 24), "f.gguf")
    cursor.position = 5
    most = 24 // least
    assert cursor.count(most, least, "C-003", "n", 1) == most
    with pytest.raises(GGUFError, match="count is larger") as caught:
        cursor.count(most + 1, least, "C-003", "n", 1)
    error = caught.value
    assert (error.rule, error.offset, error.expected, error.got) == ("C-003", 1, f"at most {most}", most + 1)


def reads(cursor: Cursor, what: str) -> Any:
    """Read something that ends ``LIMIT`` bytes into the file, or one byte further."""
    if what == "number":
        return cursor.read_u64("x")
    return cursor.read_span("x") if what == "string" else cursor.count(8, 1, "C-003", "n", cursor.position)


@pytest.mark.parametrize("what", ["number", "string", "count"])
def test_what_passes_the_limit_on_headers(what: str) -> None:
    size = 16 if what == "string" else 8
    cursor = Cursor(bytes(LIMIT - size) + text(b"12345678") + bytes(1), "f.gguf")
    cursor.position = LIMIT - size
    reads(cursor, what)
    # One byte later it passes the limit, though the file holds it (to its last byte) ...
    file = bytes(LIMIT - size + 1) + text(b"12345678")
    cursor = Cursor(file[: LIMIT + 1], "f.gguf")
    cursor.position = LIMIT - size + 1
    with pytest.raises(GGUFError, match="header is larger") as caught:
        reads(cursor, what)
    assert (caught.value.rule, caught.value.offset) == ("C-006", LIMIT - size + 1)
    # ... and if the file does not, that is what is wrong.
    cursor = Cursor(file[:LIMIT], "f.gguf")
    cursor.position = LIMIT - size + 1
    with pytest.raises(GGUFError) as caught:
        reads(cursor, what)
    assert caught.value.rule == {"number": "C-005", "string": "C-007", "count": "C-003"}[what]
