"""Writing results of matvec and matmul: sixteen rows of one token, with bias and residual."""

from __future__ import annotations

from typing import Any

from gguflike.kernels._jit import jit
from gguflike.kernels.atomics import load_word
from gguflike.kernels.simd import FLOATS, Emitter, address, floats16, operation, void


@operation(floats16, address)
def load_floats(e: Emitter, place: Any) -> Any:
    """Sixteen float32."""
    return e.load(FLOATS, place)


@operation(floats16, floats16, address, address)
def _add_from(e: Emitter, value: Any, place: Any, count: Any) -> Any:
    """``value`` plus the first ``count`` floats at ``place``."""
    return e.b.fadd(value, e.load_masked(FLOATS, place, 0, e.first_lanes(count)))


@operation(void, floats16, address, address)
def _store_first(e: Emitter, value: Any, place: Any, count: Any) -> None:
    e.store_masked(value, place, 0, e.first_lanes(count))


@jit(inline="always")
def store_rows(args: int, group: int, token: int, value: Any, first: bool) -> None:
    """``value`` (16 lanes) to rows 16 * group and up of ``token``; argument words as in matmul.py.

    ``first`` is the first part of a sum over columns: it starts from the bias and, where asked, from what is there.
    Later parts are added.
    """
    row = 16 * group
    count = load_word(args + 8) - row
    out = load_word(args + 48) + 4 * (token * load_word(args + 56) + row)
    if not first or load_word(args + 64):
        value = _add_from(value, out, count)
    bias = load_word(args + 72)
    if first and bias:
        value = _add_from(value, bias + 4 * row, count)
    _store_first(value, out, count)
