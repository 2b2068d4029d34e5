"""A weight matrix, and a stack of them, as the matmul ops read them: addresses and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gguflike.kernels.matmul.records import LinearPlan

if TYPE_CHECKING:
    from gguflike.activations import Fixed

GROUP = 32  # rows of repacked weights that belong together: between them they can be cut


class Matrix(NamedTuple):
    """One weight matrix as the matmul ops read it. ``bias`` is an address or 0; ``nbytes`` what one pass reads.
    ``factor`` is the address of what products are multiplied by before the bias is added, or 0; ``fixed`` the range by
    which activations become int8, None where that goes by what they hold."""

    plan: LinearPlan
    address: int
    rows: int
    columns: int
    nbytes: int
    bias: int = 0
    factor: int = 0
    fixed: Fixed | None = None

    def part(self, start: int, rows: int) -> Matrix:
        """``rows`` rows from ``start`` on. Repacked weights can be cut at multiples of GROUP only."""
        plan, repacked = self.plan, self.plan.repack is not None
        assert not repacked or start % GROUP == rows % GROUP == 0
        stored = plan.matmul_items(self.rows) * GROUP if repacked else self.rows
        bias = self.bias + 4 * start if self.bias else 0
        address = self.address + start * self.nbytes // stored
        nbytes = self.nbytes * rows // stored
        return Matrix(plan, address, rows, self.columns, nbytes, bias, self.factor, self.fixed)

    def stacked(self, count: int, start: int, rows: int) -> Stack:
        """``rows`` rows from ``start`` on of each of ``count`` equal blocks of rows, as of ``part``."""
        each = self.part(0, self.rows // count)
        return Stack(each.part(start, rows), count, each.nbytes, 0, 0, 1.0)


class Stack(NamedTuple):
    """``size`` matrices of one shape: ``matrix`` is the first, the others follow ``stride`` bytes apart, their biases
    ``bias_stride`` bytes and their factors ``factor_stride`` bytes. A token reads ``share`` of them."""

    matrix: Matrix
    size: int
    stride: int
    bias_stride: int
    factor_stride: int
    share: float

    def of_rows(self, start: int, rows: int) -> Stack:
        """``rows`` rows of each matrix, as of `Matrix.part`."""
        return self._replace(matrix=self.matrix.part(start, rows))
