"""Packed texts against plain Python lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike.texts import Texts, Unread

# Long texts that differ in the middle only have equal keys; short ones of few letters repeat.
TEXT = st.one_of(
    st.text("ab", max_size=3),
    st.text(max_size=12),
    st.sampled_from(["x" * 8 + middle + "y" * 8 for middle in ("", "a", "b", "aa", "é", "z" * 300)]),
)
TEXTS = st.lists(TEXT, max_size=30)


@settings(deadline=None)
@given(st.lists(st.one_of(TEXT, st.binary(max_size=9)), max_size=30))
def test_texts_are_a_sequence(items: list[str | bytes]) -> None:
    texts = Texts.of(items)
    plain = [item.decode() if isinstance(item, bytes) and _is_utf8(item) else item for item in items]
    assert len(texts) == len(plain)
    assert texts.tolist() == list(texts) == plain
    assert texts[1:3].tolist() == plain[1:3]
    assert texts.not_utf8() == [i for i, item in enumerate(plain) if isinstance(item, bytes)]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_finding(items: list[str], wanted: list[str]) -> None:
    assert Texts.of(items).find(wanted) == [i for i, item in enumerate(items) if item in wanted]
    assert Texts.of(items).find(items) == list(range(len(items)))


@settings(deadline=None)
@given(TEXTS, st.lists(TEXT, max_size=4).map("".join))
def test_what_occurs_in_a_text(items: list[str], text: str) -> None:
    assert Texts.of(items).within(text.encode()) == [i for i, item in enumerate(items) if item and item in text]
    parts = [text[:n] for n in range(1, len(text) + 1)]
    assert Texts.of(parts).within(text.encode()) == list(range(len(parts)))


@settings(deadline=None)
@given(TEXTS)
def test_the_first_repetition(items: list[str]) -> None:
    again = next(((items.index(item), i) for i, item in enumerate(items) if item in items[:i]), None)
    assert Texts.of(items).repeated() == again
    assert Texts.of([*items, *items[:1]]).repeated() == (again or ((0, len(items)) if items else None))


def test_replacing() -> None:
    texts = Texts.of(["a", "", b"\xff", "d"])
    assert texts.replaced({}) is texts
    changed = texts.replaced({1: "empty", 2: "é"})
    assert changed.tolist() == list(changed) == ["a", "empty", "é", "d"]
    assert changed.find(["é", "d"]) == [2, 3]


def test_keys_tell_texts_apart_but_for_the_middle() -> None:
    texts = Texts.of(["12345678abc12345678", "12345678abd12345678", "1", "2", "", "12345678", "123456789"])
    assert texts.keys[0] == texts.keys[1]
    assert len(np.unique(texts.keys)) == 6


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 200_000])
def test_what_is_not_utf8_is_found_wherever_it_stands(size: int) -> None:
    whole = "€" * (size // 3)  # characters that pieces of any size cut
    assert Texts.of(["a", whole, "é" * size]).not_utf8() == []
    assert Texts.of(["a", whole, b"\xe2\x82", whole.encode() + b"\xff", "é"]).not_utf8() == [2, 3]
    assert Texts.of([whole, b"\xe2\x82"]).not_utf8() == [1]


def test_unread_texts_are_read_once_they_are_asked_for() -> None:
    asked: list[int] = []

    def read() -> Texts:
        asked.append(1)
        return Texts.of(["one", "two", "two"])

    texts = Unread(3, read)
    assert (len(texts), asked) == (3, [])
    assert (texts[1], texts.repeated(), texts.find(["two"]), asked) == ("two", (1, 2), [1, 2], [1])
    with pytest.raises(AttributeError, match="has no 'other'"):
        _ = texts.other
