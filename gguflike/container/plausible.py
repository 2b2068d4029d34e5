"""Whether the values of a tensor are such as trained weights have, where no digest says what they should be.

Looked at in one pass, piece by piece. What is reported can be no error: nobody forbids a matrix of zeros. But a
download with a hole, or a flipped bit of a scale, looks so, and real models do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.container.findings import Finding, Severity
from gguflike.container.scales import magnitudes, of_blocks
from gguflike.errors import counted

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.container.layout import TensorInfo

PAGE = 4096  # bytes of zeros in a row that are worth mentioning
LINE = 64  # bytes that are looked at together
STEP = 1000.0  # a scale that is larger than its neighbours by more
FLOAT_STEP = 1e4  # a plain weight that is
LARGEST = 1e6  # of a vector: norms and biases stay far below
AROUND = 8  # neighbours on each side
CHANCE = 8  # bytes beside a stretch of zeros that may be zero by chance
SAMPLED = 16  # of so many values one is taken for what is usual


class Plausible:
    """What is seen of one tensor: ``add`` its bytes in order, in whole blocks, then ask for ``findings``."""

    def __init__(self, info: TensorInfo, path: str) -> None:
        self._info, self._path = info, path
        self._matrix = len(info.shape) > 1 and min(info.shape[-2:]) > 1
        self._at = 0  # bytes so far
        self._zeros = 0  # at their end
        self._runs: list[tuple[int, int]] = []  # start and stop of stretches of zeros of a page or more
        self._jump: tuple[int, float, float] | None = None  # of the first outlier: block, magnitude, that of neighbours
        self._jumps = 0

    def add(self, piece: npt.NDArray[np.uint8], blocks: npt.NDArray[Any]) -> None:
        """The next bytes, and the same as little-endian blocks."""
        self._add_zeros(piece)
        if not self._info.format.is_integer and "rope" not in self._info.name:
            self._add_magnitudes(blocks)
        self._at += len(piece)

    def _add_zeros(self, piece: npt.NDArray[np.uint8]) -> None:
        whole = len(piece) // LINE * LINE
        filled: npt.NDArray[np.bool_] = np.any(piece[:whole].view(np.uint64).reshape(-1, LINE // 8), axis=1)
        if whole < len(piece):
            filled = np.append(filled, piece[whole:].any())
        if not filled.any():
            self._zeros += len(piece)
            return
        if filled[0]:  # whose first bytes may end what was
            self._add_run(piece, 0, 0)
        edges = np.flatnonzero(np.diff(np.concatenate(([True], filled, [True])).astype(np.int8)))
        for first, last in edges.reshape(-1, 2).tolist():
            if last - first >= PAGE // LINE - 2 or first == 0 or last == len(filled):
                self._add_run(piece, first * LINE, min(last * LINE, len(piece)))
        if filled[-1]:
            self._zeros = _trailing(piece[-LINE:])

    def _add_run(self, piece: npt.NDArray[np.uint8], start: int, stop: int) -> None:
        """A run of zero lines, and the zeros beside it in the lines that are not."""
        start -= _trailing(piece[max(start - LINE, 0) : start])
        stop += _trailing(piece[stop : stop + LINE][::-1])
        before = self._zeros if start == 0 else 0
        if stop == len(piece):
            self._zeros = before + stop - start
        elif before + stop - start >= PAGE:
            self._runs.append((self._at + start - before, self._at + stop))

    def _add_magnitudes(self, blocks: npt.NDArray[Any]) -> None:
        fmt = self._info.format
        found = magnitudes(of_blocks(blocks, fmt))
        step, each = STEP, 1
        if found is None:
            assert fmt.decode is not None  # every row of the table has one
            found = fmt.decode(blocks).reshape(-1)  # a copy, which may be changed
            with np.errstate(invalid="ignore"):
                np.abs(found, out=found)
            step = FLOAT_STEP
        else:
            each = len(found) // max(len(blocks), 1)
        top = float(np.max(found, initial=0.0))
        if not np.isfinite(top):  # which is an error of its own
            found = np.nan_to_num(found, nan=0.0, posinf=0.0)
            top = float(np.max(found, initial=0.0))
        if not self._matrix:
            if top > LARGEST:
                self._note(int(np.argmax(found)) // each, top, _usual(found))
            return
        if not len(found) or top <= (limit := step * _usual(found[::SAMPLED])):
            return
        for index in np.flatnonzero(found > limit).tolist():
            around = np.delete(found[max(index - AROUND, 0) : index + AROUND + 1], min(index, AROUND))
            value, most = float(found[index]), float(np.max(around, initial=0.0))
            if 0 < most * step < value:
                self._note(index // each, value, most)

    def _note(self, block: int, magnitude: float, others: float) -> None:
        self._jumps += 1
        if self._jump is None:
            self._jump = (self._at // self._info.format.block_bytes + block, magnitude, others)

    def findings(self) -> Iterator[Finding]:
        """M-020 to M-022, where they are broken."""
        info, fmt = self._info, self._info.format
        if self._zeros == self._at and self._at:
            if self._matrix or info.name.endswith("norm.weight"):
                yield self._finding("warning", "M-020", "all of the tensor is zero", info.offset)
            return
        if self._zeros >= PAGE:
            self._runs.append((self._at - self._zeros, self._at))
        holes = [run for run in self._runs if not self._of_rows(*run)]
        for runs, severity, kind in ((holes, "warning", ""), (self._runs, "note", ", whole rows")):
            if runs and (severity == "warning" or not holes):
                total = sum(stop - start for start, stop in runs)
                several = f" in {len(runs)} places" if len(runs) > 1 else ""
                message = f"{total:,} bytes of zeros{several}{kind}, of the tensor's {info.nbytes:,}"
                yield self._finding(severity, "M-021", message, info.offset + runs[0][0])  # type: ignore[arg-type]
        if self._jump is not None:
            block, magnitude, others = self._jump
            what = "scale" if fmt.is_quantized else "value"
            more = f", and {counted(self._jumps - 1, 'other')} like it" if self._jumps > 1 else ""
            message = f"{what} of block {block} is {magnitude:.4g}, that of its neighbours at most {others:.4g}{more}"
            yield self._finding("warning", "M-022", message, info.offset + block * fmt.block_bytes)

    def _finding(self, severity: Severity, rule: str, message: str, offset: int) -> Finding:
        return Finding(severity, rule, message, self._path, offset, self._info.name)

    def _of_rows(self, start: int, stop: int) -> bool:
        """Whether a stretch is of whole rows, as those of tokens that a vocabulary does not have: but for a few bytes
        that are zero by chance."""
        row = self._info.format.row_bytes(self._info.shape[-1]) if self._info.shape else 1
        first, last = -(-start // row), stop // row
        return self._matrix and first < last and first * row - start < CHANCE and stop - last * row < CHANCE


def _usual(found: npt.NDArray[Any]) -> float:
    """Their median, in float64: two of float32 that are nearly infinite add up to more than that holds."""
    return float(np.median(found.astype(np.float64)))


def _trailing(piece: npt.NDArray[np.uint8]) -> int:
    """How many zeros stand at the end."""
    filled = np.flatnonzero(piece)
    return len(piece) - int(filled[-1]) - 1 if len(filled) else len(piece)
