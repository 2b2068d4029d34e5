"""Quantized matrices in the order in which the matmul ops read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from gguflike.container import GGUFFile, TensorInfo
from gguflike.kernels.dispatch import linear_plan
from gguflike.kernels.engine.memory import aligned
from gguflike.kernels.matmul.args import REPACK
from gguflike.progress import Progress
from gguflike.runner.matrix import GROUP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Take
    from gguflike.kernels.engine.program import Team

BATCH_BYTES = 1 << 23  # of the file, repacked by one pass and in memory twice until then
LINE = 64  # bytes of a cache line: where the weights of a matrix begin


class Piece(NamedTuple):
    """Rows of a matrix that one op repacks."""

    info: TensorInfo
    start: int  # byte of the tensor that they begin with
    place: int  # address that they go to
    rows: int
    nbytes: int  # as the file has them


class Packed:
    """Matrices and stacks of matrices of a file, one behind the other in memory of their own.

    Each has its address at once; what is there only is after `repack`.
    """

    def __init__(self, file: GGUFFile, tensors: Sequence[TensorInfo], take: Take) -> None:
        """``take`` gives the memory, of so many bytes."""
        self._file = file
        self._tensors = tensors
        self._matrices = [matrix for info in tensors for matrix in _matrices(info)]  # that `repack` has yet to make
        self._sizes = [linear_plan(info.format).packed_bytes(*info.shape) for info, _ in self._matrices]
        self._starts = [0, *accumulate(-(-size // LINE) * LINE for size in self._sizes)]
        self._memory = take(self._starts[-1], huge=True)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them as the ops read them."""
        return int(self._memory.nbytes)

    @property
    def loading_bytes(self) -> int:
        """Bytes of the file that `repack` has in memory at most beside what it makes of them."""
        sizes = [-(-piece.nbytes // LINE) * LINE for piece in self._pieces()]
        return max(min(BATCH_BYTES, sum(sizes)), *sizes) if sizes else 0

    @property
    def ops(self) -> list[str]:
        """Names of the ops that `repack` runs."""
        return sorted({str(linear_plan(info.format).repack) for info, _ in self._matrices})

    def places(self) -> Iterator[tuple[TensorInfo, npt.NDArray[np.uint8], int, int]]:
        """Of each tensor: memory that begins with it, the bytes of one matrix, and from one of a stack to the next."""
        index = 0
        for info in self._tensors:
            stride = self._starts[index + 1] - self._starts[index]
            yield info, self._memory[self._starts[index] :], self._sizes[index], stride
            index += info.shape[0] if len(info.shape) == 3 else 1

    def repack(self, team: Team, progress: Progress | None = None) -> None:
        """Read them from the file and move them to their places, if that was not done before.

        GGUFError where the file has changed since it was opened.
        """
        from gguflike.kernels.engine.program import Program

        total, done = sum(piece.nbytes for piece in self._pieces()), 0
        stored = aligned(self.loading_bytes, huge=True)
        program, used, name = Program(), 0, ""

        def run() -> None:
            if progress is not None:
                progress(done, total, f"loading {name}")
            team.run(program.link(), 1)

        for info, start, place, rows, nbytes in self._pieces():
            if used + nbytes > len(stored):
                run()
                done += used
                program, used = Program(), 0
            name, plan = info.name, linear_plan(info.format)
            blocks = stored[used : used + nbytes]
            self._file.read_into(name, start, blocks)
            args = REPACK.pack(blocks=blocks.ctypes.data, records=place, rows=rows, columns=info.shape[-1])
            program.add(str(plan.repack), args, items=plan.matvec_items(rows), barrier=False)
            used += -(-nbytes // LINE) * LINE
        if used:
            run()
        self._matrices = []
        if progress is not None:
            progress(total, total, "loaded")

    def _pieces(self) -> Iterator[Piece]:
        """What is left to be repacked, in pieces of about BATCH_BYTES of the file."""
        for (info, first), start, size in zip(self._matrices, self._starts, self._sizes, strict=False):
            rows, columns = info.shape
            row_bytes = info.format.row_bytes(columns)
            stored = linear_plan(info.format).matmul_items(rows) * GROUP
            step = max(BATCH_BYTES // row_bytes // GROUP, 1) * GROUP
            for row in range(0, rows, step):
                count = min(step, rows - row)
                to = int(self._memory.ctypes.data) + start + row * size // stored
                yield Piece(info, first + row * row_bytes, to, count, count * row_bytes)


def _matrices(info: TensorInfo) -> list[tuple[TensorInfo, int]]:
    """The matrices of a tensor, itself or those of a stack, and the byte of the tensor that each begins with."""
    if len(info.shape) == 2:
        return [(info, 0)]
    each = info.nbytes // info.shape[0]
    return [(info._replace(shape=info.shape[1:], nbytes=each), start) for start in range(0, info.nbytes, each)]
