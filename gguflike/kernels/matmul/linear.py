"""``tensor.linear(x)``: the ops of matmul/integer.py behind one call. Imports no numba once the machine code is cached.

Repacked weights are kept as long as the tensor's ``data`` array lives, so that repeated calls repack once.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.errors import QuantizationError
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import Word
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.memory import SCRATCH_BYTES, op_state
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.matmul.args import MATMUL, REPACK
from gguflike.kernels.matmul.records import LinearPlan, activation_arrays
from gguflike.kernels.vector.args import QUANTIZE_ROWS


class Tensor(Protocol):
    """What is needed of a ``QuantizedTensor`` (tensor.py stands above this package)."""

    name: str
    format: BlockFormat
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


_packed: dict[int, npt.NDArray[np.uint8]] = {}  # by the id of the tensor's data


def _run(name: str, items: int, args: tuple[Word, ...], tokens: int, threads: int | None) -> None:
    """The op over all items, on several threads, each piece with scratch of its own."""
    op = native.call(name)
    words = np.array(args, np.int64)

    def piece(start: int, stop: int) -> None:
        scratch = np.empty(SCRATCH_BYTES + 64, np.uint8)
        state = op_state(tokens=tokens, scratch=-(-scratch.ctypes.data // 64) * 64)
        op(words.ctypes.data, state.ctypes.data, start, stop)

    run_rows(piece, items, threads=threads, least=-(-items // thread_count(threads)))


def _weights(plan: LinearPlan, tensor: Tensor, rows: int, columns: int, threads: int | None) -> npt.NDArray[np.uint8]:
    """The tensor's weights as the ops read them."""
    if plan.repack is None:
        return tensor.data
    known = _packed.get(id(tensor.data))
    if known is not None:
        return known
    packed = plan.allocate(rows, columns)
    assert packed is not None
    args = REPACK.pack(blocks=tensor.data.ctypes.data, records=packed.ctypes.data, rows=rows, columns=columns)
    _run(plan.repack, plan.matvec_items(rows), args, 0, threads)
    key = id(tensor.data)
    weakref.finalize(tensor.data, _packed.pop, key, None)
    _packed[key] = packed
    return packed


def _quantized(x: npt.NDArray[np.float32], threads: int | None) -> dict[str, npt.NDArray[Any]]:
    tokens, columns = x.shape
    arrays = activation_arrays(tokens, columns)
    places = {name: array.ctypes.data for name, array in arrays.items()}
    args = QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=columns, **places)
    _run("vector.quantize:rows", tokens, args, tokens, threads)
    return arrays


def linear(
    plan: LinearPlan, tensor: Tensor, x: npt.NDArray[np.float32], threads: int | None = None
) -> npt.NDArray[np.float32]:
    """``x @ W.T``: float32 (..., columns) -> (..., rows). Activations are quantized to int8 for quantized weights.

    QuantizationError where the shapes do not fit.
    """
    x = np.asarray(x, np.float32)
    if len(tensor.shape) != 2 or not x.ndim or x.shape[-1] != tensor.shape[1]:
        raise QuantizationError(
            "linear needs a matrix and activations with its number of columns",
            tensor=tensor.name or None,
            expected=f"(..., {tensor.shape[-1] if tensor.shape else '?'}) for a matrix of shape {tensor.shape}",
            got=f"shape {x.shape}",
        )
    rows, columns = tensor.shape
    flat = np.ascontiguousarray(x.reshape(-1, columns))
    tokens = len(flat)
    out = np.empty((tokens, rows), np.float32)
    if out.size and columns:
        activations = _quantized(flat, threads) if plan.activations == "int8" else {"codes": flat}
        places = {"scales": 0, "sums": 0} | {name: array.ctypes.data for name, array in activations.items()}
        weights = _weights(plan, tensor, rows, columns, threads)
        args = MATMUL.pack(
            weights=weights.ctypes.data,
            rows=rows,
            columns=columns,
            **places,
            out=out.ctypes.data,
            stride=rows,
            add=0,
            bias=0,
            factor=0,
        )
        one = tokens == 1
        items = plan.matvec_items(rows) if one else plan.matmul_items(rows)
        _run(plan.matvec if one else plan.matmul, items, args, tokens, threads)
    else:
        out[:] = 0
    return out.reshape(*x.shape[:-1], rows)
