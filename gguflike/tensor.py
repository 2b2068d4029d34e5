"""A tensor stored in blocks: a view of bytes, a shape and a block type."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from gguflike.blocks import BlockFormat, format_by_name
from gguflike.errors import QuantizationError, check_choice, check_threads
from gguflike.kernels import dispatch

if TYPE_CHECKING:
    import numpy.typing as npt

Method = Literal["search", "absmax"]
METHODS: tuple[str, ...] = get_args(Method)
_PART = 1 << 18  # float32 values looked at together: they and their mask stay in the cache


class QuantizedTensor:
    """Blocks of one tensor: ``shape`` in numpy order, ``data`` uint8 of shape (nbytes,), often a view of a file.

    ``original_shape`` is that of the tensor in its network, where the file has it in another: convolutions, whose rows
    are shorter than blocks, and tensors of more than four axes.
    """

    __slots__ = ("data", "format", "name", "original_shape", "shape")

    def __init__(
        self,
        name: str,
        format: BlockFormat,
        shape: tuple[int, ...],
        data: npt.NDArray[np.uint8],
        original_shape: tuple[int, ...] | None = None,
    ) -> None:
        if data.dtype != np.uint8 or data.ndim != 1 or data.nbytes != format.tensor_bytes(shape):
            raise QuantizationError(
                "tensor data has the wrong size",
                tensor=name,
                expected=f"{format.tensor_bytes(shape)} bytes of {format.name} for shape {shape}",
                got=f"{data.dtype} of shape {data.shape}",
            )
        self.name = name
        self.format = format
        self.shape = shape
        self.data = data
        self.original_shape = shape if original_shape is None else original_shape

    def __repr__(self) -> str:
        return f"QuantizedTensor({self.name!r}, {self.format.name}, {self.shape})"

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return int(self.data.nbytes)

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def _columns(self) -> int:
        """Weights of a row; a scalar is one."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """The blocks as uint8 of shape (rows, row_bytes), without copying."""
        return self.data.reshape(-1, self.format.row_bytes(self._columns)) if self.size else self.data.reshape(0, 0)

    @property
    def blocks(self) -> npt.NDArray[Any]:
        """The blocks as a structured array of dtype ``format.dtype``, without copying."""
        return self.data.view(self.format.dtype)

    def dequantize(self, threads: int | None = None) -> npt.NDArray[np.float32]:
        """All weights as float32 of shape ``original_shape``, by so many ``threads`` (None: a share of the CPUs that
        this process may use), at any number the same. UnsupportedError for a type without a decoder."""
        check_threads(threads)
        out = np.empty((self.size // self._columns if self.size else 0, self._columns), np.float32)
        if self.size:
            dispatch.decoder(self.format)(self.rows, out, threads)
        return out.reshape(self.original_shape)

    def linear(self, x: npt.NDArray[np.float32], threads: int | None = None) -> npt.NDArray[np.float32]:
        """``x @ W.T`` for ``x`` float32 (..., columns): float32 (..., rows), on the blocks, which are never dequantized
        as a whole.

        Where the type is quantized, ``x`` is rounded to 8 bits by a scale for each 32 values, as models run. At any
        number of ``threads`` the result is the same. QuantizationError for a tensor that is no matrix or an ``x`` of
        other columns, UnsupportedError for a type that nothing is multiplied by, such as integers.
        """
        check_threads(threads)
        return dispatch.linear(self.format)(self, x, threads)  # type: ignore[no-any-return]


def quantize(
    array: npt.NDArray[Any],
    format: str | BlockFormat,
    *,
    importance: npt.NDArray[Any] | None = None,
    method: Method = "search",
    threads: int | None = None,
    name: str = "",
) -> QuantizedTensor:
    """Encode a real-valued array of shape (..., columns) in the given block type.

    ``importance`` holds one non-negative weight per column; the encoder then minimizes the weighted squared error.
    ``method`` is "search" (least squared error) or "absmax": the scale comes from the largest magnitude and codes by
    rounding to nearest; only the codebook types (IQ1 to IQ3) then weigh their points by importance.
    QuantizationError on NaN or infinite values (naming the first) and on rows the block does not divide, ArgumentError
    on a block type or method that does not exist.
    """
    fmt = format if isinstance(format, BlockFormat) else format_by_name(format)
    check_choice("method", method, METHODS)
    check_threads(threads)
    x = np.asarray(array, dtype=np.float32, order="C")  # ascontiguousarray would make a scalar a vector
    fmt.row_bytes(x.shape[-1] if x.ndim else 1)
    if not _all_finite(x.reshape(-1), threads):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise QuantizationError("value is not finite", tensor=name or None, got=f"{x[where]} at index {where}")
    return quantize_finite(x, fmt, importance, method, threads, name)


def quantize_finite(
    x: npt.NDArray[np.float32],
    fmt: BlockFormat,
    importance: npt.NDArray[Any] | None,
    method: Method,
    threads: int | None,
    name: str,
) -> QuantizedTensor:
    """`quantize` of C-contiguous float32 that was checked: finite values, and arguments that there are."""
    out = np.empty(fmt.tensor_bytes(x.shape), np.uint8)
    encode(x, fmt, importance, method, threads, name, out)
    return QuantizedTensor(name, fmt, x.shape, out)


def encode(
    x: npt.NDArray[Any],
    fmt: BlockFormat,
    importance: npt.NDArray[Any] | None,
    method: Method,
    threads: int | None,
    name: str,
    out: npt.NDArray[np.uint8],
) -> bool:
    """Encode C-contiguous values into ``out``, contiguous uint8 of the right size: float32 that was checked, or what
    `takes_halves`, float16 or bfloat16 as uint16. Returns whether all halves are within the type's limit; what is made
    of others means nothing."""
    columns = x.shape[-1] if x.ndim else 1
    weights = None
    if importance is not None:
        weights = np.ascontiguousarray(importance, dtype=np.float32)
        if weights.shape != (columns,) or not np.isfinite(weights).all() or (weights < 0).any():
            raise QuantizationError(
                "importance weights must be finite, non-negative, one per column",
                tensor=name or None,
                expected=f"shape ({columns},)",
                got=f"shape {weights.shape}",
            )
    rows = x.reshape(-1, columns)
    into = out.reshape(rows.shape[0], fmt.row_bytes(columns))
    if x.dtype == np.float32:
        dispatch.encoder(fmt)(rows, into, weights, method, threads)
        return True
    return bool(dispatch.encoder(fmt)(rows, into, weights, method, threads, fmt.limit))


def takes_halves(fmt: BlockFormat) -> bool:
    """Whether a type is encoded from float16 and bfloat16 without making them float32 first."""
    return dispatch.encode_op(fmt, False, "search") is not None


def _all_finite(x: npt.NDArray[np.float32], threads: int | None) -> bool:
    """Whether all of a flat array is finite."""
    from gguflike.kernels.engine.threads import run_rows  # what only reads models does without it

    finite: list[bool] = []

    def check(start: int, stop: int) -> None:
        for part in range(start, stop):
            finite.append(bool(np.isfinite(x[part * _PART : (part + 1) * _PART]).all()))

    run_rows(check, -(-x.size // _PART), threads=threads)
    return all(finite)
