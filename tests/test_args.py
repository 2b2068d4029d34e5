"""Argument words of ops: named where they are packed and where they are read."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from gguflike.kernels.engine.args import Args, Offsets, Own, float_bits
from gguflike.kernels.matmul.args import REPACK

KERNELS = Path(__file__).parent.parent / "gguflike" / "kernels"


def test_words_are_packed_in_the_order_of_the_declaration() -> None:
    assert REPACK.pack(columns=4, rows=3, records=2, blocks=1) == (1, 2, 3, 4)
    assert (REPACK.blocks, REPACK.records, REPACK.rows, REPACK.columns) == (0, 8, 16, 24)
    assert REPACK.pack(columns=4, rows=3, records=Own(2, 64), blocks=1)[1] == Own(2, 64)


def test_a_missing_or_unknown_word_is_refused() -> None:
    with pytest.raises(TypeError, match=r"matmul\.repack.* lacks rows \(N, any number\).* takes blocks, records, rows"):
        REPACK.pack(blocks=1, records=2, columns=4)
    with pytest.raises(TypeError, match=r"matmul\.repack.* does not know tokens"):
        REPACK.pack(blocks=1, records=2, rows=3, columns=4, tokens=5)
    with pytest.raises(TypeError, match=r"lacks columns .* and does not know column;"):
        REPACK.pack(blocks=1, records=2, rows=3, column=4)
    with pytest.raises(AttributeError, match=r"matmul\.repack has no 'tokens', only blocks"):
        _ = REPACK.tokens


def test_extended_words_begin_with_those_they_extend() -> None:
    longer = REPACK.extended("more", scratch="an address")
    assert (longer.columns, longer.scratch) == (24, 32)
    assert longer.pack(blocks=1, records=2, rows=3, columns=4, scratch=5) == (1, 2, 3, 4, 5)


def test_names_that_tuples_have_are_refused() -> None:
    with pytest.raises(ValueError, match="point: every tuple has count"):
        Offsets("point", {"count": 0})


def test_float_bits() -> None:
    words = np.array([float_bits(value) for value in (1.5, -2.0, 1e-5)], np.int64)
    assert np.array_equal(words.astype(np.int32).view(np.float32), np.float32([1.5, -2.0, 1e-5]))


def test_compiled_code_reads_words_by_name() -> None:
    from gguflike.kernels.engine.atomics import load_args, load_word
    from gguflike.kernels.engine.jit import jit

    words = Args("test", first="a number", second="a number", third="a number")

    @jit
    def read(args: int) -> tuple[int, int]:
        loaded = load_args(words, args)
        return loaded.second - loaded.first, load_word(args + words.third)

    memory = np.array(words.pack(first=3, second=10, third=9), np.int64)
    assert read(memory.ctypes.data) == (7, 9)


def test_no_kernel_reads_a_word_by_its_number() -> None:
    """Offsets of argument and state words come from their declaration, so that none can be off by one."""
    literal = re.compile(r"load_word\((args|state)( \+ \d+)?\)|\b(args|state) \+ \d")
    wrong = [
        f"{path.relative_to(KERNELS)}:{number}"
        for path in KERNELS.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if literal.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["", "vector.", "matmul.", "attention."])
def test_every_word_says_what_it_is(room: str) -> None:
    module = importlib.import_module(f"gguflike.kernels.{room}args")
    declared = [value for value in vars(module).values() if isinstance(value, Args)]
    assert declared
    assert all(what for args in declared for what in args._words.values())
