"""Bytes as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflike.amounts import bytes_of


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("7B", 7),
        (" 500MB ", 500_000_000),
        ("500 mb", 500_000_000),
        ("8G", 8 * 10**9),
        ("32Mi", 32 << 20),
        ("4.5GiB", 9 << 29),
        ("1.5t", 1_500_000_000_000),
        ("2TiB", 2 << 40),
        ("0.0015K", 1),
        ("123456789012345678", 123456789012345678),
    ],
)
def test_sizes_are_bytes(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize(
    "text", ["", " ", "G", "i", "4i", "4iB", "-1", "+1", "1e9", "0x10", "1,5G", ".5G", "4.G", "4E", "4G5", "٤G"]
)
def test_what_is_no_size(text: str) -> None:
    assert bytes_of(text) is None
    assert bytes_of("9" * 19) is None  # no disk has so many


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from("KMGT"), st.booleans())
def test_parts_of_a_unit_are_exact(whole: int, part: int, unit: str, binary: bool) -> None:
    scale = (1024 if binary else 1000) ** ("KMGT".index(unit) + 1)
    value = (whole + Fraction(part, 10**7)) * scale
    assert bytes_of(f"{whole}.{part:07d}{unit}{'iB' * binary}") == int(value)
