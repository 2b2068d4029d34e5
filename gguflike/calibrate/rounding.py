"""A matrix to the blocks of a type, such that its products with the inputs it really gets change least."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.calibrate.grids import GRIDS
from gguflike.calibrate.statistics import Statistics
from gguflike.errors import QuantizationError
from gguflike.frozen import frozen
from gguflike.tensor import QuantizedTensor, quantize, quantize_finite

if TYPE_CHECKING:
    from gguflike.calibrate.objective import Prepared

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
ROUNDED = 1 << 23  # weights of the rows that are rounded together


@frozen
class Rounding:
    """How ``round_matrix`` rounds.

    ``damping``: share of the mean diagonal of the Gram matrix that is added to its diagonal. ``ordered``: whether
    columns that matter most are rounded first. ``correction``: how much of the errors of earlier matrices the target
    makes up for (0 to 1), where the float model's inputs are known, and ``cap`` the share of its norm that a row may
    move for it. ``rounds``: how often the scales of blocks are chosen anew together with their codes, where a type's
    levels are scalars. ``passes``: of the descent that follows.
    """

    damping: float = 0.01
    ordered: bool = True
    correction: float = 0.7
    cap: float = 0.3
    rounds: int = 2
    passes: int = 4


DEFAULT = Rounding()


def round_matrix(
    weights: Floats,
    fmt: BlockFormat,
    statistics: Statistics,
    options: Rounding = DEFAULT,
    threads: int | None = None,
    prepared: Prepared | None = None,
) -> Bytes:
    """Round ``weights`` float32 (n, k) to blocks, uint8 (n, row bytes), under the ``statistics`` of its inputs.

    What counts is tr(E H E^T), H being ``statistics.gram`` and E the difference from the target, which is W or, where
    ``statistics.cross`` is given, what makes up for the errors of the inputs. A row costs no more than what the plain
    encoder gives with H's diagonal as importance: where it would, that row is the encoder's. With a second factor H_O,
    ``statistics.output``, it is tr(H_O E H E^T), and the matrix as a whole costs no more. All rows are the encoder's
    where nothing was seen of the inputs (no tokens, or only zeros), and of types without such a rounding. The same
    bytes for any number of threads. ``prepared`` keeps what matrices with the same ``statistics.gram`` share. The
    diagonal of that changes meanwhile: two threads cannot round for the same.

    QuantizationError where weights or statistics are not finite, or their shapes do not fit.
    """
    check(weights, fmt, statistics)
    gram, diagonal = statistics.gram, statistics.importance
    rounder = _rounder(fmt, options)
    if rounder is None or diagonal is None or not weights.size:
        return quantize(weights, fmt, importance=diagonal, threads=threads).rows

    from gguflike.calibrate.objective import Prepared, corrected  # and with it the kernels
    from gguflike.calibrate.outputs import both_costs
    from gguflike.kernels.rounding.products import costs

    output, prepared = statistics.output, prepared or Prepared()
    goal = prepared.objective(gram, options.damping, rounder.sizes, options.ordered, threads)
    weights, rows = np.ascontiguousarray(weights), max(1, ROUNDED // weights.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(weights), rows)]
    targets = weights
    if statistics.cross is not None and options.correction > 0:
        targets = np.empty_like(weights)
        for part in parts:
            target = corrected(weights[part], goal, gram, statistics.cross, options.correction, options.cap, threads)
            targets[part] = target
    with goal.damped():
        fed_back = [rounder.feed_back(targets[part], goal, threads) for part in parts]
    if rounder.reorders:  # to a copy as large as the factor, which nobody needs any more
        prepared.let_go()
        goal = goal.without_factor()
    with goal.damped():
        descent = rounder.descent(goal, threads)
    plain, rounded = [], []
    for part in parts:
        with goal.damped():
            blocks, values = descent.rows(fed_back.pop(0), targets[part], options.passes)
        encoded = quantize_finite(weights[part], fmt, diagonal, "search", threads, "")
        cost = costs(targets[part] - values, gram, threads)
        before = costs(targets[part] - encoded.dequantize(threads), gram, threads)
        rounded.append(np.where((cost < before)[:, None], blocks, encoded.rows))
        if output is not None:
            plain.append(encoded.rows)
    best = np.concatenate(rounded)
    if output is None:
        return best
    with goal.damped():
        both = descent.outputs(best, targets, output, options.passes)

    def cost_of(data: Bytes) -> float:
        values = QuantizedTensor("", fmt, weights.shape, data.reshape(-1)).dequantize(threads)
        return both_costs(targets - values, gram, output, threads)

    return min(both, best, np.concatenate(plain), key=cost_of)


class _Descent(Protocol):
    """Improves what error feedback has found, under the Hessian of an objective."""

    def rows(self, numbers: Any, targets: Floats, passes: int) -> tuple[Bytes, Floats]:
        """Blocks for rows of ``targets``, and what they decode to, from what was fed back."""
        ...

    def outputs(self, rounded: Bytes, targets: Floats, output: Floats, passes: int) -> Bytes:
        """Better blocks of a whole matrix under both factors."""
        ...


class _Rounder(NamedTuple):
    """How matrices are rounded to a type.

    ``sizes``: of the groups of columns that a visiting order keeps together. ``feed_back(targets, goal, threads)``:
    numbers of blocks by error feedback, for which alone the factor of the Hessian is. ``descent(goal, threads)``: what
    improves them; ``reorders``: whether that has a copy of the Hessian.
    """

    sizes: tuple[int, ...]
    feed_back: Callable[..., Any]
    descent: Callable[..., _Descent]
    reorders: bool


def _rounder(fmt: BlockFormat, options: Rounding) -> _Rounder | None:
    """How to round to a type, or None where only its encoder does."""
    grid = GRIDS.get(fmt.name)
    if grid is not None:
        from gguflike.calibrate import uniform

        fed_back, descent = partial(uniform.fed_back, grid), partial(uniform.Descent, grid, options.rounds)
        return _Rounder((fmt.block_size, 1), fed_back, descent, reorders=False)

    from gguflike.calibrate import codebook

    kind = codebook.kind(fmt)
    if kind is None:
        return None
    of_points = partial(codebook.fed_back, kind), partial(codebook.Descent, kind)
    return _Rounder(codebook.nested(kind), *of_points, reorders=True)


def check(weights: Floats, fmt: BlockFormat, statistics: Statistics) -> None:
    """Raise QuantizationError unless shapes fit and all numbers are finite."""
    n, k = weights.shape
    fmt.row_bytes(k)
    expected = (
        ("gram", statistics.gram, (k, k)),
        ("cross", statistics.cross, (k, k)),
        ("output", statistics.output, (n, n)),
    )
    for name, matrix, shape in expected:
        if matrix is None:
            continue
        if matrix.shape != shape:
            raise QuantizationError(
                "statistics do not fit the matrix", field=name, expected=f"shape {shape}", got=f"shape {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            raise QuantizationError(
                "statistics are not finite", field=name,
                remedy="the model's activations overflow on the calibration text; leave out the text that makes them",
            )  # fmt: skip
    if not np.isfinite(weights).all():
        raise QuantizationError("weights are not finite")
