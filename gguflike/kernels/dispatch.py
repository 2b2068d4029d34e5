"""Which kernels serve a block type, by table.py; the way into the kernels for other packages. Imports no numba.

A kernel is imported, and numba with it, when it is first called for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gguflike.blocks import BlockFormat
from gguflike.errors import UnsupportedError
from gguflike.kernels.matmul.records import LinearPlan
from gguflike.kernels.table import KERNELS, TypeKernels, load

_PLANS: dict[str, LinearPlan] = {}  # by block type


def decoder(fmt: BlockFormat) -> Callable[..., None]:
    """Return ``decode(blocks uint8 (rows, row_bytes), out float32 (rows, columns), threads)`` of a block type.

    Arrays are C-contiguous. UnsupportedError where the type has no decoder.
    """
    from gguflike.kernels import decode

    name = decode_op(fmt)
    return partial(decode.cast_rows, fmt) if name is None else partial(decode.decode_rows, fmt, name)


def decode_op(fmt: BlockFormat) -> str | None:
    """Return the name of the op that decodes a block type; None where numpy's cast does. Errors as of ``decoder``."""
    row = _row(fmt)
    if row.decode is None and not row.cast:
        raise _unsupported("decode", fmt, [name for name, row in KERNELS.items() if row.cast or row.decode])
    return None if row.cast else f"by_type.decode:{row.name}"


def encoder(fmt: BlockFormat) -> Callable[..., Any]:
    """Return ``encode(x, out, importance, method, threads)`` of a block type.

    ``x`` is float32 (rows, columns), ``out`` uint8 (rows, row_bytes), ``importance`` float32 (columns,) or None; arrays
    are C-contiguous. Where there is an ``encode_op``, more is possible (encode/__init__.py). UnsupportedError where the
    type has no encoder.
    """
    from gguflike.kernels import encode

    row = _row(fmt)
    if row.encode is None:
        raise _unsupported("encode", fmt, [name for name, row in KERNELS.items() if row.encode])
    return load(row.encode) if row.by_rows else partial(encode.encode_rows, fmt)


def encode_op(fmt: BlockFormat, weighted: bool, method: str) -> str | None:
    """Return the name of the op that encodes a block type by a method, ``weighted`` by importance or not; None where a
    function of arrays does."""
    from gguflike.kernels import encode

    row = _row(fmt)
    return None if row.encode is None or row.by_rows else encode.op_name(fmt, weighted, method)


def linear_plan(fmt: BlockFormat) -> LinearPlan:
    """Return the plan for products with matrices of a block type, one object for each type.

    UnsupportedError for types that are no matrix weights (integers, Q8_1, ...).
    """
    plan = _PLANS.get(fmt.name)  # a model asks for each of its matrices, several times
    if plan is None:
        plan = _PLANS[fmt.name] = _made_plan(fmt)
    return plan


def _made_plan(fmt: BlockFormat) -> LinearPlan:
    row = _row(fmt)
    if row.record is not None:
        ops = f"by_type.integer:matvec_{row.name}", f"by_type.integer:matmul_{row.name}"
        repack, refine = f"by_type.repack:{row.name}", f"by_type.refine:refine_{row.name}"
        return LinearPlan(row.name, *ops, "int8", repack, row.record, refine)
    if row.floats is not None:
        ops = f"by_type.floating:matvec_{row.name}", f"by_type.floating:matmul_{row.name}"
        return LinearPlan(row.name, *ops, "float32", None, None)
    raise _unsupported("matmul", fmt, [name for name, row in KERNELS.items() if row.record or row.floats])


def linear(fmt: BlockFormat) -> Callable[..., Any]:
    """Return ``linear(tensor, x, threads)`` of a block type (matmul/linear.py). UnsupportedError as ``linear_plan``."""
    from gguflike.kernels.matmul.linear import linear

    return partial(linear, linear_plan(fmt))


def embed_op(fmt: BlockFormat) -> str:
    """Return the name of the op that looks up rows of an embedding matrix.

    UnsupportedError where the type has no decoding kernel.
    """
    row = _row(fmt)
    if row.decode is None:
        raise _unsupported("embed", fmt, [name for name, row in KERNELS.items() if row.decode])
    return f"by_type.embed:{row.name}"


def _row(fmt: BlockFormat) -> TypeKernels:
    row = KERNELS.get(fmt.name)
    if row is None:
        raise UnsupportedError(
            f"block type {fmt.name} has no kernels",
            expected="one of " + ", ".join(KERNELS),
            got=fmt.name,
            remedy="give it a row in kernels/table.py (CONTRIBUTING.md, Adding a block type)",
        )
    return row


def _unsupported(what: str, fmt: BlockFormat, known: list[str]) -> UnsupportedError:
    return UnsupportedError(f"no {what} for {fmt.name}", expected="one of " + ", ".join(known), got=fmt.name)
