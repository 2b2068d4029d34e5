"""Rounding to block types whose codes are points of a codebook: IQ1, IQ2 and IQ3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.blocks.spec import F16_MAX
from gguflike.calibrate.objective import Objective
from gguflike.calibrate.outputs import descend_outputs
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.feedback import carry
from gguflike.kernels.rounding.octets import SUPER, Blocks, descend, feed_super_block, fill_values, joint_targets
from gguflike.kernels.rounding.products import product
from gguflike.kernels.rounding.storage import Storage, in_order, pack, reordered, storage, unpack
from gguflike.kernels.rounding.tree import OCTET
from gguflike.tensor import quantize_finite

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
FEED_REACH, DESCENT_REACH = 2, 1  # how far error feedback, and each pass of descent, move an integer scale
SUPER_SCALES = (1.0, 1.08, 1.16)  # that error feedback tries, relative to the encoder's
ROW_PASSES = 2  # of a row's own descent, each time that it is visited under both factors
_UNPACKED = 512  # rows that are unpacked together
_FEW = 1e-3  # share of sub-blocks: where a pass of the descent changes fewer, it was the last


def kind(fmt: BlockFormat) -> Storage | None:
    """How a type stores points of a codebook; None where it does not."""
    return storage(fmt) if fmt.name in LATTICES else None


def nested(kind: Storage) -> tuple[int, ...]:
    """Sizes of the groups of columns that a visiting order keeps together."""
    return SUPER, kind.scale.size, OCTET


def values_of(kind: Storage, blocks: Blocks, threads: int | None) -> Floats:
    """The weights, float32 (n, k): bit for bit what the blocks decode to."""
    values = np.empty(blocks.codes.shape, np.float32)
    run_rows(fill_values, len(values), kind.tree, kind.scale, blocks, values, threads=threads)
    return values


def fed_back(kind: Storage, targets: Floats, goal: Objective, threads: int | None) -> Blocks:
    """Round rows ``targets`` (n, k) by error feedback, to blocks whose columns stand in the order of ``goal``.

    The encoder chooses the scales of a super-block when it is reached, for what its columns then ought to be. Rounding
    with somewhat larger super-scales is tried as well, since feedback makes values spread wider; each row keeps what
    costs least.
    """
    targets = np.ascontiguousarray(targets[:, goal.order])
    n, k = targets.shape
    size = kind.scale.size
    roots = np.sqrt(goal.d.astype(np.float64))
    factors = _diagonal_blocks(goal.b, size) * roots.reshape(-1, size)[:, None, :]
    factors = np.ascontiguousarray(factors.transpose(0, 2, 1))
    importance = goal.hessian.diagonal()[goal.order]
    errors, wanted = np.zeros((n, k), np.float32), np.empty((n, SUPER), np.float32)
    found = []
    for first in range(0, k, SUPER):
        columns = slice(first, first + SUPER)
        pulls = np.zeros((n, SUPER), np.float32)
        carry(errors, goal.b, first, first + SUPER, pulls, threads)
        run_rows(joint_targets, n, first, goal.b, pulls, targets, wanted, threads=threads)
        encoded = unpack(kind, quantize_finite(wanted, kind.format, importance[columns], "search", threads, "").rows)
        best, least = _widened(encoded, 1.0), np.full(n, np.inf)
        for wider in SUPER_SCALES:
            trial, made, costs = _widened(encoded, wider), np.empty((n, SUPER), np.float32), np.empty(n)
            run_rows(
                feed_super_block, n, first, kind.tree, kind.scale, FEED_REACH, goal.b, roots, factors, pulls.copy(),
                targets, trial, made, costs, threads=threads,
            )  # fmt: skip
            less = costs < least
            least[less] = costs[less]
            errors[less, columns] = made[less]
            best.d[less], best.k[less], best.deltas[less], best.codes[less] = (numbers[less] for numbers in trial)
        found.append(best)
    return Blocks(*(np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)))


def _widened(blocks: Blocks, factor: float) -> Blocks:
    """A copy of blocks with larger super-scales, and integer scales that make up for it."""
    d = np.minimum(blocks.d * np.float32(factor), np.float32(F16_MAX)).astype(np.float16).astype(np.float32)
    k = np.rint(((2 * blocks.k + 1) / factor - 1) / 2).astype(np.uint8)
    return Blocks(d, k, blocks.deltas.copy(), blocks.codes.copy())


def refit(kind: Storage, hessian: Floats, blocks: Blocks, gradients: Floats, threads: int | None) -> None:
    """Give each super-scale in turn its best value, everything else being fixed.

    With v the values of a super-block of a row and g its gradient, d (1 + v g / v H v) is best; it is rounded as
    float16. ``gradients`` (n, k) = (targets - values) hessian is kept up to date.
    """
    values = values_of(kind, blocks, threads)
    for first in range(0, values.shape[1], SUPER):
        columns = slice(first, first + SUPER)
        part = np.ascontiguousarray(values[:, columns])
        pull = (part.astype(np.float64) * gradients[:, columns]).sum(axis=1)
        curved = product(part, np.ascontiguousarray(hessian[columns, columns]), threads)
        curvature = (part.astype(np.float64) * curved).sum(axis=1)
        d = blocks.d[:, first // SUPER].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            best = (d * (1 + pull / curvature)).astype(np.float16).astype(np.float64)
            change = best / d - 1
        gain = change * (2 * pull - change * curvature)
        with np.errstate(invalid="ignore"):
            better = np.isfinite(best) & (best > 0) & (gain > 0)
        blocks.d[:, first // SUPER] = np.where(better, best, d)
        part *= np.where(better, -change, 0).astype(np.float32)[:, None]
        gradients += product(part, hessian[columns], threads)


class Descent:
    """Rows of blocks that descend to targets under the Hessian of ``goal``. Columns stand in its order."""

    def __init__(self, kind: Storage, goal: Objective, threads: int | None) -> None:
        self._kind, self._order, self._threads = kind, goal.order, threads
        self._hessian = np.ascontiguousarray(goal.hessian[np.ix_(goal.order, goal.order)])
        widths = (kind.scale.size, DESCENT_REACH), (OCTET, 0)
        self._steps = [(_lower_factors(_diagonal_blocks(self._hessian, width)), reach) for width, reach in widths]

    def rows(self, blocks: Blocks, targets: Floats, passes: int) -> tuple[Bytes, Floats]:
        """Blocks as they are stored, uint8 (n, row bytes), for rows of ``targets`` float32 (n, k), and what they decode
        to: from ``blocks`` whose columns are in order, which change."""
        self._improve(blocks, np.ascontiguousarray(targets[:, self._order]), passes)
        stored = reordered(blocks, self._order)
        return pack(self._kind, stored), values_of(self._kind, stored, self._threads)

    def outputs(self, rounded: Bytes, targets: Floats, output: Floats, passes: int) -> Bytes:
        """The ``rounded`` blocks of a matrix, uint8 (n, row bytes), improved under ``output`` as well (outputs.py)."""
        # Rows by rows, as the numbers on the way take several times what they come to.
        slabs = [slice(start, start + _UNPACKED) for start in range(0, len(rounded), _UNPACKED)]
        found = [in_order(unpack(self._kind, rounded[slab]), self._order) for slab in slabs]
        blocks = Blocks(*map(np.concatenate, zip(*found, strict=True)))

        def improve(rows: Indices, wanted: Floats) -> tuple[Floats, Callable[[], None]]:
            part = _chosen(blocks, rows)
            values = self._improve(part, wanted, ROW_PASSES)

            def keep() -> None:
                blocks.d[rows], blocks.k[rows], blocks.deltas[rows], blocks.codes[rows] = part

            return values, keep

        ordered, values = np.ascontiguousarray(targets[:, self._order]), values_of(self._kind, blocks, self._threads)
        descend_outputs(ordered, values, self._hessian, output, improve, passes, self._threads)
        made = [pack(self._kind, reordered(_chosen(blocks, slab), self._order)) for slab in slabs]
        return np.concatenate(made)

    def _improve(self, blocks: Blocks, targets: Floats, passes: int) -> Floats:
        """Improve ``blocks`` in place to ``targets`` float32 (n, k); returns their values.

        A pass is one over sub-blocks, whose scales may change, and one over octets. Super-scales are refitted between.
        """
        kind, hessian, threads = self._kind, self._hessian, self._threads
        for i in range(passes):
            gradients = product(targets - values_of(kind, blocks, threads), hessian, threads)
            if i > 0:
                refit(kind, hessian, blocks, gradients, threads)
            moved = np.zeros(len(targets), np.int64)
            for factors, reach in self._steps:
                run_rows(
                    descend, len(targets), kind.tree, kind.scale, reach, hessian, factors, blocks, gradients, moved,
                    threads=threads,
                )  # fmt: skip
            if moved.sum() < _FEW * blocks.k.size:
                break
        return values_of(kind, blocks, threads)


def _chosen(blocks: Blocks, rows: Indices | slice) -> Blocks:
    return Blocks(blocks.d[rows], blocks.k[rows], blocks.deltas[rows], blocks.codes[rows])


def _diagonal_blocks(matrix: Floats, size: int) -> Doubles:
    """The blocks on the diagonal of a square matrix: float64 (blocks, size, size)."""
    return np.stack([matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)]).astype(np.float64)


def _lower_factors(blocks: Doubles) -> Doubles:
    """F lower triangular with F^T F each of these positive definite matrices."""
    mirrored = np.linalg.cholesky(blocks[:, ::-1, ::-1])
    return np.ascontiguousarray(mirrored[:, ::-1, ::-1].transpose(0, 2, 1))
