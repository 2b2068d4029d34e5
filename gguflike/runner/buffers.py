"""What a pass writes between its ops: activations, temporaries, rotations, logits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.families.parts import Graph, Rope
from gguflike.kernels.engine.args import Own, Word
from gguflike.kernels.engine.memory import ROW_TYPE, aligned
from gguflike.kernels.matmul.records import LinearPlan
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.kernels.vector.sizes import refined_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Take
    from gguflike.kernels.engine.program import Program

BATCH = 512  # tokens of one pass: enough to reuse every weight from cache, few enough for small buffers
LINE = 64  # bytes of a cache line: what different threads write stands in different ones
HEAD_TOKENS = 32  # tokens whose logits one pass computes


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's data stand, as ops are told it."""
    return int(array.ctypes.data)


class Activations(NamedTuple):
    """Where what a matrix product reads stands: addresses of float32, or of int8 codes, their scales and sums, and of
    the lists of blocks that are refined (0: there are none)."""

    floats: Word
    codes: Word
    scales: Word
    sums: Word
    refined: Word = 0

    @property
    def quantized(self) -> dict[str, Word]:
        """The words of an op that reads or writes them as int8."""
        return {"codes": self.codes, "scales": self.scales, "sums": self.sums}

    def words(self, plan: LinearPlan) -> dict[str, Word]:
        """Return the words of the matmul ops of ``plan``."""
        return self.quantized if plan.activations == "int8" else {"codes": self.floats, "scales": 0, "sums": 0}

    def quantize(self, columns: int) -> tuple[Word, ...]:
        """Return the words of the op that makes int8 of the float32."""
        return QUANTIZE_ROWS.pack(x=self.floats, columns=columns, **self.quantized)


class Buffers:
    """Memory of the passes of one model. Large, but only the pages that a pass needs are ever touched.

    ``rows`` says of each row of a pass which position of which sequence it is (ROW_TYPE in kernels/engine/memory.py);
    ``slots`` is how many sequences' states there are room for. ``nbytes`` is what ``take`` was asked for so far.

    ``ids``, ``position_ids`` and ``type_ids`` int32 (batch,), ``x`` float32 (batch, n_embd), ``head_x`` (HEAD_TOKENS,
    n_embd) and ``logits`` (HEAD_TOKENS, n_vocab) are shared by all threads, and so is what `temp` gives; ``own`` is
    each thread's, for one token. ``batch`` is BATCH; where ``whole`` (tokens see those behind them, so that a pass
    takes all of a text), the positions. ``cos_sin`` holds float32 (positions, 2, n_rot) for each rotation of the model.
    ``head_rows`` are those of the ``rows`` that ``head_x`` holds.
    ``refined`` and ``own_refined`` are where lists of refined blocks stand, of all threads and of each, and ``crest``
    from which crest factor on blocks are; 0: none is.
    """

    def __init__(
        self,
        graph: Graph,
        positions: int,
        threads: int,
        crest: float = 0.0,
        slots: int = 1,
        take: Take = aligned,
    ) -> None:
        self._take, self.nbytes = take, 0
        self._temps: dict[tuple[str, int], int] = {}  # addresses by name and bytes
        self._keep: list[npt.NDArray[Any]] = []  # the memory there
        n_embd, n_vocab = graph.embedding.n_embd, graph.embedding.n_vocab
        self.positions, self._threads = positions, threads
        self.whole = not all(attention.causal for attention in graph.attentions())
        self.batch = positions if self.whole else BATCH
        self.slots = slots
        self.rows: npt.NDArray[np.void] = self._taken(self.batch, ROW_TYPE)
        self.ids: npt.NDArray[np.int32] = self._taken(self.batch, np.int32)
        self.position_ids: npt.NDArray[np.int32] = self._taken(self.batch, np.int32)
        self.type_ids: npt.NDArray[np.int32] = self._taken(self.batch, np.int32)  # zeros, until it is set
        self.x = self._floats(self.batch, n_embd)
        self.head_x = self._floats(HEAD_TOKENS, n_embd)
        self.head_rows: npt.NDArray[np.void] = self._taken(HEAD_TOKENS, ROW_TYPE)
        self.logits = self._floats(HEAD_TOKENS, n_vocab)
        self.cos_sin: dict[Rope, npt.NDArray[np.float32]] = {
            rope: self._floats(positions, 2 * rope.n_rot).reshape(positions, 2, -1) for rope in graph.ropes()
        }
        inputs = (getattr(part, "widest", 0) for part in graph.inputs)
        longest = max([n_embd, *inputs, *(mixer.widest for mixer in graph.mixers())])
        widest = -(-longest // 64) * 64  # in whole cache lines
        self._quantized = self._int8("quantized", widest)
        stride = -(-widest * 6 // 1024) * 1024  # of 4 bytes of floats, 1 of codes, and 3/8 of scales and sums
        self._own = self._taken(threads * stride)
        first = address(self._own)
        places = (first, *(first + widest * eighths // 8 for eighths in (32, 40, 41)))
        self.own = Activations(*(Own(place, stride) for place in places))
        self.crest = crest
        self.refined: Word = self.scratch("refined", self.batch * refined_bytes(widest)) if crest else 0
        self.own_refined: Word = self.own_scratch("own refined", refined_bytes(widest)) if crest else 0

    @cached_property
    def pairs(self) -> npt.NDArray[np.float32]:
        """Float32 (batch, 2 * n_embd): what the block of a multi-token-prediction head begins with."""
        return self._floats(self.batch, 2 * self.x.shape[1])

    def set_run(self, first: int, count: int, slot: int, position: int) -> None:
        """Let the rows of a pass from number ``first`` on be ``count`` successive tokens of the sequence in a slot,
        from a position on. It is all that the pass has of the sequence."""
        run = self.rows[first : first + count]
        run["position"] = np.arange(position, position + count)
        run["slot"], run["first"], run["run"] = slot, first, count

    def temp(self, name: str, columns: int) -> int:
        """The address of float32 (batch, columns) called ``name``, the same for every layer that asks alike."""
        return self.scratch(name, 4 * self.batch * columns)

    def scratch(self, name: str, count: int) -> int:
        """The address of ``count`` bytes called ``name``."""
        if (name, count) not in self._temps:
            memory = self._taken(count)
            self._keep.append(memory)
            self._temps[name, count] = address(memory)
        return self._temps[name, count]

    def own_scratch(self, name: str, count: int) -> Own:
        """The address of ``count`` bytes called ``name``, other ones for each thread."""
        stride = -(-count // LINE) * LINE
        return Own(self.scratch(name, self._threads * stride), stride)

    def shared(self, name: str, columns: int) -> Activations:
        """Activations of several tokens: floats of their own, int8 in the memory that all of these share."""
        return Activations(self.temp(name, columns), *self._quantized)

    def apart(self, name: str, columns: int) -> Activations:
        """Activations of several tokens, int8 in memory of their own, too. ``columns`` is a multiple of 32."""
        return Activations(self.temp(name, columns), *self._int8(name, columns))

    def written(self, texts: int, programs: Iterable[Program]) -> int:
        """Bytes of it that passes of these programs write at most, which give logits of one token of each of so many
        texts. What no op is told the address of is there for nothing: floats that are made int8 at once."""
        words = {
            word.address if isinstance(word, Own) else word
            for program in programs
            for op in program.ops
            for word in op.args
        }
        idle = sum(count for (_, count), place in self._temps.items() if place not in words)
        rows = HEAD_TOKENS - min(texts, HEAD_TOKENS)
        return self.nbytes - idle - rows * int(self.logits[0].nbytes + self.head_x[0].nbytes)

    def _int8(self, name: str, columns: int) -> tuple[int, int, int]:
        """Addresses of codes int8 (batch, columns), scales float32 (batch, columns / 32) and sums int32 (batch,
        columns / 16)."""
        size = self.batch * columns
        codes, scales = self.scratch(f"{name}: codes", size), self.scratch(f"{name}: scales", size // 8)
        return codes, scales, self.scratch(f"{name}: sums", size // 4)

    def _taken(self, count: int, dtype: Any = np.uint8) -> npt.NDArray[Any]:
        array = self._take(count, dtype)
        self.nbytes += int(array.nbytes)
        return array

    def _floats(self, rows: int, columns: int) -> npt.NDArray[np.float32]:
        made: npt.NDArray[np.float32] = self._taken(rows * columns, np.float32).reshape(rows, columns)
        return made
